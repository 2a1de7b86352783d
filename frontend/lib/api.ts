/** The public API, typed by its own description (`api-types.ts`), as any other client uses it. */
import createClient, { type Middleware } from "openapi-fetch";

import type { components, paths } from "./api-types";
import { type ApiKey, signedQuery } from "./signing";

/** A refusal; `code` is the API's own, 0 when there was no answer at all. */
export class ApiError extends Error {
  constructor(readonly code: number, message: string) {
    super(message);
  }
}

type Shapes = components["schemas"];

export interface PublicApi {
  exchangeInfo(): Promise<Shapes["ExchangeInfoShape"]>;
  depth(symbol: string): Promise<Shapes["DepthShape"]>;
  trades(symbol: string, limit: number): Promise<Shapes["TradeShape"][]>;
  klines(symbol: string, interval: string, limit: number): Promise<Kline[]>;
  tickers(symbols: readonly string[]): Promise<Shapes["TickerShape"][]>;
  signUp(email: string, password: string): Promise<void>;
  /** Return the token of a new session. */
  signIn(email: string, password: string): Promise<string>;
}

export interface SessionApi {
  /** Return a key for this browser; the oldest of many forgotten ones makes room for it. */
  createKey(): Promise<ApiKey>;
  requestFunds(asset: string, amount: string): Promise<void>;
  /** Let go of the key and end the session. */
  signOut(key: string): Promise<void>;
}

export interface SignedApi {
  account(): Promise<Shapes["AccountShape"]>;
  openOrders(): Promise<Shapes["OrderShape"][]>;
  placeOrder(parameters: Record<string, string>): Promise<Shapes["FullShape"]>;
  cancelOrder(symbol: string, orderId: number): Promise<void>;
}

export type Kline = [number, string, string, string, string, string, number, string, number, string, string, string];

const DEPTH_LIMIT = 1_000;
const KEY_LABEL = "Browser";
const BROWSER_KEYS_MAX = 10;
/** What the types ask for and the signing puts in. */
const UNSIGNED = { timestamp: 0, signature: "" };

interface Answer<T> { data?: T; error?: unknown; response: Response }

async function answered<T>(asked: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await asked;
  } catch {
    throw new ApiError(0, "The exchange does not answer.");
  }
  if (answer.response.ok) return answer.data as T;
  const { code, msg } = (answer.error ?? {}) as { code?: number; msg?: string };
  throw new ApiError(code ?? 0, msg ?? `The exchange answered ${answer.response.status}.`);
}

export function publicApi(baseUrl: string): PublicApi {
  const client = createClient<paths>({ baseUrl });
  return {
    exchangeInfo: () => answered(client.GET("/api/v3/exchangeInfo")),
    // The client's types make lists of tuples; these two are known to be tuples.
    depth: async (symbol) => (await answered(client.GET("/api/v3/depth", { params: { query: { symbol, limit: DEPTH_LIMIT } } }))) as Shapes["DepthShape"],
    trades: (symbol, limit) => answered(client.GET("/api/v3/trades", { params: { query: { symbol, limit } } })),
    klines: async (symbol, interval, limit) =>
      (await answered(client.GET("/api/v3/klines", { params: { query: { symbol, interval, limit } } }))) as Kline[],
    tickers: async (symbols) => {
      const found = await answered(client.GET("/api/v3/ticker/24hr", { params: { query: { symbols: JSON.stringify(symbols) } } }));
      return Array.isArray(found) ? found : [found];
    },
    signUp: async (email, password) => void (await answered(client.POST("/api/v1/signup", { body: { email, password } }))),
    signIn: async (email, password) => (await answered(client.POST("/api/v1/signin", { body: { email, password } }))).token,
  };
}

export function sessionApi(baseUrl: string, token: string): SessionApi {
  const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });
  const revoke = (key: string) => answered(client.DELETE("/api/v1/api-keys", { params: { query: { apiKey: key } } }));
  return {
    createKey: async () => {
      const keys = await answered(client.GET("/api/v1/api-keys"));
      const ours = keys.filter((key) => key.label === KEY_LABEL);
      for (const { apiKey } of ours.slice(0, Math.max(0, ours.length - BROWSER_KEYS_MAX + 1))) await revoke(apiKey);
      const made = await answered(client.POST("/api/v1/api-keys", { body: { label: KEY_LABEL } }));
      return { key: made.apiKey, secret: made.secret ?? "" };
    },
    requestFunds: async (asset, amount) => void (await answered(client.POST("/api/v1/faucet", { body: { asset, amount } }))),
    signOut: async (key) => {
      await revoke(key);
      await answered(client.POST("/api/v1/signout"));
    },
  };
}

export function signedApi(baseUrl: string, apiKey: ApiKey, now: () => number): SignedApi {
  const client = createClient<paths>({ baseUrl });
  client.use(signing(apiKey, now));
  return {
    account: () => answered(client.GET("/api/v3/account", { params: { query: UNSIGNED } })),
    openOrders: () => answered(client.GET("/api/v3/openOrders", { params: { query: UNSIGNED } })),
    placeOrder: (parameters) =>
      answered(client.POST("/api/v3/order", { params: { query: { ...(parameters as { symbol: string; side: string; type: string }), ...UNSIGNED } } })),
    cancelOrder: async (symbol, orderId) =>
      void (await answered(client.DELETE("/api/v3/order", { params: { query: { symbol, orderId, ...UNSIGNED } } }))),
  };
}

function signing(apiKey: ApiKey, now: () => number): Middleware {
  return {
    async onRequest({ request }) {
      const url = new URL(request.url);
      for (const name of Object.keys(UNSIGNED)) url.searchParams.delete(name);
      const query = await signedQuery(Object.fromEntries(url.searchParams), apiKey, now());
      return new Request(`${url.origin}${url.pathname}?${query}`, { method: request.method, headers: { "X-MBX-APIKEY": apiKey.key } });
    },
  };
}
