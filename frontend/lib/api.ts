/** The public API, typed by its own description (`api-types.ts`), as any other client uses it. */
import createClient, { type Middleware } from "openapi-fetch";

import { ApiError } from "./api-error";
import type { components, operations, paths } from "./api-types";
import type { Budget } from "./budget";
import type { ExchangeClock } from "./clock";
import type { OrderAnswer } from "./outcome";
import { signedQuery } from "./signing";
import type { Ticket, Tickets } from "./tickets";

type Shapes = components["schemas"];
type Interval = operations["get_api_v3_klines"]["parameters"]["query"]["interval"];
type NewOrder = Pick<operations["post_api_v3_order"]["parameters"]["query"], "symbol" | "side" | "type">;

export interface PublicApi {
  /** The exchange's time in ms. */
  time(): Promise<number>;
  exchangeInfo(): Promise<Shapes["ExchangeInfoShape"]>;
  depth(symbol: string): Promise<Shapes["DepthShape"]>;
  trades(symbol: string, limit: number): Promise<Shapes["TradeShape"][]>;
  klines(symbol: string, interval: string, limit: number): Promise<Kline[]>;
  tickers(symbols: readonly string[]): Promise<Shapes["TickerShape"][]>;
  signUp(email: string, password: string): Promise<void>;
  /** Begin a session, which the browser keeps in a cookie; rejects with `SECOND_FACTOR_NEEDED` where a code is needed. */
  signIn(email: string, password: string, code: string): Promise<void>;
  /** Ask for a mail by which a new password is chosen. */
  forgetPassword(email: string): Promise<void>;
  resetPassword(token: string, newPassword: string, code: string): Promise<void>;
  /** Show that the mail with the token was read. */
  verify(token: string): Promise<void>;
  /** Return who is signed in by this browser's cookie; rejects with code -1002 when nobody is. */
  me(): Promise<Shapes["Me"]>;
}

export interface SessionApi {
  /** Return a key for the next quarter of an hour. */
  ticket(): Promise<Ticket>;
  requestFunds(asset: string, amount: string): Promise<void>;
  /** Have another mail sent by which the account's address is verified. */
  sendVerification(): Promise<void>;
  /** End the session, and what was opened with its tickets. */
  signOut(): Promise<void>;
}

export interface SignedApi {
  account(): Promise<Shapes["AccountShape"]>;
  openOrders(): Promise<Shapes["OrderShape"][]>;
  placeOrder(parameters: Record<string, string>): Promise<Shapes["FullShape"]>;
  /** Rejects with code -2013 when there is no such order. */
  orderByClientId(symbol: string, clientOrderId: string): Promise<Shapes["OrderShape"] & OrderAnswer>;
  cancelOrder(symbol: string, orderId: number): Promise<void>;
}

export type Kline = [
  number,
  string,
  string,
  string,
  string,
  string,
  number,
  string,
  number,
  string,
  string,
  string,
];

/** More than anybody looks at, for the weight of 5. */
const DEPTH_LIMIT = 100;
/** So long an order may be on its way; later its shard refuses it. */
export const RECV_WINDOW_MS = 5_000;
/** Longer than a gateway waits for a shard. */
const ANSWER_MS = 8_000;
const WRONG_TIME = -1021;
/** What the types ask for and the signing puts in. */
const UNSIGNED = { timestamp: 0, signature: "", recvWindow: String(RECV_WINDOW_MS) };

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

async function answered<T>(asked: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await asked;
  } catch (error) {
    // A ticket that was asked for on the way may have been refused, in words.
    if (error instanceof ApiError) throw error;
    throw new ApiError(0, "The exchange is not responding.");
  }
  if (answer.response.ok) return answer.data as T;
  const { code, msg } = (answer.error ?? {}) as { code?: number; msg?: string };
  throw new ApiError(
    code ?? 0,
    msg ?? `The exchange answered ${answer.response.status}.`,
    answer.response.status,
  );
}

/** Return a `fetch` that gives up in time, asks nothing while a refusal says so, and notes what answers say of the budget. */
function budgeted(budget: Budget): (request: Request) => Promise<Response> {
  return async (request) => {
    const closedMs = budget.closedMs();
    if (closedMs > 0)
      return refusal(429, -1003, `Too many requests. Try again in ${Math.ceil(closedMs / 1_000)} s.`);
    const response = await fetch(request, { signal: AbortSignal.timeout(ANSWER_MS) });
    const number = (name: string) => (response.headers.has(name) ? Number(response.headers.get(name)) : null);
    budget.note(
      number("X-MBX-USED-WEIGHT-1M"),
      response.status === 429 || response.status === 418 ? number("Retry-After") : null,
    );
    return response;
  };
}

const refusal = (status: number, code: number, msg: string): Response =>
  new Response(JSON.stringify({ code, msg }), { status, headers: { "Content-Type": "application/json" } });

