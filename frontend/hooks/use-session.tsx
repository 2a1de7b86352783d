"use client";

import { createContext, useCallback, useContext, useEffect, useMemo, useRef, useState } from "react";

import {
  type Account,
  type Asked,
  NO_ACCOUNT,
  afterEvent,
  asked,
  balanceOf,
  orderOf,
  placed,
  refreshed,
  unanswered,
  withoutOrder,
} from "@/lib/account";
import { ApiError, KEY_REFUSALS } from "@/lib/api-error";
import { RECV_WINDOW_MS, sessionApi, signedApi } from "@/lib/api";
import type { OrderAnswer } from "@/lib/outcome";
import { type Sent, lookedUp } from "@/lib/sending";
import { Tickets } from "@/lib/tickets";

import { type Identity, SharedIdentity } from "./shared-identity";
import { useExchange, useReturn } from "./use-exchange";
import { type UserStream, openUserStream } from "@/lib/user-stream";

/** What became of an order: the order, or null when it did not arrive and cannot any more. */
export interface Resolved {
  readonly sent: Sent;
  readonly order: OrderAnswer | null;
}

export interface Session {
  /** Null: nobody is signed in. */
  readonly email: string | null;
  readonly account: Account;
  /** Why nobody is signed in any more, or what is shown of the account may be old; null: nothing is wrong. */
  readonly trouble: string | null;
  /** Whether the exchange demands that the account's address is verified first. */
  readonly isUnverified: boolean;
  /** The order that had no answer and is being looked up. Nothing else is sent meanwhile. */
  readonly looking: Sent | null;
  /** What became of an order that was looked up since the page was loaded. */
  readonly resolved: Resolved | null;
  /** Whether the dialog to sign in is asked for. */
  readonly isAsking: boolean;
  ask(isAsking: boolean): void;
  signIn(email: string, password: string, code: string): Promise<void>;
  signUp(email: string, password: string): Promise<void>;
  signOut(): void;
  /** Have another mail sent by which the address is verified. */
  sendVerification(): Promise<void>;
  requestFunds(asset: string, amount: string): Promise<void>;
  /** Send an order; returns what became of it, null when it did not arrive. An order without an answer is looked up until that is known. */
  placeOrder(parameters: Record<string, string>): Promise<OrderAnswer | null>;
  cancelOrder(symbol: string, orderId: number): Promise<void>;
}

const SENT = "exchange.sent";
/** Account and open orders weigh 100 together. */
const POLL_MS = 10_000;
const POLL_WEIGHT = 100;
const SETTLE_MS = 400;
/** An account that does not fit its stream would be seen after so long. */
const COMPARE_MS = 30_000;

const steady = () => performance.now();
const NOT_SIGNED_IN = -1002;
const FORBIDDEN = 403;
const ENDED = "Signed out: the session expired or was ended elsewhere.";

const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (session === null) throw new Error("outside of SessionProvider");
  return session;
}

/** Also of a session: what it was to ask a ticket for is over. */
const isKeyRefusal = (error: unknown): boolean =>
  error instanceof ApiError &&
  (KEY_REFUSALS.has(error.code) || (error.code === NOT_SIGNED_IN && error.status !== FORBIDDEN));

/** Of an account whose address must be verified first. */
const isUnverifiedRefusal = (error: unknown): boolean =>
  error instanceof ApiError && error.code === NOT_SIGNED_IN && error.status === FORBIDDEN;

function storedOrder(): Sent | null {
  try {
    return JSON.parse(sessionStorage.getItem(SENT) ?? "null") as Sent | null;
  } catch {
    return null;
  }
}

function keepOrder(sent: Sent | null): void {
  if (sent === null) sessionStorage.removeItem(SENT);
  else sessionStorage.setItem(SENT, JSON.stringify(sent));
}

