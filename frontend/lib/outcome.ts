/** What became of an order, in words: how much of it was traded, at what price on average, and what happens with the rest. */
import type { components } from "./api-types";
import type { Market } from "./market";
import { type Money, type Quantity, money, per, quantity, show } from "./units";

/** What every answer about an order says. */
export type OrderAnswer = Pick<
  components["schemas"]["FullShape"],
  | "orderId"
  | "symbol"
  | "side"
  | "type"
  | "price"
  | "status"
  | "origQty"
  | "executedQty"
  | "cummulativeQuoteQty"
  | "clientOrderId"
>;

export interface Outcome {
  readonly text: string;
  /** Whether all that was asked for was traded, or rests. */
  readonly isWhole: boolean;
}

/** Say what became of an order. */
export function outcomeOf(answer: OrderAnswer, market: Market): Outcome {
  const [traded, paid] = [quantity(answer.executedQty), money(answer.cummulativeQuoteQty)];
  const of = quantity(answer.origQty);
  const rest = (of - traded) as Quantity;
  const verb = answer.side === "BUY" ? "Bought" : "Sold";
  const amount = (value: Quantity) => `${show(value, market.quantityDecimals)} ${market.base}`;
  const fills =
    traded === 0n
      ? ""
      : `${verb} ${rest > 0n ? `${show(traded, market.quantityDecimals)} of ${amount(of)}` : amount(traded)} at ${showAverage(paid, traded, market)}.`;
  switch (answer.status) {
    case "FILLED":
      return { text: `Filled. ${fills}`, isWhole: true };
    case "NEW":
    case "PENDING_NEW":
      return { text: "Order placed.", isWhole: true };
    case "PARTIALLY_FILLED":
      return { text: `${fills} The rest is resting in the book.`, isWhole: true };
    case "CANCELED":
      return {
        text: traded === 0n ? "Canceled; nothing was traded." : `${fills} The rest was canceled.`,
        isWhole: false,
      };
    case "EXPIRED_IN_MATCH":
      return {
        text: `${fills || "Nothing was traded."} The rest expired: it would have matched an order of your own.`,
        isWhole: false,
      };
    case "EXPIRED":
      return {
        text:
          traded === 0n
            ? "Expired; nothing was traded: no liquidity within the price limit."
            : `${fills} The rest expired: no more liquidity within the price limit.`,
        isWhole: false,
      };
    default:
      return { text: `${fills} The order is ${answer.status}.`.trim(), isWhole: false };
  }
}

/** "99,812.34 on average", or the price itself when all was traded at one. */
function showAverage(paid: Money, traded: Quantity, market: Market): string {
  const average = per(paid, traded);
  return `${show(average, market.priceDecimals)} ${market.quote}${average % (market.tickSize as bigint) === 0n ? "" : " on average"}`;
}
