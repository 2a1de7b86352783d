/**
 * One connection for all streams of the page: it subscribes to what is listened to, and comes back by itself.
 *
 * A browser does not show the server's pings, and a connection through a sleeping machine or a lost network stays open for minutes. So
 * it asks for its subscriptions every other second; what does not answer is let go, and another connection made.
 */
import { HEARTBEAT_MS, Pulse } from "@/lib/liveness";
import { type SubscriptionRequest, Subscriptions } from "@/lib/subscriptions";

const GATHER_MS = 500;
const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 10_000;

export interface StreamListener {
  /** The stream is on, from now on nothing is missing; called anew after every interruption. */
  onStart(): void;
  onData(data: unknown): void;
  /** The stream has stopped for now. */
  onStop(): void;
}

interface Frame {
  stream?: string;
  data?: unknown;
  id?: number;
  result?: unknown;
  error?: unknown;
}

export class StreamSocket {
  private socket: WebSocket | null = null;
  private readonly listeners = new Map<string, Set<StreamListener>>();
  private readonly subscriptions = new Subscriptions();
  private readonly statusListeners = new Set<() => void>();
  private failures = 0;
  private gathering: ReturnType<typeof setTimeout> | null = null;
  private retrying: ReturnType<typeof setTimeout> | null = null;
  private readonly pulse = new Pulse();
  /** Streams of candles that are on and have said something -> when they did last. */
  private readonly candles = new Map<string, number>();

  constructor(private readonly url: string) {
    setInterval(() => this.beat(), HEARTBEAT_MS);
  }

  /** The ms since anything was heard. */
  ageMs(): number {
    return this.pulse.ageMs(performance.now());
  }

  /** The ms since each stream of candles that is on has said something: of the one that has been silent for longest. */
  candleAgeMs(): number {
    return Math.max(0, ...[...this.candles.values()].map((at) => performance.now() - at));
  }

  /** Look at once: the network is back, or somebody looks at the page again. */
  look(): void {
    this.beat();
    if (this.retrying === null) return;
    clearTimeout(this.retrying);
    this.retrying = null;
    this.connect();
  }

  private beat(): void {
    const now = performance.now();
    if (this.pulse.isSilent(now)) this.lost();
    else if (this.isOpen) {
      this.pulse.asked(now);
      this.send(this.subscriptions.question());
    }
  }

  get isOpen(): boolean {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /** Call back whenever the connection opens or closes. */
  onStatus(listener: () => void): () => void {
    this.statusListeners.add(listener);
    return () => void this.statusListeners.delete(listener);
  }

  listen(stream: string, listener: StreamListener): () => void {
    const listeners = this.listeners.get(stream) ?? new Set();
    this.listeners.set(stream, listeners.add(listener));
    if (this.subscriptions.isOn(stream)) listener.onStart();
    if (this.socket === null && this.retrying === null) this.connect();
    else this.soon();
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.listeners.delete(stream);
      this.soon();
    };
  }

  /** Changes are gathered for a moment, because a connection may send few messages a second. */
  private soon(): void {
    this.gathering ??= setTimeout(() => {
      this.gathering = null;
      if (this.isOpen) this.subscribe();
    }, GATHER_MS);
  }

  private connect(): void {
    const socket = new WebSocket(`${this.url}/stream`);
    this.socket = socket;
    // An answer to the handshake is owed, too.
    this.pulse.asked(performance.now());
    socket.onopen = () => {
      this.failures = 0;
      this.pulse.heard(performance.now());
      this.subscribe();
      this.tellStatus();
    };
    socket.onmessage = (message: MessageEvent<string>) => {
      this.pulse.heard(performance.now());
      this.take(JSON.parse(message.data) as Frame);
    };
    socket.onclose = () => this.lost();
  }

  /** The connection has ended, or says nothing any more: make another one. */
  private lost(): void {
    const socket = this.socket;
    this.socket = null;
    this.pulse.ended();
    if (socket !== null) {
      // A peer that is frozen would not take part in closing.
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    this.candles.clear();
    for (const stream of this.subscriptions.ended()) this.each(stream, (listener) => listener.onStop());
    this.tellStatus();
    if (this.listeners.size === 0 || this.retrying !== null) return;
    const wait = Math.min(RETRY_FIRST_MS * 2 ** this.failures, RETRY_MAX_MS) * (0.75 + Math.random() / 2);
    this.failures += 1;
    this.retrying = setTimeout(() => {
      this.retrying = null;
      this.connect();
    }, wait);
  }

  private subscribe(): void {
    for (const request of this.subscriptions.requests(this.listeners.keys())) {
      if (request.method === "UNSUBSCRIBE")
        for (const stream of request.params ?? []) this.candles.delete(stream);
      this.send(request);
    }
  }

  private send(request: SubscriptionRequest): void {
    this.socket?.send(JSON.stringify(request));
  }

  private take(frame: Frame): void {
    if (frame.stream !== undefined) {
      if (frame.stream.includes("@kline_")) this.candles.set(frame.stream, performance.now());
      this.each(frame.stream, (listener) => listener.onData(frame.data));
      return;
    }
    if (frame.id === undefined) return;
    for (const stream of this.subscriptions.answered(frame.id, frame.error !== undefined))
      this.each(stream, (listener) => listener.onStart());
  }

  private each(stream: string, tell: (listener: StreamListener) => void): void {
    for (const listener of [...(this.listeners.get(stream) ?? [])]) tell(listener);
  }

  private tellStatus(): void {
    for (const listener of [...this.statusListeners]) listener();
  }
}
