/**
 * One connection for all streams of the page: it subscribes to what is listened to, and comes back by itself.
 *
 * A browser does not show the server's pings, and a connection through a sleeping machine or a lost network stays open for minutes. So
 * it asks for its subscriptions every other second; what does not answer is let go, and another connection made.
 */
import { HEARTBEAT_MS, Pulse } from "@/lib/liveness";

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
  private readonly running = new Set<string>();
  private readonly asked = new Map<number, { method: string; streams: string[] }>();
  private readonly statusListeners = new Set<() => void>();
  private wanted = new Set<string>();
  private number = 0;
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
      this.number += 1;
      this.socket?.send(JSON.stringify({ method: "LIST_SUBSCRIPTIONS", id: this.number }));
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
    if (this.running.has(stream)) listener.onStart();
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
      this.wanted = new Set();
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
    this.asked.clear();
    this.candles.clear();
    const stopped = [...this.running];
    this.running.clear();
    for (const stream of stopped) this.each(stream, (listener) => listener.onStop());
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
    const listened = new Set(this.listeners.keys());
    this.ask(
      "UNSUBSCRIBE",
      [...this.wanted].filter((stream) => !listened.has(stream)),
    );
    this.ask(
      "SUBSCRIBE",
      [...listened].filter((stream) => !this.wanted.has(stream)),
    );
    this.wanted = listened;
  }

  private ask(method: string, streams: string[]): void {
    if (streams.length === 0) return;
    this.number += 1;
    this.asked.set(this.number, { method, streams });
    if (method === "UNSUBSCRIBE") {
      for (const stream of streams) {
        this.running.delete(stream);
        this.candles.delete(stream);
      }
    }
    this.socket?.send(JSON.stringify({ method, params: streams, id: this.number }));
  }

  private take(frame: Frame): void {
    if (frame.stream !== undefined) {
      if (frame.stream.includes("@kline_")) this.candles.set(frame.stream, performance.now());
      this.each(frame.stream, (listener) => listener.onData(frame.data));
      return;
    }
    const asked = frame.id === undefined ? undefined : this.asked.get(frame.id);
    if (frame.id === undefined || asked === undefined) return;
    this.asked.delete(frame.id);
    if (frame.error !== undefined || asked.method !== "SUBSCRIBE") return;
    for (const stream of asked.streams) {
      this.running.add(stream);
      this.each(stream, (listener) => listener.onStart());
    }
  }

  private each(stream: string, tell: (listener: StreamListener) => void): void {
    for (const listener of [...(this.listeners.get(stream) ?? [])]) tell(listener);
  }

  private tellStatus(): void {
    for (const listener of [...this.statusListeners]) listener();
  }
}
