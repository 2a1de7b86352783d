import { describe, expect, it } from "vitest";

import { type Account, NO_ACCOUNT, type OpenOrder, afterEvent, balanceOf, free, orderOf, refreshed, withoutOrder } from "./account";
import { money, quantity } from "./units";

const order = (id: number, executedQty = "0.0"): OpenOrder =>
  orderOf({ orderId: id, symbol: "BTCUSDT", side: "BUY", type: "LIMIT", price: "10", origQty: "2", executedQty, time: id, updateTime: id } as Parameters<typeof orderOf>[0]);
const report = (id: number, status: string, filled = "0.0") => ({ e: "executionReport", i: id, s: "BTCUSDT", S: "BUY", o: "LIMIT", p: "10", q: "2", z: filled, X: status, O: id, T: id });
const ids = (account: Account) => account.orders.map(({ id }) => id);

describe("an account", () => {
  const account = refreshed(NO_ACCOUNT, [balanceOf({ asset: "BTC", free: "1", locked: "0.5" })], [order(1), order(3), order(2)]);

  it("shows the newest orders first", () => {
    expect(ids(account)).toEqual([3, 2, 1]);
    expect([free(account, "BTC"), free(account, "USDT")]).toEqual([money("1"), 0n]);
  });

  it("follows its orders", () => {
    expect(ids(afterEvent(account, report(4, "NEW")))).toEqual([4, 3, 2, 1]);
    expect(ids(afterEvent(account, report(2, "CANCELED")))).toEqual([3, 1]);
    const partly = afterEvent(account, report(3, "PARTIALLY_FILLED", "1.5"));
    expect(partly.orders[0]?.filled).toBe(quantity("1.5"));
    expect(afterEvent(partly, report(3, "PARTIALLY_FILLED", "0.5"))).toBe(partly);
  });

  it("never opens again what was closed", () => {
    const closed = afterEvent(account, report(2, "FILLED", "2"));
    expect(ids(afterEvent(closed, report(2, "NEW")))).toEqual([3, 1]);
    expect(ids(refreshed(closed, [], [order(2), order(1)]))).toEqual([1]);
    expect(ids(withoutOrder(account, 3))).toEqual([2, 1]);
  });

  it("follows its funds", () => {
    const next = afterEvent(account, { e: "outboundAccountPosition", B: [{ a: "USDT", f: "7", l: "0" }, { a: "BTC", f: "0.25", l: "0" }] });
    expect([free(next, "BTC"), free(next, "USDT")]).toEqual([money("0.25"), money("7")]);
  });

  it("leaves out what it does not know", () => {
    for (const event of [null, 7, {}, { e: "listStatus" }]) expect(afterEvent(account, event)).toBe(account);
  });
});
