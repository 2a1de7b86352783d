"use client";

import { useEffect, useState } from "react";

import { type Ticker, tickerOf } from "@/lib/market-data";
import { readTicker, tickerStream } from "@/lib/streams";

import { useExchange } from "./use-exchange";

const POLL_MS = 3_000;
/** Of the statistics of up to 20, up to 100, and more markets. */
const weightOf = (count: number): number => (count <= 20 ? 2 : count <= 100 ? 40 : 80);

/** The 24 h statistics of all markets by symbol. */
export function useTickers(): ReadonlyMap<string, Ticker> {
  const { api, budget, markets, socket } = useExchange();
  const [tickers, setTickers] = useState<ReadonlyMap<string, Ticker>>(new Map());

  useEffect(() => {
    const running = new Set<string>();
    const symbols = markets.map((market) => market.symbol);
    const put = (found: readonly Ticker[]) =>
      setTickers((known) => new Map([...known, ...found.map((ticker) => [ticker.symbol, ticker] as const)]));
    const refresh = () =>
      api.tickers(symbols).then(
        (found) => put(found.map(tickerOf)),
        () => undefined,
      );
    void refresh();
    const timer = setInterval(
      () => running.size < symbols.length && budget.mayPoll(weightOf(symbols.length)) && void refresh(),
      POLL_MS,
    );
    const stops = symbols.map((symbol) =>
      socket.listen(tickerStream(symbol), {
        onStart: () => void running.add(symbol),
        onStop: () => void running.delete(symbol),
        onData: (data) => {
          const ticker = readTicker(data);
          if (ticker !== null) put([ticker]);
        },
      }),
    );
    return () => {
      clearInterval(timer);
      for (const stop of stops) stop();
    };
  }, [api, budget, markets, socket]);
  return tickers;
}
