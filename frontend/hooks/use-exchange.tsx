"use client";

import { createContext, useContext, useEffect, useEffectEvent, useState } from "react";

import { type PublicApi, publicApi } from "@/lib/api";
import { Budget } from "@/lib/budget";
import { ExchangeClock } from "@/lib/clock";
import { type Liveness, livenessOf } from "@/lib/liveness";
import { type Market, marketOf } from "@/lib/market";

import { StreamSocket } from "@/lib/stream-socket";

export interface Exchange {
  readonly wsUrl: string;
  readonly api: PublicApi;
  readonly socket: StreamSocket;
  readonly markets: readonly Market[];
  readonly clock: ExchangeClock;
  readonly budget: Budget;
}

const ExchangeContext = createContext<Exchange | null>(null);

export function useExchange(): Exchange {
  const exchange = useContext(ExchangeContext);
  if (exchange === null) throw new Error("outside of ExchangeProvider");
  return exchange;
}

const RETRY_MS = 1_500;
const LOOK_MS = 1_000;
/** Until exchangeInfo has said it. */
const WEIGHT_LIMIT = 6_000;

async function connect(): Promise<Exchange> {
  const { wsUrl } = (await (await fetch("/config.json", { cache: "no-store" })).json()) as { wsUrl: string };
  const budget = new Budget(WEIGHT_LIMIT, () => performance.now());
  const api = publicApi(budget);
  const clock = new ExchangeClock(() => api.time(), {
    wall: () => Date.now(),
    steady: () => performance.now(),
  });
  const [info] = await Promise.all([api.exchangeInfo(), clock.set()]);
  const limits = info.rateLimits as unknown as { rateLimitType: string; interval: string; limit: number }[];
  budget.limit =
    limits.find((each) => each.rateLimitType === "REQUEST_WEIGHT" && each.interval === "MINUTE")?.limit ??
    WEIGHT_LIMIT;
  return { wsUrl, api, socket: new StreamSocket(wsUrl), markets: info.symbols.map(marketOf), clock, budget };
}

/** Finds out where the exchange is and what it trades; shows `waiting` until it answers. */
export function ExchangeProvider({
  children,
  waiting,
}: {
  children: React.ReactNode;
  waiting: (failed: boolean) => React.ReactNode;
}) {
  const [exchange, setExchange] = useState<Exchange | null>(null);
  const [failed, setFailed] = useState(false);

  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let left = false;
    const attempt = () => {
      connect().then(
        (found) => void (left || setExchange(found)),
        () => {
          if (left) return;
          setFailed(true);
          timer = setTimeout(attempt, RETRY_MS);
        },
      );
    };
    attempt();
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, []);

  return exchange === null ? waiting(failed) : <ExchangeContext value={exchange}>{children}</ExchangeContext>;
}

/** Call back when the network is back, somebody looks at the page again, or the machine has slept. */
export function useReturn(onReturn: () => void): void {
  const { clock } = useExchange();
  const tell = useEffectEvent(onReturn);
  useEffect(() => {
    const look = () => {
      if (clock.jumped()) void clock.set().catch(() => undefined);
      if (document.visibilityState === "visible") tell();
    };
    const timer = setInterval(() => clock.jumped() && look(), LOOK_MS);
    window.addEventListener("online", look);
    document.addEventListener("visibilitychange", look);
    return () => {
      clearInterval(timer);
      window.removeEventListener("online", look);
      document.removeEventListener("visibilitychange", look);
    };
  }, [clock]);
}

/** How old what is shown may be. */
export function useLiveness(): Liveness {
  const { budget, socket } = useExchange();
  const [liveness, setLiveness] = useState<Liveness>({ state: "polling" });
  useReturn(() => socket.look());
  useEffect(() => {
    const look = () => {
      const next = livenessOf(
        socket.isOpen ? socket.ageMs() : Infinity,
        budget.ageMs(),
        socket.candleAgeMs(),
      );
      setLiveness((known) => (JSON.stringify(known) === JSON.stringify(next) ? known : next));
    };
    look();
    const timer = setInterval(look, LOOK_MS / 2);
    const stop = socket.onStatus(look);
    return () => {
      clearInterval(timer);
      stop();
    };
  }, [budget, socket]);
  return liveness;
}
