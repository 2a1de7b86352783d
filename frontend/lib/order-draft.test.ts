import { describe, expect, it } from "vitest";

import type { Market } from "./market";
import { marketOf } from "./market";
import { type OrderDraft, checked, parametersOf } from "./order-draft";
import { money, price } from "./units";

const filters = [
  { filterType: "PRICE_FILTER", tickSize: "0.01000000" },
  { filterType: "LOT_SIZE", minQty: "0.00100000", maxQty: "90.00000000", stepSize: "0.00100000" },
  { filterType: "NOTIONAL", minNotional: "5.00000000" },
];
const market: Market = marketOf({ symbol: "SOLUSDT", baseAsset: "SOL", quoteAsset: "USDT", filters } as unknown as Parameters<typeof marketOf>[0]);
const funds = { base: money("10"), quote: money("1000") };
const limit: OrderDraft = { side: "BUY", kind: "LIMIT", price: "100.00", quantity: "2" };

describe("a draft", () => {
  it("knows the market's grid", () => {
    expect([market.priceDecimals, market.quantityDecimals]).toEqual([2, 3]);
    expect(() => marketOf({ symbol: "X", filters: [] } as unknown as Parameters<typeof marketOf>[0])).toThrow("PRICE_FILTER");
  });

  it("is right", () => {
    expect(checked(limit, market, null, funds)).toEqual({ total: money("200"), mistake: null, complete: true });
    expect(checked({ ...limit, quantity: "10" }, market, null, funds).mistake).toBeNull();
    expect(checked({ ...limit, quantity: "50" }, market, null, null).mistake).toBeNull();
    expect(checked({ side: "SELL", kind: "MARKET", price: "", quantity: "10" }, market, price("99.99"), funds)).toEqual({ total: money("999.9"), mistake: null, complete: true });
  });

  it.each<[Partial<OrderDraft>, string]>([
    [{ price: "x" }, "The price is not a number."],
    [{ price: "0" }, "The price must be above zero."],
    [{ price: "100.001" }, "The price must be a multiple of 0.01."],
    [{ quantity: "" }, "The quantity is not a number."],
    [{ quantity: "0.0001" }, "The least quantity is 0.001 SOL."],
    [{ quantity: "91" }, "The largest quantity is 90.000 SOL."],
    [{ quantity: "1.0005" }, "The quantity must be a multiple of 0.001."],
    [{ quantity: "0.049" }, "The least order is worth 5.00 USDT."],
    [{ quantity: "10.001" }, "Not enough USDT."],
    [{ side: "SELL", quantity: "10.001" }, "Not enough SOL."],
    [{ kind: "MARKET" }, "Nobody is on the other side of the book."],
  ])("says what is wrong with %j", (change, mistake) => {
    expect(checked({ ...limit, ...change }, market, null, funds).mistake).toBe(mistake);
  });

  it("is sent on the market's grid", () => {
    expect(parametersOf({ ...limit, price: " 100,5 " }, market, "web-1")).toEqual({
      symbol: "SOLUSDT", side: "BUY", type: "LIMIT", timeInForce: "GTC", price: "100.50", quantity: "2.000", newClientOrderId: "web-1",
    });
    expect(parametersOf({ ...limit, kind: "MARKET", price: "junk" }, market, "web-2")).not.toHaveProperty("price");
    expect(() => parametersOf({ ...limit, price: "" }, market, "web-3")).toThrow(RangeError);
  });
});
