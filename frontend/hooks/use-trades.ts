"use client";

import { useState } from "react";

import { type Trade, tradeOf, withTrades } from "@/lib/market-data";
import { readTrade, tradeStream } from "@/lib/streams";

import { useExchange } from "./use-exchange";
import { useStream } from "./use-stream";

const POLL_MS = 5_000;
const WEIGHT = 25;
const TRADES_MAX = 60;

/** The market's newest trades, newest first. */
export function useTrades(symbol: string): readonly Trade[] {
  const { api } = useExchange();
  const [trades, setTrades] = useState<readonly Trade[]>([]);

  useStream(tradeStream(symbol), POLL_MS, WEIGHT, {
    refresh: () => {
      api.trades(symbol, TRADES_MAX).then(
        (found) => setTrades((known) => withTrades(known, found.map(tradeOf), TRADES_MAX)),
        () => undefined,
      );
    },
    onData: (data) => {
      const trade = readTrade(data);
      if (trade !== null) setTrades((known) => withTrades(known, [trade], TRADES_MAX));
    },
  });
  return trades;
}
