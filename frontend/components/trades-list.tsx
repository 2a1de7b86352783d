"use client";

import type { Market } from "@/lib/market";
import type { Trade } from "@/lib/market-data";
import { show } from "@/lib/units";

const CLOCK = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
  timeZone: "UTC",
});

/** The newest trades; green where the taker bought. */
export function TradesList({ market, trades }: { market: Market; trades: readonly Trade[] }) {
  return (
    <>
      <h2 className="px-3 pt-3 pb-2 font-medium text-strong">Trades</h2>
      <div className="grid grid-cols-3 px-3 pb-1 text-xs text-quiet">
        <span>Price ({market.quote})</span>
        <span className="text-right">Size ({market.base})</span>
        <span className="text-right">Time (UTC)</span>
      </div>
      <ol data-testid="trades" className="min-h-0 flex-1 overflow-y-auto pb-2 text-xs">
        {trades.map((trade) => (
          <li key={trade.id} className="grid grid-cols-3 px-3 leading-[1.375rem]">
            <span className={trade.takerSide === "BUY" ? "text-up" : "text-down"}>
              {show(trade.price, market.priceDecimals)}
            </span>
            <span className="text-right">{show(trade.quantity, market.quantityDecimals)}</span>
            <time className="text-right text-quiet">{CLOCK.format(trade.time)}</time>
          </li>
        ))}
      </ol>
      {trades.length === 0 && <p className="px-3 pb-4 text-quiet">No trades yet.</p>}
    </>
  );
}
