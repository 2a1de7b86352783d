import { describe, expect, it } from "vitest";

import { Budget } from "./budget";

describe("the budget of a page", () => {
  it("lets polls use a part of the minute", () => {
    let now = 0;
    const budget = new Budget(6_000, () => now);
    expect(budget.mayPoll(100)).toBe(true);
    budget.note(1_700, null);
    expect([budget.mayPoll(100), budget.mayPoll(101)]).toEqual([true, false]);
    budget.note(null, null);
    expect(budget.mayPoll(101)).toBe(false);
    now = 60_000;
    expect(budget.mayPoll(101)).toBe(true);
  });

  it("is closed for as long as a refusal says", () => {
    let now = 1_000;
    const budget = new Budget(6_000, () => now);
    budget.note(20, 7);
    budget.note(20, 2);
    expect(budget.closedMs()).toBe(7_000);
    now = 7_999;
    expect(budget.ageMs()).toBe(6_999);
    expect(budget.mayPoll(1)).toBe(false);
    now = 8_000;
    expect([budget.mayPoll(1), budget.closedMs()]).toEqual([true, 0]);
  });
});
