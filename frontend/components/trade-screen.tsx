"use client";

import Link from "next/link";
import { usePathname } from "next/navigation";
import { useState } from "react";

import { useDepth } from "@/hooks/use-depth";
import { useExchange } from "@/hooks/use-exchange";
import { useTrades } from "@/hooks/use-trades";
import type { Market } from "@/lib/market";
import { AccountPanel } from "./account-panel";
import { ChartPanel } from "./chart-panel";
import { MarketBar } from "./market-bar";
import { OrderBook } from "./order-book";
import { OrderForm, type Pick } from "./order-form";
import { Tabs } from "./tabs";
import { TradesList } from "./trades-list";

/** The market that the path names: its chart, book and trades, and what one can do there. */
export function TradeScreen() {
  const { markets } = useExchange();
  const symbol = usePathname().split("/")[2]?.toUpperCase();
  const market = symbol ? markets.find((each) => each.symbol === symbol) : markets[0];
  if (market === undefined) {
    return (
      <div className="grid flex-1 place-items-center p-8 text-center">
        <p>
          There is no market {symbol}.{" "}
          <Link href="/" className="text-accent">
            All markets
          </Link>
        </p>
      </div>
    );
  }
  return <MarketScreen key={market.symbol} market={market} />;
}

const VIEWS = ["Chart", "Book", "Trades"] as const;

function MarketScreen({ market }: { market: Market }) {
  const book = useDepth(market.symbol);
  const trades = useTrades(market.symbol);
  const [view, setView] = useState<(typeof VIEWS)[number]>("Chart");
  const [picked, setPicked] = useState<Pick | null>(null);
  const shown = (name: typeof view) => (view === name ? "flex" : "hidden lg:flex");

  return (
    <div className="flex flex-1 flex-col gap-2 p-2 lg:grid lg:h-[calc(100dvh-3.5rem)] lg:min-h-[46rem] lg:flex-none lg:grid-cols-[minmax(0,1fr)_18rem_20rem] lg:grid-rows-[auto_minmax(0,1fr)_15rem]">
      <div className="lg:col-span-3">
        <MarketBar market={market} last={trades[0]?.price ?? null} />
      </div>
      <div className="lg:hidden">
        <Tabs names={VIEWS} chosen={view} onChoose={setView} label="View" />
      </div>
      <section
        aria-label="Chart"
        className={`panel ${shown("Chart")} h-[24rem] min-w-0 flex-col overflow-hidden lg:h-auto`}
      >
        <ChartPanel market={market} />
      </section>
      <section
        aria-label="Order book"
        className={`panel ${shown("Book")} h-[30rem] flex-col overflow-hidden lg:row-span-2 lg:h-auto`}
      >
        <OrderBook
          market={market}
          book={book}
          lastTrade={trades[0] ?? null}
          onPick={(price) => setPicked((before) => ({ price, number: (before?.number ?? 0) + 1 }))}
        />
      </section>
      <div className="contents lg:row-span-2 lg:flex lg:min-h-0 lg:flex-col lg:gap-2">
        <section aria-label="Order form" className="panel order-1 flex shrink-0 flex-col lg:order-none">
          <OrderForm market={market} book={book} picked={picked} />
        </section>
        <section
          aria-label="Trades"
          className={`panel ${shown("Trades")} h-[30rem] min-h-0 flex-col overflow-hidden lg:h-auto lg:flex-1`}
        >
          <TradesList market={market} trades={trades} />
        </section>
      </div>
      <section
        aria-label="Account"
        className="panel order-2 flex min-w-0 flex-col overflow-hidden lg:order-none"
      >
        <AccountPanel market={market} />
      </section>
    </div>
  );
}
