"use client";

import { useExchange } from "@/hooks/use-exchange";
import { useTickers } from "@/hooks/use-tickers";
import type { Market } from "@/lib/market";
import type { Ticker } from "@/lib/market-data";
import { short, show } from "@/lib/units";

import { Change } from "./change";

/** All markets: price, change and volume, live. */
export function MarketsTable() {
  const { markets } = useExchange();
  const tickers = useTickers();
  return (
    <div className="mx-auto w-full max-w-5xl px-4 py-10 lg:py-16">
      <h1 className="text-3xl font-semibold tracking-tight text-strong">Markets</h1>
      <p className="mt-2 text-quiet">Spot, live. Prices, changes and volumes are of the last 24 hours.</p>
      <div className="panel mt-8 overflow-hidden">
        <div className="grid grid-cols-[1fr_auto_4.75rem] gap-x-4 border-b border-line px-5 py-3 text-xs text-quiet sm:grid-cols-[1.4fr_1fr_1fr_1fr_1fr_1fr]">
          <span>Market</span>
          <span className="text-right">Price</span>
          <span className="text-right">Change</span>
          <span className="hidden text-right sm:block">High</span>
          <span className="hidden text-right sm:block">Low</span>
          <span className="hidden text-right sm:block">Volume</span>
        </div>
        {markets.map((market) => (
          <Row key={market.symbol} market={market} ticker={tickers.get(market.symbol)} />
        ))}
      </div>
    </div>
  );
}

function Row({ market, ticker }: { market: Market; ticker: Ticker | undefined }) {
  const price = (value: Ticker["last"] | undefined) =>
    value === undefined || value === 0n ? "–" : show(value, market.priceDecimals);
  return (
    <a
      href={`/trade/${market.symbol}`}
      data-testid={`market-${market.symbol}`}
      className="grid grid-cols-[1fr_auto_4.75rem] items-center gap-x-4 border-b border-line px-5 py-4 transition last:border-0 hover:bg-raised sm:grid-cols-[1.4fr_1fr_1fr_1fr_1fr_1fr]"
    >
      <span className="flex items-center gap-3">
        <Coin asset={market.base} />
        <span>
          <span className="font-semibold text-strong">{market.base}</span>
          <span className="text-quiet"> / {market.quote}</span>
          <span className="block text-xs text-quiet sm:hidden">
            {ticker ? `Volume ${short(ticker.quoteVolume)}` : ""}
          </span>
        </span>
      </span>
      <span className="text-right text-base font-medium text-strong">{price(ticker?.last)}</span>
      <span className="text-right">
        <Change ticker={ticker} />
      </span>
      <span className="hidden text-right sm:block">{price(ticker?.high)}</span>
      <span className="hidden text-right sm:block">{price(ticker?.low)}</span>
      <span className="hidden text-right sm:block">
        {ticker ? short(ticker.quoteVolume) : "–"} <span className="text-quiet">{market.quote}</span>
      </span>
    </a>
  );
}

/** A disc in a colour of the asset's own, made from its letters. */
function Coin({ asset }: { asset: string }) {
  const hue = [...asset].reduce((sum, letter) => (sum * 37 + letter.charCodeAt(0)) % 360, 0);
  return (
    <span
      aria-hidden
      className="grid size-8 place-items-center rounded-full text-[0.65rem] font-bold"
      style={{ background: `hsl(${hue} 45% 22%)`, color: `hsl(${hue} 80% 78%)` }}
    >
      {asset.slice(0, 3)}
    </span>
  );
}
