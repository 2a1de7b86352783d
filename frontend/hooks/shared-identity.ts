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

/** Somebody has signed in, has signed out, or was found to be signed out by others than this browser. */
interface Message {
  readonly say: "in" | "out" | "ended";
}

const CHANNEL = "exchange.session";

export interface IdentityListener {
  onIn(): void;
  onOut(isEnded: boolean): unknown;
}

export class SharedIdentity {
  private readonly channel = new BroadcastChannel(CHANNEL);

  constructor(listener: IdentityListener) {
    this.channel.onmessage = ({ data }: MessageEvent<Message>) =>
      data.say === "in" ? listener.onIn() : listener.onOut(data.say === "ended");
  }

  /** Tell the other tabs. */
  tell(say: Message["say"]): void {
    this.channel.postMessage({ say });
  }

  close(): void {
    this.channel.close();
  }
}
