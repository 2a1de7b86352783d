"use client";

import { createContext, useCallback, useContext, useEffect, useMemo, useRef, useState } from "react";

import { type Account, NO_ACCOUNT, afterEvent, balanceOf, orderOf, refreshed, withoutOrder } from "@/lib/account";
import { ApiError, sessionApi, signedApi } from "@/lib/api";
import type { ApiKey } from "@/lib/signing";

import { useExchange } from "./use-exchange";
import { openUserStream } from "./user-stream";

/** Who is signed in. It is kept for this tab only, and gone when the tab is closed. */
interface Identity {
  readonly email: string;
  readonly token: string;
  readonly apiKey: ApiKey;
}

export interface Session {
  /** Null: nobody is signed in. */
  readonly email: string | null;
  readonly account: Account;
  signIn(email: string, password: string): Promise<void>;
  signUp(email: string, password: string): Promise<void>;
  signOut(): void;
  requestFunds(asset: string, amount: string): Promise<void>;
  /** Send an order; returns its status, as NEW or FILLED. */
  placeOrder(parameters: Record<string, string>): Promise<string>;
  cancelOrder(symbol: string, orderId: number): Promise<void>;
}

const STORED = "exchange.session";
const POLL_MS = 2_000;
const SETTLE_MS = 400;
const KEY_REFUSALS: ReadonlySet<number> = new Set([-2014, -2015]);

const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (session === null) throw new Error("outside of SessionProvider");
  return session;
}

function stored(): Identity | null {
  try {
    return JSON.parse(sessionStorage.getItem(STORED) ?? "null") as Identity | null;
  } catch {
    return null;
  }
}

export function SessionProvider({ children }: { children: React.ReactNode }) {
  const { api, now, restUrl, wsUrl } = useExchange();
  const [identity, setIdentity] = useState<Identity | null>(stored);
  const [account, setAccount] = useState<Account>(NO_ACCOUNT);
  const streaming = useRef(false);

  const become = useCallback((next: Identity | null) => {
    if (next === null) sessionStorage.removeItem(STORED);
    else sessionStorage.setItem(STORED, JSON.stringify(next));
    setAccount(NO_ACCOUNT);
    setIdentity(next);
  }, []);

  const signed = useMemo(() => (identity ? signedApi(restUrl, identity.apiKey, now) : null), [identity, now, restUrl]);

  const refresh = useCallback(
    () =>
      signed === null
        ? Promise.resolve()
        : Promise.all([signed.account(), signed.openOrders()]).then(
            ([{ balances }, orders]) => setAccount((known) => refreshed(known, balances.map(balanceOf), orders.map(orderOf))),
            (error: unknown) => {
              if (error instanceof ApiError && KEY_REFUSALS.has(error.code)) become(null);
            },
          ),
    [become, signed],
  );

  useEffect(() => {
    if (identity === null) return;
    void refresh();
    const timer = setInterval(() => streaming.current || void refresh(), POLL_MS);
    const close = openUserStream(wsUrl, identity.apiKey, now, {
      onStart: () => {
        streaming.current = true;
        void refresh();
      },
      onEvent: (event) => setAccount((known) => afterEvent(known, event)),
      onStop: () => {
        streaming.current = false;
      },
    });
    return () => {
      clearInterval(timer);
      close();
    };
  }, [identity, now, refresh, wsUrl]);

  const session = useMemo<Session>(() => {
    const signIn = async (email: string, password: string) => {
      if (!window.isSecureContext) throw new ApiError(0, "Trading needs HTTPS, or a browser on the exchange's own machine.");
      const token = await api.signIn(email, password);
      become({ email, token, apiKey: await sessionApi(restUrl, token).createKey() });
    };
    const signedIn = () => {
      if (identity === null || signed === null) throw new ApiError(-1002, "Nobody is signed in.");
      return { identity, signed };
    };
    // Without the stream the next poll would show it; this is sooner.
    const settle = () => void (streaming.current || setTimeout(() => void refresh(), SETTLE_MS));
    return {
      email: identity?.email ?? null,
      account,
      signIn,
      signUp: async (email, password) => {
        await api.signUp(email, password);
        await signIn(email, password);
      },
      signOut: () => {
        if (identity) void sessionApi(restUrl, identity.token).signOut(identity.apiKey.key).catch(() => undefined);
        become(null);
      },
      requestFunds: async (asset, amount) => {
        await sessionApi(restUrl, signedIn().identity.token).requestFunds(asset, amount);
        await refresh();
      },
      placeOrder: async (parameters) => {
        const { status } = await signedIn().signed.placeOrder(parameters);
        settle();
        return status;
      },
      cancelOrder: async (symbol, orderId) => {
        await signedIn().signed.cancelOrder(symbol, orderId);
        setAccount((known) => withoutOrder(known, orderId));
        settle();
      },
    };
  }, [account, api, become, identity, refresh, restUrl, signed]);

  return <SessionContext value={session}>{children}</SessionContext>;
}
