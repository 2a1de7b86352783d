/** Whether what is shown is of now: by the age of what was heard last, not by whether a connection seems to be open. */

/** A question is sent so often on each connection, and the answer is its sign of life. */
export const HEARTBEAT_MS = 1_500;
/** A connection that owes an answer for so long is given up, and another one made. */
export const SILENT_MS = 4_000;
/** So old the last sign of life of a connection may be. */
const LIVE_MS = 3_500;
/** So old the last answer may be while there is polling: every few seconds. */
const POLLED_MS = 10_000;

export type Liveness =
  | { readonly state: "live" }
  | { readonly state: "polling" }
  /** Nothing was heard for so many seconds: what is shown is old. */
  | { readonly state: "stale"; readonly seconds: number };

/** A candle is said every two seconds, whether anybody trades or not; this is where market data stands still although the edge answers. */
const CANDLE_MS = 8_000;

/**
 * Return how a page stands: `streamMs` ago its connection was heard of, `answerMs` ago a question was answered, `candleMs` ago a candle
 * came on a stream of candles that is on (0: there is none).
 */
export function livenessOf(streamMs: number, answerMs: number, candleMs: number): Liveness {
  if (streamMs < LIVE_MS && candleMs >= CANDLE_MS)
    return { state: "stale", seconds: Math.floor(candleMs / 1_000) };
  if (streamMs < LIVE_MS) return { state: "live" };
  if (answerMs < POLLED_MS) return { state: "polling" };
  const age = Math.min(streamMs, answerMs);
  return { state: "stale", seconds: Number.isFinite(age) ? Math.floor(age / 1_000) : 0 };
}

/** One connection's signs of life. Times are in ms from anywhere; it keeps none itself, so that a throttled tab is not taken for silence. */
export class Pulse {
  private heardAt = -Infinity;
  private owedSince: number | null = null;

  /** Something came. */
  heard(now: number): void {
    this.heardAt = now;
    this.owedSince = null;
  }

  /** A question went out. */
  asked(now: number): void {
    this.owedSince ??= now;
  }

  /** Whether an answer is owed for too long. */
  isSilent(now: number): boolean {
    return this.owedSince !== null && now - this.owedSince >= SILENT_MS;
  }

  /** The connection has ended; nothing is owed any more. */
  ended(): void {
    this.owedSince = null;
  }

  ageMs(now: number): number {
    return now - this.heardAt;
  }
}
