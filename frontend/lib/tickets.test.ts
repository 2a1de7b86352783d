import { expect, it } from "vitest";

import { Tickets } from "./tickets";

function counted(fails = false) {
  let now = 0;
  let made = 0;
  const tickets = new Tickets(
    async () => {
      made += 1;
      if (fails && made === 1) throw new Error("no answer");
      return { key: `key ${made}`, secret: "secret", expiresIn: 900 };
    },
    () => now,
  );
  return { tickets, made: () => made, pass: (seconds: number) => (now += seconds * 1_000) };
}

it("asks for one, and for another in good time", async () => {
  const { tickets, pass } = counted();
  expect((await tickets.current()).key).toBe("key 1");
  pass(539);
  expect((await tickets.current()).key).toBe("key 1");
  pass(1);
  expect((await tickets.current()).key).toBe("key 2");
});

it("asks once for all who ask at the same time", async () => {
  const { tickets, made } = counted();
  await Promise.all([tickets.current(), tickets.current(), tickets.current()]);
  expect(made()).toBe(1);
});

it("asks again after a refusal, and after no answer", async () => {
  const { tickets } = counted(true);
  await expect(tickets.current()).rejects.toThrow("no answer");
  expect((await tickets.current()).key).toBe("key 2");
  tickets.forget();
  expect((await tickets.current()).key).toBe("key 3");
});
