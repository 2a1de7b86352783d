/**
 * Who is signed in, the same in all tabs of this browser. The session is in a cookie that they share; what one tab does about it, it
 * tells the others, which then ask the exchange.
 */
export interface Identity {
  readonly email: string;
  readonly sessionId: string;
  /** Shows the exchange that it is its own page that asks. */
  readonly csrfToken: string;
}

type Message = { readonly say: "in" } | { readonly say: "out" };

const CHANNEL = "exchange.session";

export interface IdentityListener {
  onIn(): void;
  onOut(): void;
}

export class SharedIdentity {
  private readonly channel = new BroadcastChannel(CHANNEL);

  constructor(listener: IdentityListener) {
    this.channel.onmessage = ({ data }: MessageEvent<Message>) => (data.say === "in" ? listener.onIn() : listener.onOut());
  }

  /** Tell the other tabs. */
  tell(say: Message["say"]): void {
    this.channel.postMessage({ say });
  }

  close(): void {
    this.channel.close();
  }
}
