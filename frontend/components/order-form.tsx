"use client";

import { useState } from "react";

import { useSession } from "@/hooks/use-session";
import { free } from "@/lib/account";
import { type DepthBook, bestPrices, bought } from "@/lib/depth-book";
import type { Market } from "@/lib/market";
import {
  type OrderDraft,
  type OrderKind,
  type OrderSide,
  bound,
  checked,
  parametersOf,
} from "@/lib/order-draft";
import { outcomeOf } from "@/lib/outcome";
import {
  type Money,
  type Price,
  type Quantity,
  affordable,
  format,
  per,
  readPrice,
  roundDown,
  show,
} from "@/lib/units";

import { messageOf } from "./message-of";
import { Tabs } from "./tabs";

const KINDS = ["Limit", "Market"] as const;
const SHARES = [25n, 50n, 75n, 100n];
const NEVER_ARRIVED = "The order was not received and can no longer be. Nothing was traded.";

/** A price that was clicked in the book; the same price clicked again is another pick. */
export interface Pick {
  readonly price: Price;
  readonly number: number;
}

interface Notice {
  readonly text: string;
  readonly tone: "quiet" | "good" | "bad";
}

/** Buy or sell, at a limit or at the market. */
export function OrderForm({
  market,
  book,
  picked,
}: {
  market: Market;
  book: DepthBook | null;
  picked: Pick | null;
}) {
  const session = useSession();
  const [side, setSide] = useState<OrderSide>("BUY");
  const [kind, setKind] = useState<OrderKind>("LIMIT");
  const [price, setPrice] = useState("");
  const [taken, setTaken] = useState(picked);
  const [quantity, setQuantity] = useState("");
  const [notice, setNotice] = useState<Notice | null>(null);
  const [busy, setBusy] = useState(false);
  /** The draft that was pressed once although there is a warning: the second press sends it. */
  const [confirmed, setConfirmed] = useState<string | null>(null);
  const [resolved, setResolved] = useState(session.resolved);

  if (picked !== taken) {
    setTaken(picked);
    if (picked !== null) {
      setKind("LIMIT");
      setPrice(format(picked.price, market.priceDecimals));
    }
  }
  // Of an order that was sent before the page was loaded anew.
  if (session.resolved !== resolved) {
    setResolved(session.resolved);
    if (!busy && session.resolved !== null) setNotice(noticeOf(session.resolved.order, market));
  }

  const isIn = session.email !== null;
  const funds = { base: free(session.account, market.base), quote: free(session.account, market.quote) };
  const draft: OrderDraft = { side, kind, price, quantity };
  const { total, walk, mistake, warning, complete } = checked(draft, market, book, isIn ? funds : null);
  const { ask } = book ? bestPrices(book) : { ask: null };
  const name = JSON.stringify(draft);
  const isConfirmed = confirmed === name;
  const isLooking = session.looking !== null;

  const edit =
    <T,>(set: (value: T) => void) =>
    (value: T) => {
      set(value);
      setNotice(null);
      setConfirmed(null);
    };

  const most = (): Quantity | null => {
    if (side === "SELL") return roundDown(funds.base as bigint as Quantity, market.lotSize);
    if (kind === "MARKET")
      return book && ask !== null
        ? bought(book, funds.quote, market.lotSize, bound("BUY", ask, market))
        : null;
    const at = readPrice(price);
    return at === null ? null : affordable(funds.quote, at, market.lotSize);
  };
  const fill = (percent: bigint) => {
    const all = most();
    if (all !== null)
      edit(setQuantity)(
        format(roundDown(((all * percent) / 100n) as Quantity, market.lotSize), market.quantityDecimals),
      );
  };

  const submit = async (event: React.FormEvent) => {
    event.preventDefault();
    if (!isIn) {
      session.ask(true);
      return;
    }
    if (mistake !== null || busy || isLooking) return;
    if (warning !== null && !isConfirmed) {
      setConfirmed(name);
      setNotice(null);
      return;
    }
    setBusy(true);
    setConfirmed(null);
    setNotice(null);
    try {
      const order = await session.placeOrder(parametersOf(draft, market, newClientOrderId()));
      setNotice(noticeOf(order, market));
      if (order !== null) setQuantity("");
    } catch (error) {
      setNotice({ text: messageOf(error), tone: "bad" });
    }
    setBusy(false);
  };

  const verb = side === "BUY" ? "Buy" : "Sell";
  const label = !isIn
    ? "Sign in to trade"
    : isLooking
      ? "Looking up the order …"
      : busy
        ? "Sending …"
        : isConfirmed
          ? `${verb} anyway`
          : `${verb} ${market.base}`;
  const said = saidOf({
    isLooking,
    notice,
    mistake: complete ? mistake : null,
    warning: isConfirmed ? `${warning} Press again to confirm.` : warning,
  });

  return (
    <form onSubmit={submit} className="flex flex-col gap-3 p-3" noValidate aria-busy={busy || isLooking}>
      <div className="grid grid-cols-2 gap-1 rounded-lg bg-page p-1">
        {(["BUY", "SELL"] as const).map((each) => (
          <button
            key={each}
            type="button"
            aria-pressed={side === each}
            onClick={() => edit(setSide)(each)}
            className={`h-9 rounded-md font-semibold transition ${side !== each ? "text-quiet hover:text-text" : each === "BUY" ? "bg-up/15 text-up" : "bg-down/15 text-down"}`}
          >
            {each === "BUY" ? "Buy" : "Sell"}
          </button>
        ))}
      </div>
      <Tabs
        names={KINDS}
        chosen={kind === "LIMIT" ? "Limit" : "Market"}
        onChoose={(each) => edit(setKind)(each === "Limit" ? "LIMIT" : "MARKET")}
        label="Order type"
      />
      <Amount
        label="Price"
        unit={market.quote}
        value={kind === "LIMIT" ? price : ""}
        placeholder={kind === "LIMIT" ? "" : "Market price"}
        disabled={kind === "MARKET"}
        onChange={edit(setPrice)}
      />
      <Amount
        label="Quantity"
        unit={market.base}
        value={quantity}
        placeholder=""
        onChange={edit(setQuantity)}
      />
      <div className="grid grid-cols-4 gap-1.5">
        {SHARES.map((percent) => (
          <button
            key={percent.toString()}
            type="button"
            disabled={isIn && most() === null}
            onClick={() => (isIn ? fill(percent) : session.ask(true))}
            className="h-7 rounded-md border border-line text-xs text-quiet transition hover:bg-raised hover:text-text disabled:opacity-40"
          >
            {percent.toString()}%
          </button>
        ))}
      </div>
      <dl className="flex flex-col gap-1.5 text-xs">
        <Line
          name="Available"
          value={
            isIn
              ? side === "BUY"
                ? showMoney(funds.quote, market.quote, 2)
                : showMoney(funds.base, market.base, market.quantityDecimals)
              : "–"
          }
        />
        <Line
          name={kind === "MARKET" ? "Total, about" : "Total"}
          value={total === null ? "–" : showMoney(total, market.quote, 2)}
        />
        {kind === "MARKET" && (
          <Line
            name="Average price, about"
            value={
              walk === null || walk.quantity === 0n
                ? "–"
                : showMoney(
                    per(walk.cost, walk.quantity) as bigint as Money,
                    market.quote,
                    market.priceDecimals,
                  )
            }
          />
        )}
      </dl>
      <button
        type="submit"
        disabled={isIn && (busy || isLooking || mistake !== null)}
        className={`flex h-11 items-center justify-center gap-2 rounded-lg font-semibold text-page transition disabled:opacity-40 ${isConfirmed ? "bg-warn" : side === "BUY" ? "bg-up" : "bg-down"} hover:brightness-110`}
      >
        {(busy || isLooking) && (
          <span
            aria-hidden
            className="size-4 animate-spin rounded-full border-2 border-page/40 border-t-page"
          />
        )}
        {label}
      </button>
      <p
        role="status"
        aria-live="polite"
        data-tone={said?.tone}
        className={`min-h-5 text-xs ${said === null ? "" : COLORS[said.tone]}`}
      >
        {said?.text}
      </p>
    </form>
  );
}

