/** What the exchange answers to what it does not do. */

/** Answered with 503 although nothing was done (Binance: "the request was not executed"). */
const OVERLOADED = -1008;

/** The key is not one, or not any more. */
export const KEY_REFUSALS: ReadonlySet<number> = new Set([-2014, -2015]);

/** The account has a second factor, and no code came along. */
export const SECOND_FACTOR_NEEDED = -9001;

/** A refusal; `code` is the API's own, 0 when there was no answer at all, or none that can be read. */
export class ApiError extends Error {
  constructor(
    readonly code: number,
    message: string,
    readonly status = 0,
  ) {
    super(message);
  }

  /** Whether it is certain that nothing came of the request: no answer, and most of the exchange's own faults, leave that open. */
  get isFinal(): boolean {
    return (this.status >= 400 && this.status < 500) || this.code === OVERLOADED;
  }
}