export function SessionProvider({ children }: { children: React.ReactNode }) {
  const { api, budget, clock, wsUrl } = useExchange();
  const [identity, setIdentity] = useState<Identity | null>(null);
  const [account, setAccount] = useState<Account>(NO_ACCOUNT);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [isUnverified, setUnverified] = useState(false);
  const [isAsking, setAsking] = useState(false);
  const [looking, setLooking] = useState<Sent | null>(null);
  const [resolved, setResolved] = useState<Resolved | null>(null);
  const streaming = useRef(false);
  const stream = useRef<UserStream | null>(null);
  const shared = useRef<SharedIdentity | null>(null);
  /** The account as it is now, whatever React has drawn: what is asked and what is answered are counted in it. */
  const current = useRef<Account>(NO_ACCOUNT);

  const change = useCallback((next: Account) => {
    current.current = next;
    setAccount(next);
  }, []);

  const become = useCallback(
    (next: Identity | null, why: string | null = null) => {
      change(NO_ACCOUNT);
      setTrouble(why);
      setUnverified(false);
      setIdentity(next);
    },
    [change],
  );

  /** Find out who is signed in by this browser's cookie; returns whether anybody is, null: nobody answered. */
  const lookWho = useCallback(
    async (whyNobody: string | null): Promise<boolean | null> => {
      try {
        const { email, sessionId, csrfToken } = await api.me();
        setIdentity((known) => (known?.sessionId === sessionId ? known : { email, sessionId, csrfToken }));
        return true;
      } catch (error) {
        if (!(error instanceof ApiError) || error.code !== NOT_SIGNED_IN) return null;
        become(null, whyNobody);
        return false;
      }
    },
    [api, become],
  );

  const isIn = useRef(false);
  useEffect(() => {
    isIn.current = identity !== null;
  }, [identity]);

  useEffect(() => {
    const tabs = new SharedIdentity({
      onIn: () => void lookWho(null),
      // A tab that is signed out already has said why.
      onOut: (isEnded) => isIn.current && become(null, isEnded ? ENDED : null),
    });
    shared.current = tabs;
    queueMicrotask(() => void lookWho(null));
    return () => tabs.close();
  }, [become, lookWho]);

  const own = useMemo(() => (identity ? sessionApi(identity.csrfToken, budget) : null), [budget, identity]);
  const tickets = useMemo(() => (own ? new Tickets(own.ticket, steady) : null), [own]);
  const signed = useMemo(
    () => (tickets ? signedApi(tickets, clock, budget) : null),
    [budget, clock, tickets],
  );

  /** A ticket was refused: the session has ended, or another one is needed. */
  const refused = useCallback(() => {
    tickets?.forget();
    // Every tab may find it out, and says the same.
    void lookWho(ENDED).then((found) => found === false && shared.current?.tell("ended"));
  }, [lookWho, tickets]);

  const refresh = useCallback(async () => {
    if (signed === null) return;
    const [asking, at] = asked(current.current);
    change(asking);
    try {
      const [{ balances }, orders] = await Promise.all([signed.account(), signed.openOrders()]);
      change(refreshed(current.current, at, balances.map(balanceOf), orders.map(orderOf)));
      setTrouble(null);
      setUnverified(false);
    } catch (error) {
      change(unanswered(current.current, at));
      setUnverified(isUnverifiedRefusal(error));
      if (isKeyRefusal(error)) refused();
      else if (isUnverifiedRefusal(error)) setTrouble(null);
      else
        setTrouble(
          `Balances and orders may be old: ${error instanceof ApiError ? error.message : "something went wrong."}`,
        );
    }
  }, [change, refused, signed]);

  useEffect(() => {
    if (tickets === null) return;
    void refresh();
    const polling = setInterval(
      () => !streaming.current && budget.mayPoll(POLL_WEIGHT) && void refresh(),
      POLL_MS,
    );
    const comparing = setInterval(
      () => streaming.current && budget.mayPoll(POLL_WEIGHT) && void refresh(),
      COMPARE_MS,
    );
    const opened = openUserStream(wsUrl, tickets, clock, {
      onStart: () => {
        streaming.current = true;
        void refresh();
      },
      onEvent: (event) => change(afterEvent(current.current, event)),
      onStop: () => {
        streaming.current = false;
      },
      onRefused: refused,
    });
    stream.current = opened;
    return () => {
      clearInterval(polling);
      clearInterval(comparing);
      opened.close();
    };
  }, [budget, change, clock, refresh, refused, tickets, wsUrl]);

  useReturn(() => {
    stream.current?.look();
    if (!streaming.current) void refresh();
  });

  /** Find out what became of an order that had no answer. */
  const lookUp = useCallback(
    async (sent: Sent): Promise<OrderAnswer | null> => {
      if (signed === null) throw new ApiError(-1002, "Not signed in.");
      setLooking(sent);
      const sleep = (ms: number) =>
        new Promise<void>((done) => void setTimeout(done, Math.max(ms, budget.closedMs())));
      try {
        const order = await lookedUp(sent, {
          orderByClientId: signed.orderByClientId,
          now: clock.now,
          sleep,
        });
        setResolved({ sent, order });
        keepOrder(null);
        return order;
      } finally {
        setLooking(null);
      }
    },
    [budget, clock, signed],
  );

  // Of a page that was left or loaded anew while an order was on its way.
  const resuming = useRef(false);
  useEffect(() => {
    const sent = storedOrder();
    if (signed === null || sent === null || resuming.current) return;
    resuming.current = true;
    void lookUp(sent).then(
      () => refresh(),
      () => undefined,
    );
  }, [lookUp, refresh, signed]);

  const session = useMemo<Session>(() => {
    const signIn = async (email: string, password: string, code: string) => {
      if (!window.isSecureContext)
        throw new ApiError(0, "Trading needs HTTPS, or a browser on the exchange's own machine.");
      await api.signIn(email, password, code);
      if (!(await lookWho(null))) throw new ApiError(0, "The exchange is not responding.");
      setTrouble(null);
      shared.current?.tell("in");
    };
    const signedIn = () => {
      if (own === null || signed === null) throw new ApiError(NOT_SIGNED_IN, "Not signed in.");
      return { own, signed };
    };
    // Without the stream the next poll would show it; this is sooner.
    const settle = () => void (streaming.current || setTimeout(() => void refresh(), SETTLE_MS));
    const send = async (parameters: Record<string, string>): Promise<OrderAnswer | null> => {
      const { symbol = "", newClientOrderId: clientOrderId = "" } = parameters;
      const until = () => ({ symbol, clientOrderId, deadline: clock.now() + RECV_WINDOW_MS });
      const [sending, at]: [Account, Asked] = asked(current.current);
      change(sending);
      keepOrder(until());
      try {
        const order = await signedIn().signed.placeOrder(parameters);
        keepOrder(null);
        change(
          placed(
            current.current,
            at,
            orderOf({
              ...order,
              time: order.transactTime,
              updateTime: order.transactTime,
            } as unknown as Parameters<typeof orderOf>[0]),
            order.status,
          ),
        );
        return order;
      } catch (error) {
        change(unanswered(current.current, at));
        if (error instanceof ApiError && error.isFinal) {
          keepOrder(null);
          if (isKeyRefusal(error)) refused();
          throw error;
        }
        const sent = until();
        keepOrder(sent);
        const order = await lookUp(sent);
        void refresh();
        return order;
      }
    };
    return {
      email: identity?.email ?? null,
      account,
      trouble,
      isUnverified,
      looking,
      resolved,
      isAsking: isAsking && identity === null,
      ask: setAsking,
      signIn,
      signUp: async (email, password) => {
        await api.signUp(email, password);
        await signIn(email, password, "");
      },
      signOut: () => {
        if (own !== null)
          void own
            .signOut()
            .catch(() => undefined)
            .then(() => shared.current?.tell("out"));
        become(null);
      },
      sendVerification: () => signedIn().own.sendVerification(),
      requestFunds: async (asset, amount) => {
        await signedIn().own.requestFunds(asset, amount);
        await refresh();
      },
      placeOrder: async (parameters) => {
        const order = await send(parameters);
        settle();
        return order;
      },
      cancelOrder: async (symbol, orderId) => {
        try {
          await signedIn().signed.cancelOrder(symbol, orderId);
        } catch (error) {
          if (isKeyRefusal(error)) refused();
          throw error;
        }
        change(withoutOrder(current.current, orderId));
        settle();
      },
    };
  }, [
    account,
    api,
    become,
    change,
    clock,
    identity,
    isAsking,
    isUnverified,
    lookUp,
    lookWho,
    looking,
    own,
    refresh,
    refused,
    resolved,
    signed,
    trouble,
  ]);

  return <SessionContext value={session}>{children}</SessionContext>;
}
