/** Public trades and 24 h statistics. */
import type { components } from "./api-types";
import type { OrderSide } from "./order-draft";
import { type Money, type Price, type Quantity, money, price, quantity } from "./units";

export interface Trade {
  readonly id: number;
  /** In ms. */
  readonly time: number;
  readonly price: Price;
  readonly quantity: Quantity;
  readonly takerSide: OrderSide;
}

export interface Ticker {
  readonly symbol: string;
  readonly last: Price;
  readonly open: Price;
  readonly high: Price;
  readonly low: Price;
  readonly volume: Quantity;
  readonly quoteVolume: Money;
}

export function tradeOf(shape: components["schemas"]["TradeShape"]): Trade {
  return {
    id: shape.id,
    time: shape.time,
    price: price(shape.price),
    quantity: quantity(shape.qty),
    takerSide: shape.isBuyerMaker ? "SELL" : "BUY",
  };
}

export function tickerOf(shape: components["schemas"]["TickerShape"]): Ticker {
  return {
    symbol: shape.symbol,
    last: price(shape.lastPrice),
    open: price(shape.openPrice),
    high: price(shape.highPrice),
    low: price(shape.lowPrice),
    volume: quantity(shape.volume),
    quoteVolume: money(shape.quoteVolume),
  };
}

/** Return trades, newest first, with others put in; each id once. */
export function withTrades(trades: readonly Trade[], others: readonly Trade[], most: number): Trade[] {
  const byId = new Map([...trades, ...others].map((trade) => [trade.id, trade]));
  return [...byId.values()].sort((a, b) => b.id - a.id).slice(0, most);
}
