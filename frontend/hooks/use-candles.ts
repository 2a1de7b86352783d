"use client";

import { useState } from "react";

import { type Candle, type Interval, candleOfRow, merged } from "@/lib/candles";
import { klineStream, readKline } from "@/lib/streams";

import { useExchange } from "./use-exchange";
import { useStream } from "./use-stream";

const POLL_MS = 3_000;
const WEIGHT = 2;
const CANDLES_MAX = 1_000;
const LOADED = 500;

/** The market's newest candles in an interval, oldest first; null until they are there. */
export function useCandles(symbol: string, interval: Interval): readonly Candle[] | null {
  const { api } = useExchange();
  const [candles, setCandles] = useState<readonly Candle[] | null>(null);
  const add = (newer: readonly Candle[]) => setCandles((known) => merged(known ?? [], newer, CANDLES_MAX));

  useStream(klineStream(symbol, interval), POLL_MS, WEIGHT, {
    refresh: () => {
      api.klines(symbol, interval, LOADED).then(
        (rows) => add(rows.map(candleOfRow)),
        () => undefined,
      );
    },
    onData: (data) => {
      const candle = readKline(data);
      if (candle !== null) add([candle]);
    },
  });
  return candles;
}
