import { describe, expect, it } from "vitest";

import { Subscriptions } from "./subscriptions";

describe("subscriptions of a connection", () => {
  it("ask for what is new and give up what nobody listens to any more", () => {
    const subscriptions = new Subscriptions();
    expect(subscriptions.requests(["a", "b"])).toEqual([{ id: 1, method: "SUBSCRIBE", params: ["a", "b"] }]);
    expect(subscriptions.requests(["a", "b"])).toEqual([]);
    expect(subscriptions.requests(["b", "c"])).toEqual([
      { id: 2, method: "UNSUBSCRIBE", params: ["a"] },
      { id: 3, method: "SUBSCRIBE", params: ["c"] },
    ]);
  });

  it("are on from their answer on, each answer counting once", () => {
    const subscriptions = new Subscriptions();
    subscriptions.requests(["a"]);
    expect(subscriptions.isOn("a")).toBe(false);
    expect(subscriptions.answered(1, false)).toEqual(["a"]);
    expect(subscriptions.isOn("a")).toBe(true);
    expect(subscriptions.answered(1, false)).toEqual([]);
    expect(subscriptions.answered(99, false)).toEqual([]);
  });

  it("are not on when they are refused, or were given up before the answer", () => {
    const subscriptions = new Subscriptions();
    subscriptions.requests(["a"]);
    subscriptions.requests(["b"]);
    expect(subscriptions.answered(1, false)).toEqual([]);
    expect(subscriptions.answered(3, true)).toEqual([]);
    expect(subscriptions.isOn("a") || subscriptions.isOn("b")).toBe(false);
  });

  it("begin anew with another connection", () => {
    const subscriptions = new Subscriptions();
    subscriptions.requests(["a", "b"]);
    subscriptions.answered(1, false);
    subscriptions.requests(["a", "b", "c"]);
    expect(subscriptions.ended()).toEqual(["a", "b"]);
    expect(subscriptions.answered(2, false)).toEqual([]); // of the connection that has ended
    expect(subscriptions.requests(["a", "c"])).toEqual([{ id: 3, method: "SUBSCRIBE", params: ["a", "c"] }]);
    expect(subscriptions.question()).toEqual({ id: 4, method: "LIST_SUBSCRIPTIONS" });
  });
});
