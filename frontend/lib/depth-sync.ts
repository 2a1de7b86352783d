/**
 * Keeps a book in step with its stream: a snapshot over REST, and all differences since. Pure: events in, the next state and one action out.
 *
 * Differences that arrive while a snapshot is under way wait for it. A gap between differences, or between the snapshot and the first
 * one that waits, leads to another snapshot.
 */
import { type DepthBook, type DepthDiff, applyDiff, joined } from "./depth-book";

/** Differences that wait for a snapshot; the oldest are dropped beyond that, which the join then finds to be a gap. */
export const WAITING_MAX = 1_000;

export interface DepthSync {
  /** What is shown; null before the first snapshot. */
  readonly book: DepthBook | null;
  /** Differences that wait for a snapshot, oldest first. */
  readonly waiting: readonly DepthDiff[];
  /** Whether a snapshot is under way. */
  readonly isAsking: boolean;
}

export type DepthEvent =
  /** The stream has begun, a poll is due, or the time to ask again has come. */
  | { readonly kind: "refresh" }
  | { readonly kind: "diff"; readonly diff: DepthDiff }
  | { readonly kind: "snapshot"; readonly book: DepthBook }
  | { readonly kind: "failed" };

/** What to do: ask for a snapshot now, soon (this one was too old), or later (the request failed). */
export type DepthAction = "none" | "ask" | "ask soon" | "ask later";

export const START: DepthSync = { book: null, waiting: [], isAsking: false };

export function step(sync: DepthSync, event: DepthEvent): [DepthSync, DepthAction] {
  switch (event.kind) {
    case "refresh":
      return ask(sync);
    case "diff":
      return heard(sync, event.diff);
    case "snapshot":
      return arrived({ ...sync, isAsking: false }, event.book);
    case "failed":
      return [{ ...sync, isAsking: false }, "ask later"];
  }
}

function ask(sync: DepthSync): [DepthSync, DepthAction] {
  return sync.isAsking ? [sync, "none"] : [{ ...sync, isAsking: true }, "ask"];
}

function heard(sync: DepthSync, diff: DepthDiff): [DepthSync, DepthAction] {
  if (sync.book === null || sync.isAsking || sync.waiting.length > 0) {
    const waiting = [...sync.waiting.slice(1 - WAITING_MAX), diff];
    // With others waiting and no snapshot under way, the time to ask again has been set already.
    return sync.waiting.length === 0 ? ask({ ...sync, waiting }) : [{ ...sync, waiting }, "none"];
  }
  const book = applyDiff(sync.book, diff);
  return book === "gap" ? ask({ ...sync, waiting: [diff] }) : [{ ...sync, book }, "none"];
}

function arrived(sync: DepthSync, snapshot: DepthBook): [DepthSync, DepthAction] {
  const book = joined(snapshot, sync.waiting);
  // The snapshot is older than what waits; the next one will not be.
  if (book === "gap") return [sync, "ask soon"];
  // A snapshot from a cache may be older than what the stream has said; nothing waits, so nothing is missing.
  const isOlder = sync.book !== null && book.updateId < sync.book.updateId && sync.waiting.length === 0;
  return [isOlder ? sync : { ...sync, book, waiting: [] }, "none"];
}
