import { describe, expect, it } from "vitest";

import { type DepthBook, type DepthDiff, readLevels } from "./depth-book";
import { type DepthAction, type DepthEvent, START, WAITING_MAX, step } from "./depth-sync";

const bookAt = (updateId: number): DepthBook => ({ updateId, bids: new Map(), asks: new Map() });
const diff = (first: number, last: number = first): DepthDiff => ({
  first,
  last,
  bids: readLevels([["100.00", String(last)]]),
  asks: [],
});
const refresh: DepthEvent = { kind: "refresh" };
const failed: DepthEvent = { kind: "failed" };
const heard = (first: number, last?: number): DepthEvent => ({ kind: "diff", diff: diff(first, last) });
const snapshot = (updateId: number): DepthEvent => ({ kind: "snapshot", book: bookAt(updateId) });

/** Return the state after these events, and the action of each. */
function after(...events: DepthEvent[]) {
  let sync = START;
  const actions: DepthAction[] = [];
  for (const event of events) {
    const [next, action] = step(sync, event);
    sync = next;
    actions.push(action);
  }
  return { sync, actions };
}

describe("a book in step with its stream", () => {
  it("begins with a snapshot, on which the differences follow that were heard meanwhile", () => {
    const { sync, actions } = after(refresh, heard(9, 10), heard(11), snapshot(10), heard(12));
    expect(actions).toEqual(["ask", "none", "none", "none", "none"]);
    expect(sync.book?.updateId).toBe(12);
    expect(sync.waiting).toEqual([]);
  });

  it("asks for one snapshot at a time", () => {
    expect(after(refresh, refresh, heard(5)).actions).toEqual(["ask", "none", "none"]);
  });

  it("asks again soon when the snapshot is older than what was heard first", () => {
    const { sync, actions } = after(refresh, heard(12), snapshot(10), heard(13), refresh, snapshot(12));
    expect(actions).toEqual(["ask", "none", "ask soon", "none", "ask", "none"]);
    expect(sync.book?.updateId).toBe(13);
  });

  it("asks at once for another snapshot when a difference is missing, and shows the old book meanwhile", () => {
    const { sync, actions } = after(refresh, snapshot(10), heard(11), heard(13));
    expect(actions).toEqual(["ask", "none", "none", "ask"]);
    expect(sync.book?.updateId).toBe(11);
    expect(step(sync, snapshot(12))[0].book?.updateId).toBe(13);
  });

  it("asks later when a request fails, and loses nothing that was heard", () => {
    const { sync, actions } = after(refresh, heard(11), failed, refresh, snapshot(10));
    expect(actions).toEqual(["ask", "none", "ask later", "ask", "none"]);
    expect(sync.book?.updateId).toBe(11);
  });

  it("does not go back to a snapshot that is older than what it shows", () => {
    const { sync } = after(refresh, snapshot(10), heard(11, 14), refresh, snapshot(12));
    expect(sync.book?.updateId).toBe(14);
  });

  it("keeps a bounded number of differences waiting, and notices that some are gone", () => {
    const events = Array.from({ length: WAITING_MAX + 1 }, (_, number) => heard(number + 1));
    const { sync } = after(refresh, ...events);
    expect(sync.waiting.length).toBe(WAITING_MAX);
    expect(step(sync, snapshot(0))[1]).toBe("ask soon");
  });
});
