"use client";

import { useMemo, useRef, useState, useLayoutEffect } from "react";

import { type DepthBook, type LadderRow, bestPrices, ladder } from "@/lib/depth-book";
import type { Market } from "@/lib/market";
import type { Trade } from "@/lib/market-data";
import { type Price, changeBasisPoints, show } from "@/lib/units";

const ROW_PX = 22;
const GROUPINGS = [1n, 10n, 100n, 1000n];

/** Bids and asks with cumulative bars; a click picks a price. */
export function OrderBook({
  market,
  book,
  lastTrade,
  onPick,
}: {
  market: Market;
  book: DepthBook | null;
  lastTrade: Trade | null;
  onPick: (at: Price) => void;
}) {
  const [factor, setFactor] = useState(GROUPINGS[0] ?? 1n);
  const [rows, setRows] = useState(10);
  const asksBox = useRef<HTMLDivElement>(null);
  const grouping = (market.tickSize * factor) as Price;

  useLayoutEffect(() => {
    const box = asksBox.current;
    if (box === null) return;
    const observer = new ResizeObserver(() => setRows(Math.max(1, Math.floor(box.clientHeight / ROW_PX))));
    observer.observe(box);
    return () => observer.disconnect();
  }, []);

  const { bids, asks } = useMemo(
    () => (book ? ladder(book, rows, grouping) : { bids: [], asks: [] }),
    [book, rows, grouping],
  );
  const { bid, ask } = useMemo(() => (book ? bestPrices(book) : { bid: null, ask: null }), [book]);
  const spread = bid !== null && ask !== null ? ((ask - bid) as Price) : null;

  return (
    <>
      <div className="flex items-center justify-between px-3 pt-3 pb-2">
        <h2 className="font-medium text-strong">Order book</h2>
        <label className="text-xs text-quiet">
          <span className="sr-only">Price step</span>
          <select
            value={factor.toString()}
            onChange={(event) => setFactor(BigInt(event.target.value))}
            className="rounded-md bg-raised px-2 py-1 text-text"
          >
            {GROUPINGS.map((each) => (
              <option key={each.toString()} value={each.toString()}>
                {show((market.tickSize * each) as Price, market.priceDecimals)}
              </option>
            ))}
          </select>
        </label>
      </div>
      <div className="grid grid-cols-3 px-3 pb-1 text-xs text-quiet">
        <span>Price ({market.quote})</span>
        <span className="text-right">Size ({market.base})</span>
        <span className="text-right">Total</span>
      </div>
      <div ref={asksBox} data-testid="asks" className="flex min-h-0 flex-1 flex-col-reverse overflow-hidden">
        <Rows rows={asks} side="ask" market={market} onPick={onPick} />
      </div>
      <div className="flex items-baseline gap-2 border-y border-line px-3 py-2">
        <span
          className={`text-lg font-semibold ${lastTrade?.takerSide === "SELL" ? "text-down" : "text-up"}`}
        >
          {lastTrade ? show(lastTrade.price, market.priceDecimals) : "–"}
        </span>
        <span className="ml-auto text-xs text-quiet">
          {spread !== null && bid !== null && ask !== null
            ? `Spread ${show(spread, market.priceDecimals)} (${(changeBasisPoints(bid, ask) / 100).toFixed(2)}%)`
            : ""}
        </span>
      </div>
      <div data-testid="bids" className="flex min-h-0 flex-1 flex-col overflow-hidden">
        <Rows rows={bids} side="bid" market={market} onPick={onPick} />
      </div>
    </>
  );
}

interface RowsProps {
  rows: readonly LadderRow[];
  side: "bid" | "ask";
  market: Market;
  onPick: (at: Price) => void;
}

function Rows({ rows, side, market, onPick }: RowsProps) {
  return rows.map((row) => (
    <button
      key={row.price.toString()}
      type="button"
      onClick={() => onPick(row.price)}
      data-price={show(row.price, market.priceDecimals)}
      className="relative grid shrink-0 grid-cols-3 items-center px-3 text-left text-xs hover:bg-raised"
      style={{ height: ROW_PX }}
    >
      <span
        aria-hidden
        className={`absolute inset-y-px right-0 rounded-l-sm ${side === "bid" ? "bg-up/12" : "bg-down/12"}`}
        style={{ width: `${row.fill * 100}%` }}
      />
      <span className={`relative ${side === "bid" ? "text-up" : "text-down"}`}>
        {show(row.price, market.priceDecimals)}
      </span>
      <span className="relative text-right text-text">{show(row.quantity, market.quantityDecimals)}</span>
      <span className="relative text-right text-quiet">{show(row.total, market.quantityDecimals)}</span>
    </button>
  ));
}
