/** A market and the rules of its orders, read from exchangeInfo. */
import type { components } from "./api-types";
import { type Money, type Price, type Quantity, decimalsOf, money, price, quantity } from "./units";

export interface Market {
  readonly symbol: string;
  readonly base: string;
  readonly quote: string;
  readonly tickSize: Price;
  readonly lotSize: Quantity;
  readonly quantityMin: Quantity;
  readonly quantityMax: Quantity;
  readonly notionalMin: Money;
  /** How far beyond the best price a market order trades, in 1e-8: 5000000 is 5 %. */
  readonly slippage: bigint;
  readonly priceDecimals: number;
  readonly quantityDecimals: number;
}

type SymbolShape = components["schemas"]["SymbolShape"];

export function marketOf(shape: SymbolShape): Market {
  const tickSize = price(filtered(shape, "PRICE_FILTER", "tickSize"));
  const lotSize = quantity(filtered(shape, "LOT_SIZE", "stepSize"));
  return {
    symbol: shape.symbol,
    base: shape.baseAsset,
    quote: shape.quoteAsset,
    tickSize,
    lotSize,
    quantityMin: quantity(filtered(shape, "LOT_SIZE", "minQty")),
    quantityMax: quantity(filtered(shape, "LOT_SIZE", "maxQty")),
    notionalMin: money(filtered(shape, "NOTIONAL", "minNotional")),
    slippage: price(shape.marketSlippage),
    priceDecimals: decimalsOf(tickSize),
    quantityDecimals: decimalsOf(lotSize),
  };
}

function filtered(shape: SymbolShape, type: string, field: string): string {
  const filter: Readonly<Record<string, unknown>> | undefined = shape.filters.find(
    (each) => each.filterType === type,
  );
  const value = filter?.[field];
  if (typeof value !== "string") throw new TypeError(`${shape.symbol}: ${type} has no ${field}`);
  return value;
}
