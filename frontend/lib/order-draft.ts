/** An order as it stands in the form: what is wrong with it, what it would get, what is unusual about it, and how it is sent. */
import { type DepthBook, type Walk, bestPrices, walked } from "./depth-book";
import type { Market } from "./market";
import {
  type Money,
  type Price,
  type Quantity,
  changeBasisPoints,
  format,
  notional,
  per,
  readPrice,
  readQuantity,
  readings,
  roundDown,
  show,
  showPercent,
} from "./units";

export type OrderSide = "BUY" | "SELL";
export type OrderKind = "LIMIT" | "MARKET";

export interface OrderDraft {
  readonly side: OrderSide;
  readonly kind: OrderKind;
  /** As typed; a market order has none. */
  readonly price: string;
  readonly quantity: string;
}

export interface Funds {
  readonly base: Money;
  readonly quote: Money;
}

export interface CheckedOrder {
  /** Price × quantity; of a market order what the book would give for it now, null when that is nothing. */
  readonly total: Money | null;
  /** What the book would give now; null when there is no book, or the draft is not complete. */
  readonly walk: Walk | null;
  /** Null when it can be sent. */
  readonly mistake: string | null;
  /** What nobody does without meaning it; to be confirmed. Null: nothing. */
  readonly warning: string | null;
  /** Whether so much has been typed that the mistake should be shown. */
  readonly complete: boolean;
}

/** So far beyond the best price a limit is before it is asked whether that is meant. */
const FAR_BASIS_POINTS = 500;
/** So much worse than the best price a market order would trade on average before it is asked. */
const DEAR_BASIS_POINTS = 100;

/** Check a draft by the market's rules, the book (null: not there yet), and the funds at hand (null: unknown, nobody is signed in). */
export function checked(
  draft: OrderDraft,
  market: Market,
  book: DepthBook | null,
  funds: Funds | null,
): CheckedOrder {
  const complete = draft.quantity !== "" && (draft.kind === "MARKET" || draft.price !== "");
  const best = book && bestPrices(book)[draft.side === "BUY" ? "ask" : "bid"];
  const at = draft.kind === "MARKET" ? best : readPrice(draft.price);
  const of = readQuantity(draft.quantity);
  const walk =
    book !== null && of !== null && at !== null
      ? walked(book, draft.side, of, draft.kind === "MARKET" ? bound(draft.side, at, market) : at)
      : null;
  const total =
    draft.kind === "MARKET"
      ? walk === null || walk.quantity === 0n
        ? null
        : walk.cost
      : at !== null && of !== null
        ? notional(at, of)
        : null;
  const mistake = ambiguityIn(draft) ?? mistakeIn(draft, market, at, of, total, funds);
  const warning =
    mistake !== null || at === null || of === null ? null : warningOf(draft, market, at, of, best, walk);
  return { total, walk, complete, mistake, warning };
}

/** Return the worst price at which a market order trades, as its market bounds it. */
export function bound(side: OrderSide, best: Price, market: Market): Price {
  const distance = (best * market.slippage) / 100_000_000n;
  return (side === "BUY" ? best + distance : best - distance) as Price;
}

/** Say what can be read in two ways, with both: money is not guessed. */
function ambiguityIn(draft: OrderDraft): string | null {
  for (const [name, text] of [
    ["price", draft.kind === "LIMIT" ? draft.price : ""],
    ["quantity", draft.quantity],
  ] as const) {
    const both = readings(text);
    if (both !== null) return `The ${name} can be ${both[0]} or ${both[1]}: write it so.`;
  }
  return null;
}

function mistakeIn(
  draft: OrderDraft,
  market: Market,
  at: Price | null,
  of: Quantity | null,
  total: Money | null,
  funds: Funds | null,
): string | null {
  if (at === null)
    return draft.kind === "MARKET"
      ? "No liquidity on the other side of the book."
      : "The price is not a number.";
  if (draft.kind === "LIMIT" && at === 0n) return "The price must be above zero.";
  if (at !== roundDown(at, market.tickSize))
    return `The price must be a multiple of ${show(market.tickSize, market.priceDecimals)}.`;
  if (of === null) return "The quantity is not a number.";
  if (of < market.quantityMin)
    return `Minimum quantity: ${show(market.quantityMin, market.quantityDecimals)} ${market.base}.`;
  if (of > market.quantityMax)
    return `Maximum quantity: ${show(market.quantityMax, market.quantityDecimals)} ${market.base}.`;
  if (of !== roundDown(of, market.lotSize))
    return `The quantity must be a multiple of ${show(market.lotSize, market.quantityDecimals)}.`;
  if (total !== null && total < market.notionalMin)
    return `Minimum order value: ${show(market.notionalMin, 2)} ${market.quote}.`;
  if (funds === null) return null;
  if (draft.side === "SELL" && of > (funds.base as bigint)) return `Not enough ${market.base}.`;
  if (draft.side === "BUY" && total !== null && total > funds.quote) return `Not enough ${market.quote}.`;
  return null;
}

function warningOf(
  draft: OrderDraft,
  market: Market,
  at: Price,
  of: Quantity,
  best: Price | null,
  walk: Walk | null,
): string | null {
  if (best === null) return null;
  const worse = (than: Price) => (draft.side === "BUY" ? 1 : -1) * changeBasisPoints(best, than);
  const direction = draft.side === "BUY" ? "above" : "below";
  const amount = (value: Quantity) => `${show(value, market.quantityDecimals)} ${market.base}`;
  if (draft.kind === "LIMIT") {
    return worse(at) > FAR_BASIS_POINTS
      ? `The price is ${showPercent(worse(at)).slice(1)} ${direction} the best one, ${show(best, market.priceDecimals)}.`
      : null;
  }
  if (walk === null) return null;
  if (walk.quantity < of)
    return `The book has ${amount(walk.quantity)} within ${showPercent(Number(market.slippage / 10_000n)).slice(1)} of the best price; the rest would expire.`;
  const average = per(walk.cost, walk.quantity);
  if (worse(average) <= DEAR_BASIS_POINTS) return null;
  const prices = `${show(average, market.priceDecimals)} on average, ${draft.side === "BUY" ? "up" : "down"} to ${show(walk.worst, market.priceDecimals)}`;
  return `It would trade at ${prices}: ${showPercent(worse(average)).slice(1)} ${direction} the best price.`;
}

/** Return the parameters of POST /api/v3/order. Throws RangeError on a draft that `checked` finds fault with. */
export function parametersOf(
  draft: OrderDraft,
  market: Market,
  clientOrderId: string,
): Record<string, string> {
  const of = readQuantity(draft.quantity);
  const at = draft.kind === "LIMIT" ? readPrice(draft.price) : null;
  if (of === null || (draft.kind === "LIMIT" && at === null)) throw new RangeError("an incomplete order");
  const common = {
    symbol: market.symbol,
    side: draft.side,
    type: draft.kind,
    quantity: format(of, market.quantityDecimals),
    newClientOrderId: clientOrderId,
  };
  return at === null ? common : { ...common, timeInForce: "GTC", price: format(at, market.priceDecimals) };
}
