import { describe, expect, it } from "vitest";

import { Pulse, livenessOf } from "./liveness";

describe("how old what is shown may be", () => {
  it.each([
    [0, Infinity, 0, { state: "live" }],
    [3_499, Infinity, 7_999, { state: "live" }],
    // The edge answers, and no market data comes.
    [0, 0, 8_000, { state: "stale", seconds: 8 }],
    [3_500, 9_999, 0, { state: "polling" }],
    [Infinity, 0, 0, { state: "polling" }],
    [90_000, 10_000, 0, { state: "stale", seconds: 10 }],
    [12_999, 60_000, 0, { state: "stale", seconds: 12 }],
    [Infinity, Infinity, 0, { state: "stale", seconds: 0 }],
  ])("streams %d ms, answers %d ms, candles %d ms ago", (streamMs, answerMs, candleMs, expected) => {
    expect(livenessOf(streamMs, answerMs, candleMs)).toEqual(expected);
  });

  it("is silent when an answer is owed, not when nobody asked", () => {
    const pulse = new Pulse();
    expect(pulse.ageMs(5)).toBe(Infinity);
    pulse.heard(1_000);
    // A tab in the background, whose timers stood still.
    expect(pulse.isSilent(90_000)).toBe(false);
    pulse.asked(90_000);
    pulse.asked(92_000);
    expect([pulse.isSilent(93_999), pulse.isSilent(94_000), pulse.ageMs(94_000)]).toEqual([
      false,
      true,
      93_000,
    ]);
    pulse.heard(94_500);
    expect([pulse.isSilent(94_500), pulse.ageMs(95_000)]).toEqual([false, 500]);
    pulse.asked(95_000);
    pulse.ended();
    expect(pulse.isSilent(200_000)).toBe(false);
  });
});
