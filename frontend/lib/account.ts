/**
 * An account's funds and open orders: taken from REST, then kept current by its own stream.
 *
 * Both come over different ways, so what is older than what is known already is left out: orders by their update's time, and an
 * order that was closed never opens again.
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

export interface Account {
  readonly balances: readonly Balance[];
  /** Newest first. */
  readonly orders: readonly OpenOrder[];
  /** Ids of orders that were seen closed. */
  readonly closed: ReadonlySet<number>;
}

export const NO_ACCOUNT: Account = { balances: [], orders: [], closed: new Set() };

type OrderShape = components["schemas"]["OrderShape"];
type BalanceShape = components["schemas"]["BalanceShape"];

const OPEN: ReadonlySet<string> = new Set(["NEW", "PARTIALLY_FILLED"]);

export const balanceOf = (shape: BalanceShape): Balance => ({ asset: shape.asset, free: money(shape.free), locked: money(shape.locked) });

export function orderOf(shape: OrderShape): OpenOrder {
  return {
    id: shape.orderId, symbol: shape.symbol, side: shape.side as OrderSide, kind: shape.type as OrderKind, price: price(shape.price),
    quantity: quantity(shape.origQty), filled: quantity(shape.executedQty), time: shape.time, updated: shape.updateTime,
  };
}

/** Return the account as REST shows it; what was seen closed while the answer was on its way stays closed. */
export function refreshed(account: Account, balances: readonly Balance[], orders: readonly OpenOrder[]): Account {
  const open = orders.filter((order) => !account.closed.has(order.id));
  return { ...account, balances, orders: newestFirst(open) };
}

/** Return the account without an order. */
export function withoutOrder(account: Account, id: number): Account {
  return { ...account, orders: account.orders.filter((order) => order.id !== id), closed: new Set([...account.closed, id]) };
}

/** Return the account after an event of its own stream; events of other kinds change nothing. */
export function afterEvent(account: Account, event: unknown): Account {
  if (typeof event !== "object" || event === null) return account;
  const { e } = event as { e?: unknown };
  if (e === "executionReport") return afterReport(account, event as ExecutionReport);
  if (e === "outboundAccountPosition") return afterPosition(account, event as AccountPosition);
  return account;
}

interface ExecutionReport { i: number; s: string; S: OrderSide; o: OrderKind; p: string; q: string; z: string; X: string; O: number; T: number }
interface AccountPosition { B: readonly { a: string; f: string; l: string }[] }

function afterReport(account: Account, report: ExecutionReport): Account {
  if (!OPEN.has(report.X)) return withoutOrder(account, report.i);
  const known = account.orders.find((order) => order.id === report.i);
  const filled = quantity(report.z);
  if (account.closed.has(report.i) || (known !== undefined && known.filled > filled)) return account;
  const order: OpenOrder = {
    id: report.i, symbol: report.s, side: report.S, kind: report.o, price: price(report.p), quantity: quantity(report.q), filled,
    time: report.O, updated: report.T,
  };
  return { ...account, orders: newestFirst([...account.orders.filter((other) => other.id !== order.id), order]) };
}

function afterPosition(account: Account, position: AccountPosition): Account {
  const changed = new Map(position.B.map(({ a, f, l }) => [a, { asset: a, free: money(f), locked: money(l) }]));
  const known = account.balances.map((balance) => changed.get(balance.asset) ?? balance);
  const assets = new Set(account.balances.map((balance) => balance.asset));
  return { ...account, balances: [...known, ...[...changed.values()].filter((balance) => !assets.has(balance.asset))] };
}

const newestFirst = (orders: readonly OpenOrder[]): OpenOrder[] => [...orders].sort((a, b) => b.time - a.time || b.id - a.id);

/** Return what is free in an asset. */
export function free(account: Account, asset: string): Money {
  return account.balances.find((balance) => balance.asset === asset)?.free ?? ZERO_MONEY;
}
