/**
 * The short-lived keys that a signed-in page signs with. They are in memory alone: the session itself is in a cookie that no script can
 * read, and brings a new one whenever it is needed.
 */
import type { ApiKey } from "./signing";

export interface Ticket extends ApiKey {
  /** For so long (s) it is good. */
  readonly expiresIn: number;
}

/** A new one is asked for when so much of its life is over. */
const USED_MAX = 0.6;

export class Tickets {
  private ticket: { readonly key: ApiKey; readonly until: number } | null = null;
  private asking: Promise<ApiKey> | null = null;

  /** `ask` the session for a ticket; `now` is a clock in ms that nobody sets. */
  constructor(
    private readonly ask: () => Promise<Ticket>,
    private readonly now: () => number,
  ) {}

  /** Return one that is good for a while. Who asks at the same time gets the same. */
  current(): Promise<ApiKey> {
    if (this.ticket !== null && this.now() < this.ticket.until) return Promise.resolve(this.ticket.key);
    this.asking ??= this.renew().finally(() => (this.asking = null));
    return this.asking;
  }

  /** Use none that was given out before: one of them was refused. */
  forget(): void {
    this.ticket = null;
  }

  private async renew(): Promise<ApiKey> {
    const began = this.now();
    const { key, secret, expiresIn } = await this.ask();
    this.ticket = { key: { key, secret }, until: began + expiresIn * 1_000 * USED_MAX };
    return this.ticket.key;
  }
}
