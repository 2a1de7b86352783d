import { describe, expect, it } from "vitest";

import { bookOf } from "./depth-book";
import type { Market } from "./market";
import { marketOf } from "./market";
import { type OrderDraft, checked, parametersOf } from "./order-draft";
import { money } from "./units";

const filters = [
  { filterType: "PRICE_FILTER", tickSize: "0.01000000" },
  { filterType: "LOT_SIZE", minQty: "0.00100000", maxQty: "90.00000000", stepSize: "0.00100000" },
  { filterType: "NOTIONAL", minNotional: "5.00000000" },
];
const market: Market = marketOf({
  symbol: "SOLUSDT",
  baseAsset: "SOL",
  quoteAsset: "USDT",
  marketSlippage: "0.05",
  filters,
} as unknown as Parameters<typeof marketOf>[0]);
const funds = { base: money("10"), quote: money("1000") };
const rich = { base: money("1000"), quote: money("1000000") };
const limit: OrderDraft = { side: "BUY", kind: "LIMIT", price: "100.00", quantity: "2" };
const sellNow: OrderDraft = { side: "SELL", kind: "MARKET", price: "", quantity: "10" };
const book = bookOf({
  lastUpdateId: 1,
  bids: [
    ["100.00", "10"],
    ["99.50", "5"],
    ["94.00", "20"],
  ],
  asks: [
    ["100.10", "10"],
    ["101.00", "10"],
    ["103.00", "30"],
    ["106.00", "30"],
  ],
});

describe("a draft", () => {
  it("knows the market's grid", () => {
    expect([market.priceDecimals, market.quantityDecimals]).toEqual([2, 3]);
    expect(() => marketOf({ symbol: "X", filters: [] } as unknown as Parameters<typeof marketOf>[0])).toThrow(
      "PRICE_FILTER",
    );
  });

  it("is right", () => {
    expect(checked(limit, market, null, funds)).toEqual({
      total: money("200"),
      walk: null,
      mistake: null,
      warning: null,
      complete: true,
    });
    expect(checked({ ...limit, quantity: "10" }, market, null, funds).mistake).toBeNull();
    expect(checked({ ...limit, quantity: "50" }, market, null, null).mistake).toBeNull();
    expect(checked(sellNow, market, book, funds)).toMatchObject({
      total: money("1000"),
      mistake: null,
      warning: null,
      complete: true,
    });
  });

  it.each<[Partial<OrderDraft>, string]>([
    [{ price: "x" }, "The price is not a number."],
    [{ price: "0" }, "The price must be above zero."],
    [{ price: "100.001" }, "The price must be a multiple of 0.01."],
    [{ quantity: "" }, "The quantity is not a number."],
    [{ quantity: "0.0001" }, "Minimum quantity: 0.001 SOL."],
    [{ quantity: "91" }, "Maximum quantity: 90.000 SOL."],
    [{ quantity: "1.0005" }, "The quantity must be a multiple of 0.001."],
    [{ quantity: "0.049" }, "Minimum order value: 5.00 USDT."],
    [{ quantity: "10.001" }, "Not enough USDT."],
    [{ side: "SELL", quantity: "10.001" }, "Not enough SOL."],
    [{ kind: "MARKET" }, "No liquidity on the other side of the book."],
    // A thousand, or one: the page itself writes thousands with commas.
    [{ quantity: "1,000" }, "The quantity can be 1000 or 1.000: write it so."],
    [{ price: "120,000" }, "The price can be 120000 or 120.000: write it so."],
  ])("says what is wrong with %j", (change, mistake) => {
    expect(checked({ ...limit, ...change }, market, null, funds).mistake).toBe(mistake);
  });

  it("takes a price as the page shows it", () => {
    expect(checked({ ...limit, price: "64,250.10", quantity: "1" }, market, null, rich)).toMatchObject({
      total: money("64250.1"),
      mistake: null,
    });
  });

  it("says what the book would give for it", () => {
    // 10 at 100.00, 5 at 99.50; what bids 94.00 is out of reach.
    expect(checked({ ...sellNow, quantity: "20" }, market, book, rich).total).toBe(money("1497.5"));
    // Of a limit order it is its price times its quantity; what would be traded at once is in the walk.
    expect(checked({ ...limit, price: "101.00", quantity: "15" }, market, book, rich)).toMatchObject({
      total: money("1515"),
      walk: { quantity: 15_00000000n, cost: money("1506") },
    });
  });

  it.each<[Partial<OrderDraft>, string | null]>([
    [{ price: "105.10" }, null],
    [{ price: "105.12" }, "The price is 5.01% above the best one, 100.10."],
    [{ price: "400.00" }, "The price is 299.60% above the best one, 100.10."],
    [{ price: "90.00" }, null],
    [{ side: "SELL", price: "95.00" }, null],
    [{ side: "SELL", price: "94.99" }, "The price is 5.01% below the best one, 100.00."],
    [{ side: "SELL", price: "200.00" }, null],
    [{ kind: "MARKET", quantity: "20" }, null],
    // 10 at 100.10, 10 at 101.00, 30 at 103.00: 102.02 on average.
    [
      { kind: "MARKET", quantity: "50" },
      "It would trade at 102.02 on average, up to 103.00: 1.92% above the best price.",
    ],
    // Of the 80 that are there, 30 are more than 5 % from the best price, and out of a market order's reach.
    [
      { kind: "MARKET", quantity: "51" },
      "The book has 50.000 SOL within 5.00% of the best price; the rest would expire.",
    ],
    [{ side: "SELL", kind: "MARKET", quantity: "15" }, null],
    [
      { side: "SELL", kind: "MARKET", quantity: "16" },
      "The book has 15.000 SOL within 5.00% of the best price; the rest would expire.",
    ],
  ])("asks whether %j is meant: %s", (change, warning) => {
    const found = checked({ ...limit, ...change }, market, book, rich);
    expect([found.mistake, found.warning]).toEqual([null, warning]);
  });

  it("is sent on the market's grid", () => {
    expect(parametersOf({ ...limit, price: " 100,5 " }, market, "web-1")).toEqual({
      symbol: "SOLUSDT",
      side: "BUY",
      type: "LIMIT",
      timeInForce: "GTC",
      price: "100.50",
      quantity: "2.000",
      newClientOrderId: "web-1",
    });
    expect(parametersOf({ ...limit, kind: "MARKET", price: "junk" }, market, "web-2")).not.toHaveProperty(
      "price",
    );
    expect(() => parametersOf({ ...limit, price: "" }, market, "web-3")).toThrow(RangeError);
    expect(() => parametersOf({ ...limit, quantity: "1,000" }, market, "web-4")).toThrow(RangeError);
  });
});
