import { describe, expect, it } from "vitest";

import { marketOf } from "./market";
import { type OrderAnswer, outcomeOf } from "./outcome";

const filters = [
  { filterType: "PRICE_FILTER", tickSize: "0.01000000" },
  { filterType: "LOT_SIZE", minQty: "0.00001", maxQty: "9000", stepSize: "0.00001" },
  { filterType: "NOTIONAL", minNotional: "5.00000000" },
];
const market = marketOf({
  symbol: "BTCUSDT",
  baseAsset: "BTC",
  quoteAsset: "USDT",
  marketSlippage: "0.05",
  filters,
} as unknown as Parameters<typeof marketOf>[0]);
const answer = (
  status: string,
  executedQty: string,
  cummulativeQuoteQty: string,
  side = "BUY",
): OrderAnswer =>
  // One of the statuses below is of a later release.
  ({
    orderId: 1,
    clientOrderId: "web-1",
    symbol: "BTCUSDT",
    side,
    type: "MARKET",
    price: "0",
    origQty: "5",
    executedQty,
    cummulativeQuoteQty,
    status,
  }) as OrderAnswer;

describe("what became of an order", () => {
  it.each<[OrderAnswer, string, boolean]>([
    [answer("FILLED", "5", "500000"), "Filled. Bought 5.00000 BTC at 100,000.00 USDT.", true],
    [
      answer("FILLED", "5", "500000.01", "SELL"),
      "Filled. Sold 5.00000 BTC at 100,000.00 USDT on average.",
      true,
    ],
    [answer("NEW", "0", "0"), "Order placed.", true],
    [
      answer("PARTIALLY_FILLED", "1.5", "150000"),
      "Bought 1.50000 of 5.00000 BTC at 100,000.00 USDT. The rest is resting in the book.",
      true,
    ],
    // A market order for 5 of which the book had 1.52: nobody may read that nobody took it.
    [
      answer("EXPIRED", "1.52", "151600.56", "SELL"),
      "Sold 1.52000 of 5.00000 BTC at 99,737.21 USDT on average. The rest expired: no more liquidity within the price limit.",
      false,
    ],
    [answer("EXPIRED", "0", "0"), "Expired; nothing was traded: no liquidity within the price limit.", false],
    [
      answer("EXPIRED_IN_MATCH", "0", "0"),
      "Nothing was traded. The rest expired: it would have matched an order of your own.",
      false,
    ],
    [
      answer("EXPIRED_IN_MATCH", "2", "200000"),
      "Bought 2.00000 of 5.00000 BTC at 100,000.00 USDT. The rest expired: it would have matched an order of your own.",
      false,
    ],
    [answer("CANCELED", "0", "0"), "Canceled; nothing was traded.", false],
    [
      answer("CANCELED", "2", "200000"),
      "Bought 2.00000 of 5.00000 BTC at 100,000.00 USDT. The rest was canceled.",
      false,
    ],
    [answer("HELD", "0", "0"), "The order is HELD.", false],
  ])("%#: %s", (given, text, isWhole) => {
    expect(outcomeOf(given, market)).toEqual({ text, isWhole });
  });
});
