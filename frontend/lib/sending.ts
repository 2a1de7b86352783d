/**
 * Send an order and find out what became of it, also when its answer is lost.
 *
 * Every order has an id of its own and a deadline: what reaches its shard later is refused there. So when there is no answer, the order
 * is looked up by its id until it is found, or until it can no longer arrive. Nothing else is to be sent meanwhile: pressed twice, an
 * order must not be there twice.
 */
import { ApiError, KEY_REFUSALS } from "./api-error";
import type { OrderAnswer } from "./outcome";

/** An order that was sent. */
export interface Sent {
  readonly symbol: string;
  readonly clientOrderId: string;
  /** In the exchange's time, in ms. */
  readonly deadline: number;
}

export interface Lookup {
  /** Returns the order; rejects with code -2013 when there is none. */
  orderByClientId(symbol: string, clientOrderId: string): Promise<OrderAnswer>;
  /** The exchange's time in ms. */
  now(): number;
  sleep(ms: number): Promise<void>;
}

const NO_SUCH_ORDER = -2013;
const LOOK_MS = 1_000;
/** What was in the log before the deadline may be worked on a little later. */
const MARGIN_MS = 5_000;

/** Return the order when it is found, and null when it has not arrived and cannot any more. */
export async function lookedUp(sent: Sent, lookup: Lookup): Promise<OrderAnswer | null> {
  for (;;) {
    const isOver = lookup.now() > sent.deadline + MARGIN_MS;
    try {
      return await lookup.orderByClientId(sent.symbol, sent.clientOrderId);
    } catch (error) {
      if (error instanceof ApiError && error.code === NO_SUCH_ORDER && isOver) return null;
      if (error instanceof ApiError && KEY_REFUSALS.has(error.code)) throw error;
    }
    await lookup.sleep(LOOK_MS);
  }
}
