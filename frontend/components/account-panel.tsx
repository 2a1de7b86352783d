"use client";

import { useState } from "react";

import { useExchange } from "@/hooks/use-exchange";
import { useSession } from "@/hooks/use-session";
import type { Account, OpenOrder } from "@/lib/account";
import type { Market } from "@/lib/market";
import { show, showAll } from "@/lib/units";

import { messageOf } from "./message-of";
import { Tabs } from "./tabs";

const VIEWS = ["Open orders", "Balances"] as const;

/** What the account has and waits for. */
export function AccountPanel({ market }: { market: Market }) {
  const { account, email, isUnverified, trouble } = useSession();
  const [view, setView] = useState<(typeof VIEWS)[number]>("Open orders");
  return (
    <>
      <div className="flex items-center justify-between gap-3 p-2">
        <Tabs names={VIEWS} chosen={view} onChoose={setView} label="Account" />
        {email !== null && <Faucet market={market} />}
      </div>
      <div className="min-h-24 flex-1 overflow-auto px-3 pb-3 text-[0.8125rem]">
        {trouble !== null && (
          <p role="alert" className="pb-2 text-xs text-warn">
            {trouble}
          </p>
        )}
        {email === null ? (
          <Empty>Sign in to see your orders and balances.</Empty>
        ) : isUnverified ? (
          <Unverified email={email} />
        ) : view === "Balances" ? (
          <Balances account={account} />
        ) : (
          <OpenOrders account={account} />
        )}
      </div>
    </>
  );
}

const Empty = ({ children }: { children: React.ReactNode }) => (
  <p className="py-8 text-center text-quiet">{children}</p>
);

/** Nothing of the account can be shown before its address is verified. */
function Unverified({ email }: { email: string }) {
  const { sendVerification } = useSession();
  const [said, setSaid] = useState<string | null>(null);
  const again = () =>
    sendVerification().then(
      () => setSaid("Email sent. You can request one per minute."),
      (error) => setSaid(messageOf(error)),
    );
  return (
    <div className="space-y-3 py-6 text-center" data-testid="unverified">
      <p className="text-strong">Verify your address to trade: open the link in the mail to {email}.</p>
      <button
        type="button"
        onClick={again}
        className="h-8 rounded-lg border border-line px-3 text-xs font-medium transition hover:bg-raised hover:text-strong"
      >
        Resend email
      </button>
      {said !== null && (
        <p role="status" className="text-xs text-quiet">
          {said}
        </p>
      )}
    </div>
  );
}

const GIFT = { base: "10", quote: "100000" };

/** Play money, where the exchange gives it away. */
function Faucet({ market }: { market: Market }) {
  const { requestFunds } = useSession();
  const [busy, setBusy] = useState(false);
  const [mistake, setMistake] = useState<string | null>(null);
  const ask = async () => {
    setBusy(true);
    setMistake(null);
    try {
      await requestFunds(market.quote, GIFT.quote);
      await requestFunds(market.base, GIFT.base);
    } catch (error) {
      setMistake(messageOf(error));
    }
    setBusy(false);
  };
  return (
    <span className="flex items-center gap-3 text-xs">
      {mistake !== null && (
        <span role="alert" className="text-down">
          {mistake}
        </span>
      )}
      <button
        type="button"
        disabled={busy}
        onClick={ask}
        className="h-8 rounded-lg border border-line px-3 font-medium whitespace-nowrap transition hover:bg-raised hover:text-strong disabled:opacity-50"
      >
        Get test funds
      </button>
    </span>
  );
}

function Balances({ account }: { account: Account }) {
  return (
    <table data-testid="balances" className="w-full text-right">
      <thead className="text-xs text-quiet">
        <tr>
          <th className="py-1.5 text-left font-normal">Asset</th>
          <th className="font-normal">Available</th>
          <th className="font-normal">In orders</th>
        </tr>
      </thead>
      <tbody>
        {account.balances.map((balance) => (
          <tr key={balance.asset} data-asset={balance.asset} className="border-t border-line/60">
            <td className="py-2 text-left font-medium text-strong">{balance.asset}</td>
            <td data-field="free">{showAll(balance.free)}</td>
            <td data-field="locked" className="text-quiet">
              {showAll(balance.locked)}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function OpenOrders({ account }: { account: Account }) {
  if (account.orders.length === 0) return <Empty>No open orders.</Empty>;
  return (
    <table data-testid="open-orders" className="w-full text-right">
      <thead className="text-xs text-quiet">
        <tr>
          <th className="py-1.5 text-left font-normal">Market</th>
          <th className="font-normal">Price</th>
          <th className="font-normal">Quantity</th>
          <th className="font-normal">Filled</th>
          <th className="w-20 font-normal">
            <span className="sr-only">Cancel</span>
          </th>
        </tr>
      </thead>
      <tbody>
        {account.orders.map((order) => (
          <OrderRow key={order.id} order={order} />
        ))}
      </tbody>
    </table>
  );
}

function OrderRow({ order }: { order: OpenOrder }) {
  const { markets } = useExchange();
  const { cancelOrder } = useSession();
  const [state, setState] = useState<{ busy: boolean; mistake: string | null }>({
    busy: false,
    mistake: null,
  });
  const market = markets.find((each) => each.symbol === order.symbol);
  if (market === undefined) return null;
  const cancel = async () => {
    setState({ busy: true, mistake: null });
    try {
      await cancelOrder(order.symbol, order.id);
    } catch (error) {
      setState({ busy: false, mistake: messageOf(error) });
    }
  };
  return (
    <>
      <tr data-order={order.id} className="border-t border-line/60">
        <td className="py-2 text-left">
          <span className={order.side === "BUY" ? "text-up" : "text-down"}>
            {order.side === "BUY" ? "Buy" : "Sell"}
          </span>{" "}
          <span className="font-medium text-strong">{market.base}</span>
        </td>
        <td data-field="price">{show(order.price, market.priceDecimals)}</td>
        <td data-field="quantity">{show(order.quantity, market.quantityDecimals)}</td>
        <td data-field="filled" className="text-quiet">
          {show(order.filled, market.quantityDecimals)}
        </td>
        <td>
          <button
            type="button"
            disabled={state.busy}
            onClick={cancel}
            className="rounded-md px-2 py-1 text-xs text-quiet transition hover:bg-raised hover:text-strong disabled:opacity-50"
          >
            {state.busy ? "Canceling …" : "Cancel"}
          </button>
        </td>
      </tr>
      {state.mistake !== null && (
        <tr>
          <td colSpan={5} role="alert" className="pb-2 text-left text-xs text-down">
            Not canceled: {state.mistake}
          </td>
        </tr>
      )}
    </>
  );
}
