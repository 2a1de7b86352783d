import { expect, it } from "vitest";

import { withTrades } from "./market-data";
import {
  depthStream,
  klineStream,
  readDepth,
  readKline,
  readTicker,
  readTrade,
  tickerStream,
  tradeStream,
} from "./streams";
import { price, quantity } from "./units";

it("names streams", () => {
  expect([
    depthStream("BTCUSDT"),
    tradeStream("BTCUSDT"),
    klineStream("BTCUSDT", "1M"),
    tickerStream("BTCUSDT"),
  ]).toEqual(["btcusdt@depth@100ms", "btcusdt@trade", "btcusdt@kline_1M", "btcusdt@ticker"]);
});

it("reads each kind, and only it", () => {
  const trade = { e: "trade", t: 5, p: "10.5", q: "0.1", T: 99, m: true };
  expect(readTrade(trade)).toEqual({
    id: 5,
    time: 99,
    price: price("10.5"),
    quantity: quantity("0.1"),
    takerSide: "SELL",
  });
  expect(readDepth({ e: "depthUpdate", U: 3, u: 4, b: [["1", "2"]], a: [] })).toEqual({
    first: 3,
    last: 4,
    bids: [[price("1"), quantity("2")]],
    asks: [],
  });
  expect(readKline({ e: "kline", k: { t: 60_000, o: "1", h: "2", l: "0.5", c: "1.5", v: "9" } })?.close).toBe(
    price("1.5"),
  );
  expect(
    readTicker({ e: "24hrTicker", s: "BTCUSDT", c: "2", o: "1", h: "3", l: "1", v: "4", q: "8" })?.last,
  ).toBe(price("2"));
  for (const read of [readDepth, readKline, readTicker]) expect(read(trade)).toBeNull();
  expect(readTrade(null)).toBeNull();
});

it("keeps each trade once, newest first", () => {
  const trade = (id: number) => ({
    id,
    time: id,
    price: price("1"),
    quantity: quantity("1"),
    takerSide: "BUY" as const,
  });
  expect(withTrades([trade(3), trade(2)], [trade(2), trade(4)], 3).map(({ id }) => id)).toEqual([4, 3, 2]);
});
