/**
 * An account's funds and open orders: taken from REST, then kept current by its own stream.
 *
 * Both come over different ways, and an answer may be older than what has been heard since it was asked for. So the account counts what
 * it hears: a question begins with `asked`, and its answer leaves alone whatever was heard of after that. An answer to an earlier
 * question than one that was answered already changes nothing.
 */
import type { components } from "./api-types";
import type { OrderKind, OrderSide } from "./order-draft";
import { type Money, type Price, type Quantity, ZERO_MONEY, money, price, quantity } from "./units";

export interface Balance {
  readonly asset: string;
  readonly free: Money;
  readonly locked: Money;
}

export interface OpenOrder {
  readonly id: number;
  readonly symbol: string;
  readonly side: OrderSide;
  readonly kind: OrderKind;
  readonly price: Price;
  readonly quantity: Quantity;
  readonly filled: Quantity;
  readonly time: number;
  readonly updated: number;
}

/** When a question was asked, in what the account counts. */
export type Asked = number & { readonly asked: unique symbol };

export interface Account {
  readonly balances: readonly Balance[];
  /** Newest first. */
  readonly orders: readonly OpenOrder[];
  /** Counts questions and what is heard. */
  readonly count: number;
  /** The questions that are not answered yet. */
  readonly open: readonly Asked[];
  /** The newest question of all whose answer was taken. */
  readonly answered: number;
  /** Order id or asset -> when it was last heard of; kept while a question is open that was asked before. */
  readonly heard: ReadonlyMap<number | string, number>;
}

export const NO_ACCOUNT: Account = {
  balances: [],
  orders: [],
  count: 0,
  open: [],
  answered: 0,
  heard: new Map(),
};

type OrderShape = components["schemas"]["OrderShape"];
type BalanceShape = components["schemas"]["BalanceShape"];

const OPEN: ReadonlySet<string> = new Set(["NEW", "PARTIALLY_FILLED"]);

export const balanceOf = (shape: BalanceShape): Balance => ({
  asset: shape.asset,
  free: money(shape.free),
  locked: money(shape.locked),
});

export function orderOf(shape: OrderShape): OpenOrder {
  return {
    id: shape.orderId,
    symbol: shape.symbol,
    side: shape.side as OrderSide,
    kind: shape.type as OrderKind,
    price: price(shape.price),
    quantity: quantity(shape.origQty),
    filled: quantity(shape.executedQty),
    time: shape.time,
    updated: shape.updateTime,
  };
}

/** Return the account while a question is on its way, and when that was asked. Whatever comes of it: `refreshed`, `placed` or `unanswered`. */
export function asked(account: Account): [Account, Asked] {
  const count = account.count + 1;
  return [{ ...account, count, open: [...account.open, count as Asked] }, count as Asked];
}

/** Return the account after a question that led to nothing. */
export function unanswered(account: Account, at: Asked): Account {
  const open = account.open.filter((each) => each !== at);
  const oldest = Math.min(...open);
  return { ...account, open, heard: new Map([...account.heard].filter(([, when]) => when > oldest)) };
}

/** Return the account as REST shows it, but for what was heard of since it was asked for. */
export function refreshed(
  account: Account,
  at: Asked,
  balances: readonly Balance[],
  orders: readonly OpenOrder[],
): Account {
  const rest = unanswered(account, at);
  if (at < account.answered) return rest;
  const isNewer = (what: number | string) => (account.heard.get(what) ?? 0) > at;
  return {
    ...rest,
    answered: at,
    balances: merged(account.balances, balances, (balance) => balance.asset, isNewer),
    orders: newestFirst(merged(account.orders, orders, (order) => order.id, isNewer)),
  };
}

/** Return what an answer says, in its order, with what is known better left as it is: there, or not. */
function merged<T>(
  known: readonly T[],
  found: readonly T[],
  name: (item: T) => number | string,
  isNewer: (what: number | string) => boolean,
): T[] {
  const kept = new Map(known.filter((item) => isNewer(name(item))).map((item) => [name(item), item]));
  const result = found.flatMap((item) => (isNewer(name(item)) ? (kept.get(name(item)) ?? []) : item));
  const there = new Set(result.map(name));
  return [...result, ...[...kept.values()].filter((item) => !there.has(name(item)))];
}

/** Return the account with an order that was answered, unless its stream has told of it already. */
export function placed(account: Account, at: Asked, order: OpenOrder, status: string): Account {
  const rest = unanswered(account, at);
  if (!OPEN.has(status) || account.heard.has(order.id) || account.orders.some(({ id }) => id === order.id))
    return rest;
  return heardOf({ ...rest, orders: newestFirst([...rest.orders, order]) }, [order.id]);
}

/** Return the account without an order. */
export function withoutOrder(account: Account, id: number): Account {
  return heardOf({ ...account, orders: account.orders.filter((order) => order.id !== id) }, [id]);
}

function heardOf(account: Account, names: readonly (number | string)[]): Account {
  const count = account.count + 1;
  const heard =
    account.open.length === 0
      ? account.heard
      : new Map([...account.heard, ...names.map((name) => [name, count] as const)]);
  return { ...account, count, heard };
}

/** Return the account after an event of its own stream; events of other kinds change nothing. */
export function afterEvent(account: Account, event: unknown): Account {
  if (typeof event !== "object" || event === null) return account;
  const { e } = event as { e?: unknown };
  if (e === "executionReport") return afterReport(account, event as ExecutionReport);
  if (e === "outboundAccountPosition") return afterPosition(account, event as AccountPosition);
  return account;
}

interface ExecutionReport {
  i: number;
  s: string;
  S: OrderSide;
  o: OrderKind;
  p: string;
  q: string;
  z: string;
  X: string;
  O: number;
  T: number;
}
interface AccountPosition {
  B: readonly { a: string; f: string; l: string }[];
}

function afterReport(account: Account, report: ExecutionReport): Account {
  if (!OPEN.has(report.X)) return withoutOrder(account, report.i);
  const known = account.orders.find((order) => order.id === report.i);
  const filled = quantity(report.z);
  if (known !== undefined && known.filled > filled) return account;
  const order: OpenOrder = {
    id: report.i,
    symbol: report.s,
    side: report.S,
    kind: report.o,
    price: price(report.p),
    quantity: quantity(report.q),
    filled,
    time: report.O,
    updated: report.T,
  };
  return heardOf(
    { ...account, orders: newestFirst([...account.orders.filter((other) => other.id !== order.id), order]) },
    [order.id],
  );
}

function afterPosition(account: Account, position: AccountPosition): Account {
  const changed = new Map(
    position.B.map(({ a, f, l }) => [a, { asset: a, free: money(f), locked: money(l) }]),
  );
  const known = account.balances.map((balance) => changed.get(balance.asset) ?? balance);
  const assets = new Set(account.balances.map((balance) => balance.asset));
  const balances = [...known, ...[...changed.values()].filter((balance) => !assets.has(balance.asset))];
  return heardOf({ ...account, balances }, [...changed.keys()]);
}

const newestFirst = (orders: readonly OpenOrder[]): OpenOrder[] =>
  [...orders].sort((a, b) => b.time - a.time || b.id - a.id);

/** Return what is free in an asset. */
export function free(account: Account, asset: string): Money {
  return account.balances.find((balance) => balance.asset === asset)?.free ?? ZERO_MONEY;
}
