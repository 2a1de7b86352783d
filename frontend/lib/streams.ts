/** What the streams say, read into the frontend's own words. */
import { type Candle } from "./candles";
import { type DepthDiff, readLevels } from "./depth-book";
import { type Trade, type Ticker } from "./market-data";
import { price, quantity, money } from "./units";

type Texts = readonly (readonly [string, string])[];

interface DepthMessage {
  e: "depthUpdate";
  U: number;
  u: number;
  b: Texts;
  a: Texts;
}
interface TradeMessage {
  e: "trade";
  t: number;
  p: string;
  q: string;
  T: number;
  m: boolean;
}
interface KlineMessage {
  e: "kline";
  k: { t: number; o: string; h: string; l: string; c: string; v: string };
}
interface TickerMessage {
  e: "24hrTicker";
  s: string;
  c: string;
  o: string;
  h: string;
  l: string;
  v: string;
  q: string;
}

export const depthStream = (symbol: string): string => `${symbol.toLowerCase()}@depth@100ms`;
export const tradeStream = (symbol: string): string => `${symbol.toLowerCase()}@trade`;
export const klineStream = (symbol: string, interval: string): string =>
  `${symbol.toLowerCase()}@kline_${interval}`;
export const tickerStream = (symbol: string): string => `${symbol.toLowerCase()}@ticker`;

/** Return the event when it is of the wanted kind; null otherwise. */
function of<T extends { e: string }>(data: unknown, kind: T["e"]): T | null {
  return typeof data === "object" && data !== null && (data as { e?: unknown }).e === kind
    ? (data as T)
    : null;
}

export function readDepth(data: unknown): DepthDiff | null {
  const message = of<DepthMessage>(data, "depthUpdate");
  return (
    message && { first: message.U, last: message.u, bids: readLevels(message.b), asks: readLevels(message.a) }
  );
}

export function readTrade(data: unknown): Trade | null {
  const message = of<TradeMessage>(data, "trade");
  return (
    message && {
      id: message.t,
      time: message.T,
      price: price(message.p),
      quantity: quantity(message.q),
      takerSide: message.m ? "SELL" : "BUY",
    }
  );
}

export function readKline(data: unknown): Candle | null {
  const message = of<KlineMessage>(data, "kline");
  if (message === null) return null;
  const { t, o, h, l, c, v } = message.k;
  return { time: t, open: price(o), high: price(h), low: price(l), close: price(c), volume: quantity(v) };
}

export function readTicker(data: unknown): Ticker | null {
  const message = of<TickerMessage>(data, "24hrTicker");
  return (
    message && {
      symbol: message.s,
      last: price(message.c),
      open: price(message.o),
      high: price(message.h),
      low: price(message.l),
      volume: quantity(message.v),
      quoteVolume: money(message.q),
    }
  );
}
