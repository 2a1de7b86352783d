"use client";

import { createContext, useContext, useEffect, useState, useSyncExternalStore } from "react";

import { type PublicApi, publicApi } from "@/lib/api";
import { type Market, marketOf } from "@/lib/market";

import { StreamSocket } from "./stream-socket";

export interface Exchange {
  readonly restUrl: string;
  readonly wsUrl: string;
  readonly api: PublicApi;
  readonly socket: StreamSocket;
  readonly markets: readonly Market[];
  /** The exchange's time in ms, whatever this machine's clock says. */
  readonly now: () => number;
}

const ExchangeContext = createContext<Exchange | null>(null);

export function useExchange(): Exchange {
  const exchange = useContext(ExchangeContext);
  if (exchange === null) throw new Error("outside of ExchangeProvider");
  return exchange;
}

const RETRY_MS = 1_500;

async function connect(): Promise<Exchange> {
  const { restUrl, wsUrl } = (await (await fetch("/config.json", { cache: "no-store" })).json()) as { restUrl: string; wsUrl: string };
  const api = publicApi(restUrl);
  const asked = Date.now();
  const info = await api.exchangeInfo();
  const ahead = info.serverTime - (asked + Date.now()) / 2;
  return { restUrl, wsUrl, api, socket: new StreamSocket(wsUrl), markets: info.symbols.map(marketOf), now: () => Math.round(Date.now() + ahead) };
}

/** Finds out where the exchange is and what it trades; shows `waiting` until it answers. */
export function ExchangeProvider({ children, waiting }: { children: React.ReactNode; waiting: (failed: boolean) => React.ReactNode }) {
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

/** Whether the streams' connection is open. */
export function useIsLive(): boolean {
  const { socket } = useExchange();
  return useSyncExternalStore((tell) => socket.onStatus(tell), () => socket.isOpen, () => false);
}
