/** Signed requests, with the browser's own HMAC: the secret stays in this tab. */

export interface ApiKey {
  readonly key: string;
  readonly secret: string;
}

const text = new TextEncoder();

/** Return the HMAC-SHA256 of a payload in hex. */
export async function hmac(secret: string, payload: string): Promise<string> {
  const key = await crypto.subtle.importKey(
    "raw",
    text.encode(secret),
    { name: "HMAC", hash: "SHA-256" },
    false,
    ["sign"],
  );
  const bytes = new Uint8Array(await crypto.subtle.sign("HMAC", key, text.encode(payload)));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return parameters as a query with `timestamp` and `signature`. */
export async function signedQuery(
  parameters: Record<string, string>,
  apiKey: ApiKey,
  nowMs: number,
): Promise<string> {
  const query = new URLSearchParams({ ...parameters, timestamp: String(nowMs) }).toString();
  return `${query}&signature=${await hmac(apiKey.secret, query)}`;
}

/** Return the parameters of a signed WebSocket method: sorted by name, the API key among them. */
export async function signedParameters(
  parameters: Record<string, string>,
  apiKey: ApiKey,
  nowMs: number,
): Promise<Record<string, string | number>> {
  const all: Record<string, string> = { ...parameters, apiKey: apiKey.key, timestamp: String(nowMs) };
  const payload = Object.keys(all)
    .sort()
    .map((name) => `${name}=${all[name] ?? ""}`)
    .join("&");
  return { ...all, timestamp: nowMs, signature: await hmac(apiKey.secret, payload) };
}
