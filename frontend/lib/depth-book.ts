/**
 * The order book of one market, kept current by differences.
 *
 * A difference covers the updates `first` to `last`. The book is at one update; it takes a difference that begins no later than the
 * next one and ends after it. An older one says nothing new. A later one leaves a gap: the book is worthless, take a new snapshot.
 */
import {
  type Money,
  type Price,
  type Quantity,
  ZERO_MONEY,
  ZERO_PRICE,
  ZERO_QUANTITY,
  affordable,
  notional,
  price,
  quantity,
  roundDown,
  share,
} from "./units";

type Level = readonly [price: Price, quantity: Quantity];
type Side = ReadonlyMap<Price, Quantity>;
type Texts = readonly (readonly [price: string, quantity: string])[];

export interface DepthBook {
  readonly updateId: number;
  readonly bids: Side;
  readonly asks: Side;
}

export interface DepthDiff {
  readonly first: number;
  readonly last: number;
  readonly bids: readonly Level[];
  readonly asks: readonly Level[];
}

export interface LadderRow {
  readonly price: Price;
  readonly quantity: Quantity;
  /** Of this row and all better ones. */
  readonly total: Quantity;
  /** `total` as a share of the deeper side's, for the bar. */
  readonly fill: number;
}

export interface Ladder {
  /** Best first. */
  readonly bids: readonly LadderRow[];
  readonly asks: readonly LadderRow[];
}

export const readLevels = (levels: Texts): Level[] => levels.map(([at, of]) => [price(at), quantity(of)]);

/** Return the book of a REST snapshot. */
export function bookOf(snapshot: { lastUpdateId: number; bids: Texts; asks: Texts }): DepthBook {
  return {
    updateId: snapshot.lastUpdateId,
    bids: new Map(readLevels(snapshot.bids)),
    asks: new Map(readLevels(snapshot.asks)),
  };
}

/** Return the book after a difference, the same book when it holds it already, or "gap". */
export function applyDiff(book: DepthBook, diff: DepthDiff): DepthBook | "gap" {
  if (diff.last <= book.updateId) return book;
  if (diff.first > book.updateId + 1) return "gap";
  return { updateId: diff.last, bids: changed(book.bids, diff.bids), asks: changed(book.asks, diff.asks) };
}

function changed(side: Side, levels: readonly Level[]): Side {
  if (levels.length === 0) return side;
  const copy = new Map(side);
  for (const [at, of] of levels) {
    if (of === 0n) copy.delete(at);
    else copy.set(at, of);
  }
  return copy;
}

/** Return a snapshot with all differences that were heard while it was on its way, or "gap" when some are missing. */
export function joined(snapshot: DepthBook, heard: readonly DepthDiff[]): DepthBook | "gap" {
  let book: DepthBook | "gap" = snapshot;
  for (const diff of heard) {
    if (book === "gap") return book;
    book = applyDiff(book, diff);
  }
  return book;
}

/** Return the best `rows` levels of each side, prices gathered in steps of `grouping` (bids down, asks up). */
export function ladder(book: DepthBook, rows: number, grouping: Price): Ladder {
  const bids = gathered(
    book.bids,
    rows,
    (at) => at - (at % grouping),
    (a, b) => (a > b ? -1 : 1),
  );
  const asks = gathered(
    book.asks,
    rows,
    (at) => at + ((grouping - (at % grouping)) % grouping),
    (a, b) => (a < b ? -1 : 1),
  );
  const deepest = [bids.at(-1)?.total, asks.at(-1)?.total].reduce<Quantity>(
    (most, total) => (total !== undefined && total > most ? total : most),
    ZERO_QUANTITY,
  );
  const filled = (side: Omit<LadderRow, "fill">[]): LadderRow[] =>
    side.map((row) => ({ ...row, fill: share(row.total, deepest) }));
  return { bids: filled(bids), asks: filled(asks) };
}

function gathered(
  side: Side,
  rows: number,
  groupOf: (at: bigint) => bigint,
  order: (a: bigint, b: bigint) => number,
): Omit<LadderRow, "fill">[] {
  const result: { price: Price; quantity: Quantity; total: Quantity }[] = [];
  let total = 0n;
  for (const [at, of] of [...side].sort(([a], [b]) => order(a, b))) {
    const group = groupOf(at) as Price;
    const open = result.at(-1);
    total += of;
    if (open?.price === group) {
      open.quantity = (open.quantity + of) as Quantity;
      open.total = total as Quantity;
    } else if (result.length === rows) {
      break;
    } else {
      result.push({ price: group, quantity: of, total: total as Quantity });
    }
  }
  return result;
}

/** Return the highest bid and lowest ask, null where a side is empty. */
export function bestPrices(book: DepthBook): { bid: Price | null; ask: Price | null } {
  let bid: Price | null = null;
  let ask: Price | null = null;
  for (const at of book.bids.keys()) if (bid === null || at > bid) bid = at;
  for (const at of book.asks.keys()) if (ask === null || at < ask) ask = at;
  return { bid, ask };
}

/** What an order would get from the book as it is. */
export interface Walk {
  readonly quantity: Quantity;
  /** In quote. */
  readonly cost: Money;
  /** Of the last level that it takes from; zero: of none. */
  readonly worst: Price;
}

/** Walk the other side of the book, best first: for a buyer the asks. `limit` is the worst price that is taken, null: any. */
export function walked(book: DepthBook, side: "BUY" | "SELL", wanted: Quantity, limit: Price | null): Walk {
  const levels = [...(side === "BUY" ? book.asks : book.bids)].sort(([a], [b]) =>
    (side === "BUY") === a < b ? -1 : 1,
  );
  let walk: Walk = { quantity: ZERO_QUANTITY, cost: ZERO_MONEY, worst: ZERO_PRICE };
  for (const [at, there] of levels) {
    const left = (wanted - walk.quantity) as Quantity;
    if (left <= 0n || (limit !== null && (side === "BUY" ? at > limit : at < limit))) break;
    const taken = there < left ? there : left;
    walk = {
      quantity: (walk.quantity + taken) as Quantity,
      cost: (walk.cost + notional(at, taken)) as Money,
      worst: at,
    };
  }
  return walk;
}

/** Return how much a buyer gets for `funds`, in whole lots, at no worse price than `limit`. */
export function bought(book: DepthBook, funds: Money, lot: Quantity, limit: Price): Quantity {
  let [left, got]: [bigint, bigint] = [funds, 0n];
  for (const [at, there] of [...book.asks].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (at > limit) break;
    const most = affordable(left as Money, at, lot);
    const taken = there < most ? there : most;
    got += taken;
    left -= notional(at, taken);
    if (taken < there) break;
  }
  return roundDown(got as Quantity, lot);
}
