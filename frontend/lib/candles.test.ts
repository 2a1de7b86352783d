import { expect, it } from "vitest";

import { candleOfRow, merged } from "./candles";
import { price, quantity } from "./units";

const candle = (time: number, close: string) =>
  candleOfRow([time, "1.00", "9.00", "0.50", close, "3.25", time + 59_999, "0", 4]);

it("reads a row", () => {
  expect(candle(60_000, "2.00")).toEqual({
    time: 60_000,
    open: price("1"),
    high: price("9"),
    low: price("0.5"),
    close: price("2"),
    volume: quantity("3.25"),
  });
});

it("appends, replaces, fills in, and lets the oldest go", () => {
  const old = [candle(1, "1"), candle(2, "2"), candle(4, "4")];
  const closes = (newer: typeof old, most = 9) =>
    merged(old, newer, most).map(({ time, close }) => [time, Number(close / price("1"))]);
  expect(closes([candle(5, "5")])).toEqual([
    [1, 1],
    [2, 2],
    [4, 4],
    [5, 5],
  ]);
  expect(closes([candle(4, "8")])).toEqual([
    [1, 1],
    [2, 2],
    [4, 8],
  ]);
  expect(closes([candle(3, "3"), candle(5, "5")])).toEqual([
    [1, 1],
    [2, 2],
    [3, 3],
    [4, 4],
    [5, 5],
  ]);
  expect(closes([candle(5, "5")], 2)).toEqual([
    [4, 4],
    [5, 5],
  ]);
  expect(closes([])).toEqual([
    [1, 1],
    [2, 2],
    [4, 4],
  ]);
  expect(merged([], [candle(1, "1")], 9)).toHaveLength(1);
});
