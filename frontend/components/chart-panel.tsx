"use client";

import { useState } from "react";

import { useCandles } from "@/hooks/use-candles";
import { INTERVALS, type Interval } from "@/lib/candles";
import type { Market } from "@/lib/market";

import { CandleChart } from "./candle-chart";

/** The chart with its intervals. */
export function ChartPanel({ market }: { market: Market }) {
  const [interval, setInterval] = useState<Interval>("1m");
  return (
    <>
      <div
        role="tablist"
        aria-label="Interval"
        className="flex shrink-0 gap-0.5 overflow-x-auto border-b border-line px-2 py-1.5 text-xs"
      >
        {INTERVALS.map((each) => (
          <button
            key={each}
            type="button"
            role="tab"
            aria-selected={each === interval}
            onClick={() => setInterval(each)}
            className={`min-w-9 rounded-md px-2 py-1.5 font-medium transition ${each === interval ? "bg-raised text-strong" : "text-quiet hover:text-text"}`}
          >
            {each}
          </button>
        ))}
      </div>
      <LiveChart key={interval} market={market} interval={interval} />
    </>
  );
}

function LiveChart({ market, interval }: { market: Market; interval: Interval }) {
  const candles = useCandles(market.symbol, interval);
  return <CandleChart candles={candles ?? []} market={market} showsSeconds={interval === "1s"} />;
}
