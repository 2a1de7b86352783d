import { describe, expect, it } from "vitest";

import { ExchangeClock } from "./clock";

/** A machine whose clock is 100 s behind; each question takes as long as `took` says, and the answer is written when it arrives at the exchange. */
function machine(took: readonly [there: number, back: number][], fails: readonly number[] = []) {
  let steady = 5_000;
  let set = 0;
  let question = 0;
  const clock = new ExchangeClock(
    async () => {
      const [there, back] = took[question % took.length] ?? [0, 0];
      const number = question;
      question += 1;
      steady += there;
      const time = 1_000_000 + steady;
      steady += back;
      if (fails.includes(number)) throw new Error("away");
      return time;
    },
    { wall: () => 900_000 + steady + set, steady: () => steady },
  );
  return {
    clock,
    exchange: () => 1_000_000 + steady,
    turn: (by: number) => {
      set += by;
    },
    pass: (by: number) => {
      steady += by;
    },
  };
}

describe("the exchange's time", () => {
  it("is taken from the quickest answer", async () => {
    // The first question is eight seconds on its way: its answer would be wrong by four.
    const { clock, exchange } = machine([
      [8_000, 0],
      [10, 10],
      [300, 100],
    ]);
    await clock.set();
    expect(clock.now()).toBe(exchange());
  });

  it("is taken when some answers are missing, and not when all are", async () => {
    const some = machine([[20, 20]], [0, 2]);
    await some.clock.set();
    expect(some.clock.now()).toBe(some.exchange());
    await expect(machine([[20, 20]], [0, 1, 2]).clock.set()).rejects.toThrow("away");
  });

  it("tells when the machine's clock was set", async () => {
    const { clock, exchange, turn, pass } = machine([[10, 10]]);
    await clock.set();
    pass(3_600_000);
    expect(clock.jumped()).toBe(false);
    turn(-60_000);
    expect(clock.jumped()).toBe(true);
    await clock.set();
    expect(clock.jumped()).toBe(false);
    expect(clock.now()).toBe(exchange());
  });
});
