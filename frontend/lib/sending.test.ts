import { describe, expect, it } from "vitest";

import { ApiError } from "./api-error";
import type { OrderAnswer } from "./outcome";
import { lookedUp } from "./sending";

const SENT = { symbol: "BTCUSDT", clientOrderId: "web-1", deadline: 5_000 };
const FOUND = { orderId: 7, status: "NEW" } as OrderAnswer;
const absent = new ApiError(-2013, "Order does not exist.", 400);
const away = new ApiError(0, "The exchange is not responding.");

/** What is answered second by second; the last answer stays. */
function asked(answers: readonly (OrderAnswer | ApiError)[]) {
  let now = 0;
  const questions: string[] = [];
  return {
    questions,
    orderByClientId: async (symbol: string, id: string) => {
      questions.push(`${symbol} ${id} ${now}`);
      const answer = answers[Math.min(questions.length, answers.length) - 1];
      if (answer instanceof ApiError) throw answer;
      return answer as OrderAnswer;
    },
    now: () => now,
    sleep: async (ms: number) => void (now += ms),
  };
}

describe("an order without an answer", () => {
  it("is looked up by its id until it is found", async () => {
    const lookup = asked([away, absent, FOUND]);
    expect(await lookedUp(SENT, lookup)).toBe(FOUND);
    expect(lookup.questions).toEqual(["BTCUSDT web-1 0", "BTCUSDT web-1 1000", "BTCUSDT web-1 2000"]);
  });

  it("counts as not arrived only when it cannot arrive any more", async () => {
    const lookup = asked([absent]);
    expect(await lookedUp(SENT, lookup)).toBeNull();
    // Found absent after its deadline and what a shard may be behind, not before.
    expect(lookup.questions.at(-1)).toBe("BTCUSDT web-1 11000");
  });

  it("is looked for as long as nobody answers", async () => {
    const lookup = asked([...Array<ApiError>(60).fill(away), FOUND]);
    expect(await lookedUp(SENT, lookup)).toBe(FOUND);
  });

  it("is looked for again when there were too many questions", async () => {
    expect(await lookedUp(SENT, asked([new ApiError(-1003, "Too many requests.", 429), FOUND]))).toBe(FOUND);
  });

  it("is not looked for by whoever may not", async () => {
    await expect(
      lookedUp(SENT, asked([new ApiError(-2015, "Invalid API-key, IP, or permissions for action.", 401)])),
    ).rejects.toThrow("Invalid API-key");
  });

  it("knows what certainly came to nothing", () => {
    expect(
      [new ApiError(-2010, "x", 400), new ApiError(-1008, "x", 503), new ApiError(-1003, "x", 429)].map(
        (each) => each.isFinal,
      ),
    ).toEqual([true, true, true]);
    expect(
      [away, new ApiError(-1007, "x", 503), new ApiError(-1001, "x", 503), new ApiError(0, "x", 502)].map(
        (each) => each.isFinal,
      ),
    ).toEqual([false, false, false, false]);
  });
});
