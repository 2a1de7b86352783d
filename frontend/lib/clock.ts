/**
 * The exchange's time on a machine whose clock may be anywhere.
 *
 * An answer with the exchange's time was written some time between the question and its arrival, so of several the quickest is right
 * by half of what it took. A machine that slept, or whose clock was set, has to ask again: `jumped` tells.
 */

const QUESTIONS = 3;
/** So far apart the two local clocks may run before it was more than drift. */
const JUMP_MS = 2_000;

export interface LocalClocks {
  /** The time of day in ms, which may be set. */
  wall(): number;
  /** Milliseconds from anywhere, which only go forwards. */
  steady(): number;
}

export class ExchangeClock {
  private ahead = 0;
  /** By how much the two local clocks differed when the time was taken. */
  private apart: number;

  /** `ask` returns the exchange's time in ms. */
  constructor(
    private readonly ask: () => Promise<number>,
    private readonly local: LocalClocks,
  ) {
    this.apart = local.wall() - local.steady();
  }

  /** The exchange's time in whole ms. */
  now = (): number => Math.round(this.local.wall() + this.ahead);

  /** Take the time anew: of three answers the quickest. Rejects when there is none. */
  async set(): Promise<void> {
    let best: { took: number; ahead: number } | null = null;
    let failure: unknown = null;
    for (let question = 0; question < QUESTIONS; question += 1) {
      const [wall, steady] = [this.local.wall(), this.local.steady()];
      try {
        const time = await this.ask();
        const took = this.local.steady() - steady;
        if (best === null || took < best.took) best = { took, ahead: time - (wall + took / 2) };
      } catch (error) {
        failure = error;
      }
    }
    if (best === null) throw failure;
    this.ahead = best.ahead;
    this.apart = this.local.wall() - this.local.steady();
  }

  /** Whether the time of day was set, or the machine slept, since the time was taken. */
  jumped(): boolean {
    return Math.abs(this.local.wall() - this.local.steady() - this.apart) > JUMP_MS;
  }
}
