/**
 * How much this page may ask for. The exchange says with each answer what the address has used of its minute; whoever shares the
 * address uses it, too. Polling stops at a part of it, so that orders and other tabs have the rest, and nobody asks while a refusal says
 * when to come back.
 */

const POLLING_SHARE = 0.3;
const MINUTE_MS = 60_000;

export class Budget {
  private used = 0;
  private usedAt = 0;
  private closedUntil = 0;

  private heardAt = -Infinity;

  /** `limit` is the weight of a minute; `now` counts ms from anywhere. */
  constructor(
    public limit: number,
    private readonly now: () => number,
  ) {}

  /** Take note of what an answer says: the weight used (null: nothing), and after a refusal the seconds until the next question. */
  note(usedWeight: number | null, retryAfterS: number | null): void {
    this.heardAt = this.now();
    if (usedWeight !== null) [this.used, this.usedAt] = [usedWeight, this.now()];
    if (retryAfterS !== null) this.closedUntil = Math.max(this.closedUntil, this.now() + retryAfterS * 1_000);
  }

  /** The ms since the last answer. */
  ageMs(): number {
    return this.now() - this.heardAt;
  }

  /** The ms until anything may be asked at all. */
  closedMs(): number {
    return Math.max(0, this.closedUntil - this.now());
  }

  /** Whether there is room for a poll of this weight. */
  mayPoll(weight: number): boolean {
    if (this.closedMs() > 0) return false;
    const used = this.now() - this.usedAt < MINUTE_MS ? this.used : 0;
    return used + weight <= this.limit * POLLING_SHARE;
  }
}