export function publicApi(budget: Budget): PublicApi {
  const client = createClient<paths>({ baseUrl: location.origin, fetch: budgeted(budget) });
  return {
    time: async () => ((await answered(client.GET("/api/v3/time"))) as { serverTime: number }).serverTime,
    exchangeInfo: () => answered(client.GET("/api/v3/exchangeInfo")),
    // The client's types make lists of tuples; these two are known to be tuples.
    depth: async (symbol) =>
      (await answered(
        client.GET("/api/v3/depth", { params: { query: { symbol, limit: DEPTH_LIMIT } } }),
      )) as Shapes["DepthShape"],
    trades: (symbol, limit) =>
      answered(client.GET("/api/v3/trades", { params: { query: { symbol, limit } } })),
    klines: async (symbol, interval, limit) =>
      (await answered(
        client.GET("/api/v3/klines", {
          params: { query: { symbol, interval: interval as Interval, limit } },
        }),
      )) as Kline[],
    tickers: async (symbols) => {
      const found = await answered(
        client.GET("/api/v3/ticker/24hr", { params: { query: { symbols: JSON.stringify(symbols) } } }),
      );
      // FULL, since nothing else was asked for; so is the answer to an order below.
      return (Array.isArray(found) ? found : [found]) as Shapes["TickerShape"][];
    },
    signUp: async (email, password) =>
      void (await answered(client.POST("/api/v1/signup", { body: { email, password } }))),
    signIn: async (email, password, code) =>
      void (await answered(client.POST("/api/v1/signin", { body: { email, password, code, cookie: true } }))),
    forgetPassword: async (email) =>
      void (await answered(client.POST("/api/v1/password/forgotten", { body: { email } }))),
    resetPassword: async (token, newPassword, code) =>
      void (await answered(client.POST("/api/v1/password/reset", { body: { token, newPassword, code } }))),
    verify: async (token) => void (await answered(client.POST("/api/v1/verification", { body: { token } }))),
    me: () => answered(client.GET("/api/v1/me")),
  };
}

export function sessionApi(csrfToken: string, budget: Budget): SessionApi {
  const client = createClient<paths>({
    baseUrl: location.origin,
    fetch: budgeted(budget),
    headers: { "X-CSRF-Token": csrfToken },
  });
  return {
    ticket: async () => {
      const { apiKey, secret, expiresIn } = await answered(client.POST("/api/v1/tickets"));
      return { key: apiKey, secret, expiresIn };
    },
    requestFunds: async (asset, amount) =>
      void (await answered(client.POST("/api/v1/faucet", { body: { asset, amount } }))),
    sendVerification: async () => void (await answered(client.POST("/api/v1/verification/mail"))),
    signOut: async () => void (await answered(client.POST("/api/v1/signout"))),
  };
}

export function signedApi(tickets: Tickets, clock: ExchangeClock, budget: Budget): SignedApi {
  const client = createClient<paths>({ baseUrl: location.origin, fetch: budgeted(budget) });
  client.use(signing(tickets, clock.now));
  /** Ask again, with the time taken anew, what was refused for its time alone: nothing came of it. */
  const timely = async <T>(ask: () => Promise<Answer<T>>): Promise<T> => {
    try {
      return await answered(ask());
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== WRONG_TIME) throw error;
      await clock.set();
      return answered(ask());
    }
  };
  return {
    account: () => timely(() => client.GET("/api/v3/account", { params: { query: UNSIGNED } })),
    openOrders: () => timely(() => client.GET("/api/v3/openOrders", { params: { query: UNSIGNED } })),
    placeOrder: async (parameters) =>
      (await timely(() =>
        client.POST("/api/v3/order", {
          params: { query: { ...(parameters as Record<string, string> & NewOrder), ...UNSIGNED } },
        }),
      )) as Shapes["FullShape"],
    orderByClientId: async (symbol, origClientOrderId) =>
      (await timely(() =>
        client.GET("/api/v3/order", { params: { query: { symbol, origClientOrderId, ...UNSIGNED } } }),
      )) as Shapes["OrderShape"],
    cancelOrder: async (symbol, orderId) =>
      void (await timely(() =>
        client.DELETE("/api/v3/order", { params: { query: { symbol, orderId, ...UNSIGNED } } }),
      )),
  };
}

function signing(tickets: Tickets, now: () => number): Middleware {
  return {
    async onRequest({ request }) {
      const apiKey = await tickets.current();
      const url = new URL(request.url);
      for (const name of ["timestamp", "signature"]) url.searchParams.delete(name);
      const query = await signedQuery(Object.fromEntries(url.searchParams), apiKey, now());
      return new Request(`${url.origin}${url.pathname}?${query}`, {
        method: request.method,
        headers: { "X-MBX-APIKEY": apiKey.key },
      });
    },
  };
}
