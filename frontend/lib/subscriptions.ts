/**
 * What a connection for market streams is subscribed to: which requests lead to what is listened to, and which streams are on. Pure.
 *
 * A stream is on from the answer to its subscription until it is unsubscribed or the connection ends: between the two nothing is missing.
 */

export interface SubscriptionRequest {
  readonly id: number;
  readonly method: "SUBSCRIBE" | "UNSUBSCRIBE" | "LIST_SUBSCRIPTIONS";
  readonly params?: readonly string[];
}

export class Subscriptions {
  /** What was asked for on this connection. */
  private wanted = new Set<string>();
  private readonly on = new Set<string>();
  /** Subscriptions without an answer, by the number of the request. */
  private readonly asked = new Map<number, readonly string[]>();
  private number = 0;

  isOn(stream: string): boolean {
    return this.on.has(stream);
  }

  /** Return the requests that lead from what was asked for to what is listened to. */
  requests(listened: Iterable<string>): SubscriptionRequest[] {
    const next = new Set(listened);
    const dropped = [...this.wanted].filter((stream) => !next.has(stream));
    const added = [...next].filter((stream) => !this.wanted.has(stream));
    this.wanted = next;
    for (const stream of dropped) this.on.delete(stream);
    const requests: SubscriptionRequest[] = [];
    if (dropped.length > 0) requests.push({ id: this.nextNumber(), method: "UNSUBSCRIBE", params: dropped });
    if (added.length > 0) {
      const request = { id: this.nextNumber(), method: "SUBSCRIBE", params: added } as const;
      this.asked.set(request.id, added);
      requests.push(request);
    }
    return requests;
  }

  /** Return a request that changes nothing; its answer is a sign of life. */
  question(): SubscriptionRequest {
    return { id: this.nextNumber(), method: "LIST_SUBSCRIPTIONS" };
  }

  /** Take an answer; return the streams that are on from now on. One that was unsubscribed meanwhile is not. */
  answered(id: number, isRefused: boolean): string[] {
    const streams = this.asked.get(id) ?? [];
    this.asked.delete(id);
    const begun = isRefused ? [] : streams.filter((stream) => this.wanted.has(stream));
    for (const stream of begun) this.on.add(stream);
    return begun;
  }

  /** The connection has ended: return the streams that were on. The next connection starts from nothing. */
  ended(): string[] {
    const streams = [...this.on];
    this.on.clear();
    this.asked.clear();
    this.wanted = new Set();
    return streams;
  }

  private nextNumber(): number {
    this.number += 1;
    return this.number;
  }
}
