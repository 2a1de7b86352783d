/**
 * Who is signed in, known to all tabs of this browser that are open, and to no tab that is opened later when all are closed.
 *
 * It is kept in each tab's sessionStorage. A new tab asks the others; signing out in one is signing out in all.
 */
import type { ApiKey } from "@/lib/signing";

export interface Identity {
  readonly email: string;
  readonly token: string;
  readonly apiKey: ApiKey;
}

type Message = { readonly say: "who" } | { readonly say: "in"; readonly identity: Identity } | { readonly say: "out"; readonly key: string };

const STORED = "exchange.session";

export interface IdentityListener {
  onIn(identity: Identity): void;
  onOut(): void;
}

export function storedIdentity(): Identity | null {
  try {
    return JSON.parse(sessionStorage.getItem(STORED) ?? "null") as Identity | null;
  } catch {
    return null;
  }
}

/** Keeps the identity of this tab in step with the others'. */
export class SharedIdentity {
  private readonly channel = new BroadcastChannel(STORED);

  constructor(private readonly listener: IdentityListener) {
    this.channel.onmessage = ({ data }: MessageEvent<Message>) => {
      const own = storedIdentity();
      if (data.say === "who") {
        if (own !== null) this.say({ say: "in", identity: own });
      } else if (data.say === "in") {
        if (own === null) this.listener.onIn(data.identity);
      } else if (own !== null && own.apiKey.key === data.key) {
        this.listener.onOut();
      }
    };
    if (storedIdentity() === null) this.say({ say: "who" });
  }

  /** Keep an identity, or none, for this tab. */
  static keep(identity: Identity | null): void {
    if (identity === null) sessionStorage.removeItem(STORED);
    else sessionStorage.setItem(STORED, JSON.stringify(identity));
  }

  /** Tell the other tabs. */
  tellIn(identity: Identity): void {
    this.say({ say: "in", identity });
  }

  tellOut(key: string): void {
    this.say({ say: "out", key });
  }

  close(): void {
    this.channel.close();
  }

  private say(message: Message): void {
    this.channel.postMessage(message);
  }
}
