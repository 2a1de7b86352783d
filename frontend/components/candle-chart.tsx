"use client";

import {
  CandlestickSeries,
  ColorType,
  CrosshairMode,
  HistogramSeries,
  type IChartApi,
  type ISeriesApi,
  type UTCTimestamp,
  createChart,
} from "lightweight-charts";
import { useEffect, useRef } from "react";

import type { Candle } from "@/lib/candles";
import type { Market } from "@/lib/market";
import { pixels } from "@/lib/units";

const COLORS = {
  up: "#3fbf8f",
  down: "#ec6a6f",
  text: "#79828f",
  line: "#1a1f29",
  volumeUp: "#3fbf8f40",
  volumeDown: "#ec6a6f40",
};
const SHOWN_MIN = 45;
const SHOWN_MAX = 120;

interface Drawn {
  chart: IChartApi;
  prices: ISeriesApi<"Candlestick">;
  volumes: ISeriesApi<"Histogram">;
  candles: readonly Candle[];
}

/** Candles and volume on TradingView's Lightweight Charts, with its attribution. */
export function CandleChart({
  candles,
  market,
  showsSeconds,
}: {
  candles: readonly Candle[];
  market: Market;
  showsSeconds: boolean;
}) {
  const box = useRef<HTMLDivElement>(null);
  const drawn = useRef<Drawn | null>(null);
  const { priceDecimals, tickSize } = market;

  useEffect(() => {
    if (box.current === null) return;
    const chart = createChart(box.current, {
      autoSize: true,
      layout: {
        background: { type: ColorType.Solid, color: "transparent" },
        textColor: COLORS.text,
        fontSize: 11,
        attributionLogo: true,
      },
      grid: { vertLines: { color: COLORS.line }, horzLines: { color: COLORS.line } },
      localization: {
        priceFormatter: (value: number) =>
          value.toLocaleString("en-US", {
            minimumFractionDigits: priceDecimals,
            maximumFractionDigits: priceDecimals,
          }),
      },
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { borderVisible: false },
      timeScale: { borderVisible: false, timeVisible: true, secondsVisible: showsSeconds, rightOffset: 4 },
    });
    const prices = chart.addSeries(CandlestickSeries, {
      upColor: COLORS.up,
      downColor: COLORS.down,
      wickUpColor: COLORS.up,
      wickDownColor: COLORS.down,
      borderVisible: false,
      priceFormat: { type: "price", precision: priceDecimals, minMove: pixels(tickSize) },
    });
    prices.priceScale().applyOptions({ scaleMargins: { top: 0.08, bottom: 0.24 } });
    const volumes = chart.addSeries(HistogramSeries, {
      priceScaleId: "",
      priceFormat: { type: "volume" },
      lastValueVisible: false,
      priceLineVisible: false,
    });
    volumes.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    drawn.current = { chart, prices, volumes, candles: [] };
    return () => {
      drawn.current = null;
      chart.remove();
    };
  }, [priceDecimals, tickSize, showsSeconds]);

  useEffect(() => {
    if (drawn.current !== null) draw(drawn.current, candles);
  }, [candles, priceDecimals, tickSize, showsSeconds]);

  return (
    <div className="relative flex min-h-0 flex-1 flex-col">
      <div ref={box} data-testid="chart" data-candles={candles.length} className="min-h-0 flex-1" />
      {/* The chart counts in UTC, as the exchange's candles and the list of trades do. */}
      <span className="pointer-events-none absolute right-2 bottom-1.5 text-[0.6875rem] text-quiet">UTC</span>
    </div>
  );
}

/** Redraw what changed: the newest candles where the others are the same, everything otherwise. */
function draw(drawn: Drawn, candles: readonly Candle[]): void {
  const before = drawn.candles;
  drawn.candles = candles;
  const first = candles[0];
  const last = before.at(-1);
  if (first === undefined) return;
  const kept = last === undefined ? -1 : candles.findIndex((candle) => candle.time === last.time);
  if (
    kept >= 0 &&
    kept === before.length - 1 &&
    before[0]?.time === first.time &&
    before.slice(0, -1).every((candle, index) => candle === candles[index])
  ) {
    for (const candle of candles.slice(kept)) {
      drawn.prices.update(priceBar(candle));
      drawn.volumes.update(volumeBar(candle));
    }
    return;
  }
  drawn.prices.setData(candles.map(priceBar));
  drawn.volumes.setData(candles.map(volumeBar));
  if (before.length === 0)
    drawn.chart.timeScale().setVisibleLogicalRange({
      from: candles.length - Math.min(Math.max(candles.length, SHOWN_MIN), SHOWN_MAX),
      to: candles.length + 3,
    });
}

const timeOf = (candle: Candle): UTCTimestamp => (candle.time / 1000) as UTCTimestamp;

function priceBar(candle: Candle) {
  return {
    time: timeOf(candle),
    open: pixels(candle.open),
    high: pixels(candle.high),
    low: pixels(candle.low),
    close: pixels(candle.close),
  };
}

function volumeBar(candle: Candle) {
  return {
    time: timeOf(candle),
    value: pixels(candle.volume),
    color: candle.close >= candle.open ? COLORS.volumeUp : COLORS.volumeDown,
  };
}
