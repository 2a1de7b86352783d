import { describe, expect, it } from "vitest";

import {
  type Account,
  type Asked,
  NO_ACCOUNT,
  type OpenOrder,
  afterEvent,
  asked,
  balanceOf,
  free,
  orderOf,
  placed,
  refreshed,
  unanswered,
  withoutOrder,
} from "./account";
import { money, quantity } from "./units";

const order = (id: number, executedQty = "0.0"): OpenOrder =>
  orderOf({
    orderId: id,
    symbol: "BTCUSDT",
    side: "BUY",
    type: "LIMIT",
    price: "10",
    origQty: "2",
    executedQty,
    time: id,
    updateTime: id,
  } as Parameters<typeof orderOf>[0]);
const report = (id: number, status: string, filled = "0.0") => ({
  e: "executionReport",
  i: id,
  s: "BTCUSDT",
  S: "BUY",
  o: "LIMIT",
  p: "10",
  q: "2",
  z: filled,
  X: status,
  O: id,
  T: id,
});
const position = (asset: string, f: string, l = "0") => ({
  e: "outboundAccountPosition",
  B: [{ a: asset, f, l }],
});
const ids = (account: Account) => account.orders.map(({ id }) => id);
const usdt = (amount: string) => [balanceOf({ asset: "USDT", free: amount, locked: "0" })];

/** The account after a question that was answered at once. */
function answeredNow(
  account: Account,
  balances: Parameters<typeof refreshed>[2],
  orders: readonly OpenOrder[],
): Account {
  const [asking, at] = asked(account);
  return refreshed(asking, at, balances, orders);
}

describe("an account", () => {
  const account = answeredNow(
    NO_ACCOUNT,
    [balanceOf({ asset: "BTC", free: "1", locked: "0.5" })],
    [order(1), order(3), order(2)],
  );

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

  it("keeps an order that was placed while the answer was on its way", () => {
    const [asking, at] = asked(account);
    const [sending, sent] = asked(asking);
    const now = afterEvent(placed(sending, sent, order(9), "NEW"), position("USDT", "7", "9"));
    const later = refreshed(now, at, usdt("16"), [order(1), order(2), order(3)]);
    expect(ids(later)).toEqual([9, 3, 2, 1]);
    expect(free(later, "USDT")).toBe(money("7"));
    // The next answer is of now.
    expect(ids(answeredNow(later, usdt("16"), [order(1)]))).toEqual([1]);
    expect(free(answeredNow(later, usdt("16"), [order(1)]), "USDT")).toBe(money("16"));
  });

  it("does not open again what was closed while the answer was on its way", () => {
    const [asking, at] = asked(account);
    expect(
      ids(refreshed(afterEvent(asking, report(2, "FILLED", "2")), at, [], [order(3), order(2), order(1)])),
    ).toEqual([3, 1]);
    expect(ids(refreshed(withoutOrder(asking, 3), at, [], [order(3), order(2), order(1)]))).toEqual([2, 1]);
  });

  it("leaves out the answer to an order that its stream has told of already", () => {
    const [sending, at] = asked(account);
    const filled = afterEvent(afterEvent(sending, report(9, "NEW")), report(9, "FILLED", "2"));
    expect(ids(placed(filled, at, order(9), "NEW"))).toEqual([3, 2, 1]);
    expect(ids(placed(sending, at, order(9), "FILLED"))).toEqual([3, 2, 1]);
  });

  it("leaves out an answer to an earlier question than the last one that was answered", () => {
    const [first, early] = asked(account);
    const [second, late] = asked(first);
    const now = refreshed(second, late, usdt("5"), [order(5)]);
    expect(ids(refreshed(now, early, usdt("1"), [order(1)]))).toEqual([5]);
    expect(free(refreshed(now, early, usdt("1"), [order(1)]), "USDT")).toBe(money("5"));
  });

  it("remembers nothing of what it heard when no question is open", () => {
    let now = account;
    for (let id = 10; id < 200; id += 1)
      now = afterEvent(afterEvent(now, report(id, "NEW")), report(id, "FILLED", "2"));
    expect(now.heard.size).toBe(0);
    const [asking, at] = asked(now);
    const heard = afterEvent(asking, report(500, "NEW"));
    expect(heard.heard.size).toBe(1);
    expect(unanswered(heard, at).heard.size).toBe(0);
  });

  it("follows its funds", () => {
    const next = afterEvent(account, {
      e: "outboundAccountPosition",
      B: [
        { a: "USDT", f: "7", l: "0" },
        { a: "BTC", f: "0.25", l: "0" },
      ],
    });
    expect([free(next, "BTC"), free(next, "USDT")]).toEqual([money("0.25"), money("7")]);
  });

  it("leaves out what it does not know", () => {
    for (const event of [null, 7, {}, { e: "listStatus" }]) expect(afterEvent(account, event)).toBe(account);
  });
});

/** Whole numbers below a bound, the same for the same seed. */
function numbers(seed: number): (below: number) => number {
  let state = seed + 1;
  return (below) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % below;
  };
}

describe("any order in which answers and events arrive", () => {
  it.each(Array.from({ length: 300 }, (_, seed) => seed))("ends in what the exchange has (%i)", (seed) => {
    const next = numbers(seed);
    // The exchange: an order's state, and one balance. What it says goes into the stream in order; questions are answered some time later.
    const open = new Map<number, OpenOrder>();
    let balance = 100;
    const stream: unknown[] = [];
    const waiting: { at: Asked; answer: (() => [string, OpenOrder[]]) | [string, OpenOrder[]] }[] = [];
    let page: Account = answeredNow(NO_ACCOUNT, usdt("100"), []);
    let id = 0;
    const state = (): [string, OpenOrder[]] => [String(balance), [...open.values()]];
    for (let step = 0; step < 60; step += 1) {
      switch (next(5)) {
        case 0: {
          id += 1;
          open.set(id, order(id));
          balance -= 1;
          stream.push(report(id, "NEW"), position("USDT", String(balance)));
          break;
        }
        case 1: {
          const [closed] = [...open.keys()].slice(next(Math.max(1, open.size)));
          if (closed === undefined) break;
          open.delete(closed);
          balance += 1;
          stream.push(report(closed, "CANCELED"), position("USDT", String(balance)));
          break;
        }
        case 2:
          if (stream.length > 0) page = afterEvent(page, stream.shift());
          break;
        case 3: {
          const [asking, at] = asked(page);
          page = asking;
          // The exchange looks at once, or when the answer leaves.
          waiting.push({ at, answer: next(2) === 0 ? state() : state });
          break;
        }
        default: {
          const [found] = waiting.splice(next(Math.max(1, waiting.length)), 1);
          if (found === undefined) break;
          const [amount, orders] = typeof found.answer === "function" ? found.answer() : found.answer;
          page = next(4) === 0 ? unanswered(page, found.at) : refreshed(page, found.at, usdt(amount), orders);
        }
      }
    }
    for (const event of stream) page = afterEvent(page, event);
    for (const { at, answer } of waiting) {
      const [amount, orders] = typeof answer === "function" ? answer() : answer;
      page = refreshed(page, at, usdt(amount), orders);
    }
    expect(ids(page)).toEqual([...open.keys()].sort((a, b) => b - a));
    expect(free(page, "USDT")).toBe(money(String(balance)));
    expect([page.open, page.heard.size]).toEqual([[], 0]);
  });
});
