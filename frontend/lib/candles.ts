/** Candles: read from REST arrays and stream messages, and merged by their opening time. */
import { type Price, type Quantity, price, quantity } from "./units";

export const INTERVALS = [
  "1s",
  "1m",
  "3m",
  "5m",
  "15m",
  "30m",
  "1h",
  "2h",
  "4h",
  "6h",
  "8h",
  "12h",
  "1d",
  "3d",
  "1w",
  "1M",
] as const;
export type Interval = (typeof INTERVALS)[number];

export interface Candle {
  /** When it opened, in ms. */
  readonly time: number;
  readonly open: Price;
  readonly high: Price;
  readonly low: Price;
  readonly close: Price;
  readonly volume: Quantity;
}

type Row = readonly [
  time: number,
  open: string,
  high: string,
  low: string,
  close: string,
  volume: string,
  ...rest: unknown[],
];

/** Return the candle of a REST row. */
export function candleOfRow([time, open, high, low, close, volume]: Row): Candle {
  return {
    time,
    open: price(open),
    high: price(high),
    low: price(low),
    close: price(close),
    volume: quantity(volume),
  };
}

/** Return candles with `newer` ones put in: what opened at the same time is replaced, the order is by time, the oldest are let go. */
export function merged(candles: readonly Candle[], newer: readonly Candle[], most: number): Candle[] {
  const first = newer[0];
  const last = candles.at(-1);
  if (first === undefined) return [...candles];
  if (last === undefined || first.time > last.time) return [...candles, ...newer].slice(-most);
  const byTime = new Map(candles.map((candle) => [candle.time, candle]));
  for (const candle of newer) byTime.set(candle.time, candle);
  return [...byTime.values()].sort((a, b) => a.time - b.time).slice(-most);
}
