/** An order as it stands in the form: what is wrong with it, what it costs, and how it is sent. */
import type { Market } from "./market";
import { type Money, type Price, type Quantity, format, notional, readPrice, readQuantity, roundDown, show } from "./units";

export type OrderSide = "BUY" | "SELL";
export type OrderKind = "LIMIT" | "MARKET";

export interface OrderDraft {
  readonly side: OrderSide;
  readonly kind: OrderKind;
  /** As typed; a market order has none. */
  readonly price: string;
  readonly quantity: string;
}

export interface CheckedOrder {
  /** Price × quantity; of a market order at the best price, null when there is none. */
  readonly total: Money | null;
  /** Null when it can be sent. */
  readonly mistake: string | null;
  /** Whether so much has been typed that the mistake should be shown. */
  readonly complete: boolean;
}

/** Check a draft by the market's rules and the funds at hand (null: unknown, nobody is signed in). */
export function checked(draft: OrderDraft, market: Market, best: Price | null, funds: { base: Money; quote: Money } | null): CheckedOrder {
  const at = draft.kind === "MARKET" ? best : readPrice(draft.price);
  const of = readQuantity(draft.quantity);
  const total = at !== null && of !== null ? notional(at, of) : null;
  const complete = draft.quantity !== "" && (draft.kind === "MARKET" || draft.price !== "");
  return { total, complete, mistake: mistakeIn(draft, market, at, of, total, funds) };
}

function mistakeIn(draft: OrderDraft, market: Market, at: Price | null, of: Quantity | null, total: Money | null, funds: { base: Money; quote: Money } | null): string | null {
  if (at === null) return draft.kind === "MARKET" ? "Nobody is on the other side of the book." : "The price is not a number.";
  if (draft.kind === "LIMIT" && at === 0n) return "The price must be above zero.";
  if (at !== roundDown(at, market.tickSize)) return `The price must be a multiple of ${show(market.tickSize, market.priceDecimals)}.`;
  if (of === null) return "The quantity is not a number.";
  if (of < market.quantityMin) return `The least quantity is ${show(market.quantityMin, market.quantityDecimals)} ${market.base}.`;
  if (of > market.quantityMax) return `The largest quantity is ${show(market.quantityMax, market.quantityDecimals)} ${market.base}.`;
  if (of !== roundDown(of, market.lotSize)) return `The quantity must be a multiple of ${show(market.lotSize, market.quantityDecimals)}.`;
  if (total !== null && total < market.notionalMin) return `The least order is worth ${show(market.notionalMin, 2)} ${market.quote}.`;
  if (funds === null) return null;
  if (draft.side === "SELL" && of > (funds.base as bigint)) return `Not enough ${market.base}.`;
  if (draft.side === "BUY" && total !== null && total > funds.quote) return `Not enough ${market.quote}.`;
  return null;
}

/** Return the parameters of POST /api/v3/order. Throws RangeError on a draft that `checked` finds fault with. */
export function parametersOf(draft: OrderDraft, market: Market, clientOrderId: string): Record<string, string> {
  const of = readQuantity(draft.quantity);
  const at = draft.kind === "LIMIT" ? readPrice(draft.price) : null;
  if (of === null || (draft.kind === "LIMIT" && at === null)) throw new RangeError("an incomplete order");
  const common = { symbol: market.symbol, side: draft.side, type: draft.kind, quantity: format(of, market.quantityDecimals), newClientOrderId: clientOrderId };
  return at === null ? common : { ...common, timeInForce: "GTC", price: format(at, market.priceDecimals) };
}
