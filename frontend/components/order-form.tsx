"use client";

import { useState } from "react";

import { useSession } from "@/hooks/use-session";
import { free } from "@/lib/account";
import { type DepthBook, bestPrices } from "@/lib/depth-book";
import type { Market } from "@/lib/market";
import { type OrderDraft, type OrderKind, type OrderSide, checked, parametersOf } from "@/lib/order-draft";
import { type Money, type Price, type Quantity, affordable, format, readPrice, roundDown, show } from "@/lib/units";

import { messageOf } from "./message-of";
import { Tabs } from "./tabs";

const KINDS = ["Limit", "Market"] as const;
const SHARES = [25n, 50n, 75n, 100n];

/** Buy or sell, at a limit or at the market. `picked` is a price that was clicked in the book. */
export function OrderForm({ market, book, picked }: { market: Market; book: DepthBook | null; picked: Price | null }) {
  const session = useSession();
  const [side, setSide] = useState<OrderSide>("BUY");
  const [kind, setKind] = useState<OrderKind>("LIMIT");
  const [price, setPrice] = useState("");
  const [taken, setTaken] = useState(picked);
  const [quantity, setQuantity] = useState("");
  const [notice, setNotice] = useState<{ text: string; isMistake: boolean } | null>(null);
  const [busy, setBusy] = useState(false);

  if (picked !== taken) {
    setTaken(picked);
    if (picked !== null) setPrice(format(picked, market.priceDecimals));
  }

  const { bid, ask } = book ? bestPrices(book) : { bid: null, ask: null };
  const best = side === "BUY" ? ask : bid;
  const isIn = session.email !== null;
  const funds = { base: free(session.account, market.base), quote: free(session.account, market.quote) };
  const draft: OrderDraft = { side, kind, price, quantity };
  const { total, mistake, complete } = checked(draft, market, best, isIn ? funds : null);
  const at = kind === "MARKET" ? best : readPrice(price);

  const fill = (percent: bigint) => {
    const most = side === "SELL" ? roundDown(funds.base as bigint as Quantity, market.lotSize) : at === null ? null : affordable(funds.quote, at, market.lotSize);
    if (most !== null) setQuantity(format(roundDown(((most * percent) / 100n) as Quantity, market.lotSize), market.quantityDecimals));
  };

  const submit = async (event: React.FormEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      const status = await session.placeOrder(parametersOf(draft, market, newClientOrderId()));
      setNotice({ text: NOTICES[status] ?? `The order is ${status}.`, isMistake: false });
      setQuantity("");
    } catch (error) {
      setNotice({ text: messageOf(error), isMistake: true });
    }
    setBusy(false);
  };

  return (
    <form onSubmit={submit} className="flex flex-col gap-3 p-3" noValidate>
      <div className="grid grid-cols-2 gap-1 rounded-lg bg-page p-1">
        {(["BUY", "SELL"] as const).map((each) => (
          <button key={each} type="button" aria-pressed={side === each} onClick={() => setSide(each)} className={`h-9 rounded-md font-semibold transition ${side !== each ? "text-quiet hover:text-text" : each === "BUY" ? "bg-up/15 text-up" : "bg-down/15 text-down"}`}>
            {each === "BUY" ? "Buy" : "Sell"}
          </button>
        ))}
      </div>
      <Tabs names={KINDS} chosen={kind === "LIMIT" ? "Limit" : "Market"} onChoose={(name) => setKind(name === "Limit" ? "LIMIT" : "MARKET")} label="Order type" />
      <Amount label="Price" unit={market.quote} value={kind === "LIMIT" ? price : ""} placeholder={kind === "LIMIT" ? "" : "Market price"} disabled={kind === "MARKET"} onChange={setPrice} />
      <Amount label="Quantity" unit={market.base} value={quantity} placeholder="" onChange={setQuantity} />
      <div className="grid grid-cols-4 gap-1.5">
        {SHARES.map((percent) => (
          <button key={percent.toString()} type="button" disabled={!isIn} onClick={() => fill(percent)} className="h-7 rounded-md border border-line text-xs text-quiet transition hover:bg-raised hover:text-text disabled:opacity-40">
            {percent.toString()}%
          </button>
        ))}
      </div>
      <dl className="flex flex-col gap-1.5 text-xs">
        <Line name="Available" value={isIn ? (side === "BUY" ? showMoney(funds.quote, market.quote, 2) : showMoney(funds.base, market.base, market.quantityDecimals)) : "–"} />
        <Line name={kind === "MARKET" ? "Total, about" : "Total"} value={total === null ? "–" : showMoney(total, market.quote, 2)} />
      </dl>
      <button type="submit" disabled={!isIn || busy || mistake !== null} className={`h-11 rounded-lg font-semibold text-page transition disabled:opacity-40 ${side === "BUY" ? "bg-up hover:brightness-110" : "bg-down hover:brightness-110"}`}>
        {isIn ? `${side === "BUY" ? "Buy" : "Sell"} ${market.base}` : "Sign in to trade"}
      </button>
      <p role="status" aria-live="polite" className={`min-h-5 text-xs ${(complete && mistake !== null) || notice?.isMistake ? "text-down" : "text-quiet"}`}>
        {complete && mistake !== null ? mistake : notice?.text}
      </p>
    </form>
  );
}

/** Return an id that no other order has: 36 characters, the most that the exchange takes. */
const newClientOrderId = (): string => `web-${crypto.randomUUID().replaceAll("-", "")}`;

const NOTICES: Readonly<Record<string, string>> = {
  NEW: "The order rests in the book.",
  PARTIALLY_FILLED: "Filled in part; the rest is in the book.",
  FILLED: "Filled.",
  EXPIRED: "Expired: nobody took the other side.",
};

const showMoney = (value: Money, asset: string, decimals: number): string => `${show(value, decimals)} ${asset}`;

function Amount({ label, unit, value, placeholder, disabled, onChange }: { label: string; unit: string; value: string; placeholder: string; disabled?: boolean; onChange: (text: string) => void }) {
  return (
    <label className={`field ${disabled ? "opacity-50" : ""}`}>
      <span className="text-quiet">{label}</span>
      <input inputMode="decimal" autoComplete="off" aria-label={label} value={value} placeholder={placeholder} disabled={disabled} onChange={(event) => onChange(event.target.value)} className="text-right" />
      <span className="text-quiet">{unit}</span>
    </label>
  );
}

function Line({ name, value }: { name: string; value: string }) {
  return (
    <div className="flex justify-between">
      <dt className="text-quiet">{name}</dt>
      <dd className="text-text">{value}</dd>
    </div>
  );
}
