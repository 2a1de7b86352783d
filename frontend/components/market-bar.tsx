"use client";

import { useEffect } from "react";

import { useExchange } from "@/hooks/use-exchange";
import { useTickers } from "@/hooks/use-tickers";
import type { Market } from "@/lib/market";
import { type Price, short, show } from "@/lib/units";

import { Change } from "./change";

/** Which market this is and how it stands; `last` is the newest trade's price, sooner than the ticker's. */
export function MarketBar({ market, last }: { market: Market; last: Price | null }) {
  const { markets } = useExchange();
  const ticker = useTickers().get(market.symbol);
  const price = last ?? (ticker && ticker.last > 0n ? ticker.last : null);
  const shown = price === null ? "–" : show(price, market.priceDecimals);
  const change = price !== null && ticker ? { ...ticker, last: price } : ticker;

  useEffect(() => {
    document.title = `${shown} ${market.base}/${market.quote}`;
  }, [market, shown]);

  return (
    <div className="panel flex flex-wrap items-center gap-x-8 gap-y-3 px-4 py-3">
      <nav aria-label="Markets" className="-ml-2 flex gap-1 overflow-x-auto">
        {markets.map((each) => (
          <a
            key={each.symbol}
            href={`/trade/${each.symbol}`}
            aria-current={each === market ? "page" : undefined}
            className={`rounded-lg px-3 py-1.5 font-medium whitespace-nowrap transition ${each === market ? "bg-raised text-strong" : "text-quiet hover:text-text"}`}
          >
            {each.base}
            <span className="opacity-50">/{each.quote}</span>
          </a>
        ))}
      </nav>
      <div className="flex items-baseline gap-3">
        <span data-testid="last-price" className="text-2xl font-semibold tracking-tight text-strong">
          {shown}
        </span>
        <Change ticker={change} />
      </div>
      <dl className="flex gap-6 text-xs lg:ml-auto">
        <Fact
          name="24h high"
          value={ticker && ticker.high > 0n ? show(ticker.high, market.priceDecimals) : "–"}
        />
        <Fact
          name="24h low"
          value={ticker && ticker.low > 0n ? show(ticker.low, market.priceDecimals) : "–"}
        />
        <Fact name={`24h volume (${market.quote})`} value={ticker ? short(ticker.quoteVolume) : "–"} />
      </dl>
    </div>
  );
}

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt className="text-quiet">{name}</dt>
      <dd className="mt-0.5 text-sm text-text">{value}</dd>
    </div>
  );
}
