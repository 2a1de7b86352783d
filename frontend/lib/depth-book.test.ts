import { describe, expect, it } from "vitest";

import {
  type DepthBook,
  type DepthDiff,
  applyDiff,
  bestPrices,
  bookOf,
  bought,
  joined,
  ladder,
  readLevels,
  walked,
} from "./depth-book";
import { money, price, quantity, show } from "./units";

const snapshot = bookOf({
  lastUpdateId: 10,
  bids: [
    ["100.00", "1"],
    ["99.99", "2"],
    ["99.50", "4"],
  ],
  asks: [
    ["100.01", "1"],
    ["100.02", "3"],
    ["100.55", "5"],
  ],
});

const diff = (
  first: number,
  last: number,
  bids: [string, string][] = [],
  asks: [string, string][] = [],
): DepthDiff => ({ first, last, bids: readLevels(bids), asks: readLevels(asks) });

function drawn(book: DepthBook, rows = 9, grouping = "0.01"): string {
  const { bids, asks } = ladder(book, rows, price(grouping));
  const side = (levels: typeof bids) =>
    levels.map((row) => `${show(row.price, 2)}×${show(row.quantity, 0)}(${show(row.total, 0)})`).join(" ");
  return `${side(bids)} | ${side(asks)}`;
}

describe("a book", () => {
  it("takes the differences that follow on it", () => {
    const next = applyDiff(
      snapshot,
      diff(
        11,
        12,
        [
          ["100.00", "0.00000000"],
          ["99.98", "7"],
        ],
        [["100.01", "9"]],
      ),
    );
    expect(next).not.toBe("gap");
    expect(drawn(next as DepthBook)).toBe(
      "99.99×2(2) 99.98×7(9) 99.50×4(13) | 100.01×9(9) 100.02×3(12) 100.55×5(17)",
    );
    expect((next as DepthBook).updateId).toBe(12);
    expect(drawn(snapshot)).toBe("100.00×1(1) 99.99×2(3) 99.50×4(7) | 100.01×1(1) 100.02×3(4) 100.55×5(9)");
  });

  it("leaves out what it holds already, and takes what overlaps", () => {
    expect(applyDiff(snapshot, diff(8, 10, [["100.00", "5"]]))).toBe(snapshot);
    expect((applyDiff(snapshot, diff(8, 11, [["100.00", "5"]])) as DepthBook).updateId).toBe(11);
  });

  it("refuses a gap", () => {
    expect(applyDiff(snapshot, diff(12, 13))).toBe("gap");
  });

  it("joins a snapshot with what was heard meanwhile", () => {
    const heard = [
      diff(7, 9, [["1.00", "1"]]),
      diff(10, 11, [["99.97", "1"]]),
      diff(12, 12, [
        ["99.97", "0"],
        ["99.96", "2"],
      ]),
    ];
    expect(drawn(joined(snapshot, heard) as DepthBook)).toContain("99.96×2");
    expect(drawn(joined(snapshot, heard) as DepthBook)).not.toContain("99.97");
    expect(joined(snapshot, [diff(13, 14)])).toBe("gap");
    expect(joined(snapshot, [diff(11, 11), diff(13, 14)])).toBe("gap");
    expect(joined(snapshot, [])).toBe(snapshot);
  });

  it("gathers levels away from the spread, with totals and bars", () => {
    expect(drawn(snapshot, 9, "0.10")).toBe("100.00×1(1) 99.90×2(3) 99.50×4(7) | 100.10×4(4) 100.60×5(9)");
    expect(drawn(snapshot, 2)).toBe("100.00×1(1) 99.99×2(3) | 100.01×1(1) 100.02×3(4)");
    const { bids, asks } = ladder(snapshot, 9, price("0.01"));
    expect(asks.at(-1)?.fill).toBe(1);
    expect(bids.at(-1)?.fill).toBe(0.7777);
  });

  it("knows its best prices", () => {
    expect(bestPrices(snapshot)).toEqual({ bid: price("100"), ask: price("100.01") });
    expect(bestPrices(bookOf({ lastUpdateId: 0, bids: [], asks: [] }))).toEqual({ bid: null, ask: null });
  });

  it("is walked, best first, as an order would", () => {
    const walk = (side: "BUY" | "SELL", of: string, limit: string | null = null) => {
      const {
        quantity: got,
        cost,
        worst,
      } = walked(snapshot, side, quantity(of), limit === null ? null : price(limit));
      return [got, cost, worst];
    };
    expect(walk("BUY", "0.5")).toEqual([quantity("0.5"), money("50.005"), price("100.01")]);
    // 1 at 100.01, 3 at 100.02, 2 at 100.55.
    expect(walk("BUY", "6")).toEqual([quantity("6"), money("601.17"), price("100.55")]);
    expect(walk("BUY", "100")).toEqual([quantity("9"), money("902.82"), price("100.55")]);
    expect(walk("BUY", "100", "100.54")).toEqual([quantity("4"), money("400.07"), price("100.02")]);
    expect(walk("SELL", "2", "99.99")).toEqual([quantity("2"), money("199.99"), price("99.99")]);
    expect(walk("SELL", "2", "100.01")).toEqual([0n, 0n, 0n]);
  });

  it("gives a buyer as much as the money pays for", () => {
    const most = (funds: string, limit = "1000") =>
      bought(snapshot, money(funds), quantity("0.001"), price(limit));
    expect(most("50.00")).toBe(quantity("0.499"));
    // 1 at 100.01, and for what is left 0.999 at 100.02.
    expect(most("200.00")).toBe(quantity("1.999"));
    expect(most("10000")).toBe(quantity("9"));
    expect(most("10000", "100.02")).toBe(quantity("4"));
    expect(most("0.05")).toBe(0n);
  });
});