const COLORS = { quiet: "text-quiet", good: "text-text", bad: "text-down", warn: "text-warn" } as const;

/** Return an id that no other order has: 36 characters, the most that the exchange takes. */
const newClientOrderId = (): string => `web-${crypto.randomUUID().replaceAll("-", "")}`;

function noticeOf(order: Parameters<typeof outcomeOf>[0] | null, market: Market): Notice {
  if (order === null) return { text: NEVER_ARRIVED, tone: "bad" };
  if (order.symbol !== market.symbol)
    return {
      text: `The order in ${order.symbol} without a response was received: ${order.status}.`,
      tone: "quiet",
    };
  const { text, isWhole } = outcomeOf(order, market);
  return { text, tone: isWhole ? "good" : "bad" };
}

/** Return the one thing that is said below the button: what happens first, then what is wrong, then what happened. */
function saidOf({
  isLooking,
  notice,
  mistake,
  warning,
}: {
  isLooking: boolean;
  notice: Notice | null;
  mistake: string | null;
  warning: string | null;
}): { text: string; tone: keyof typeof COLORS } | null {
  if (isLooking)
    return {
      text: "No response. The order may have been received: looking it up. No other order is sent until its status is known.",
      tone: "warn",
    };
  if (mistake !== null) return { text: mistake, tone: "bad" };
  if (warning !== null) return { text: warning, tone: "warn" };
  return notice;
}

const showMoney = (value: Money, asset: string, decimals: number): string =>
  `${show(value, decimals)} ${asset}`;

function Amount({
  label,
  unit,
  value,
  placeholder,
  disabled,
  onChange,
}: {
  label: string;
  unit: string;
  value: string;
  placeholder: string;
  disabled?: boolean;
  onChange: (text: string) => void;
}) {
  return (
    <label className={`field ${disabled ? "opacity-50" : ""}`}>
      <span className="text-quiet">{label}</span>
      <input
        inputMode="decimal"
        autoComplete="off"
        aria-label={label}
        value={value}
        placeholder={placeholder}
        disabled={disabled}
        onChange={(event) => onChange(event.target.value)}
        className="text-right"
      />
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
