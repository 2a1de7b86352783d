/**
 * The account's own stream, through the WebSocket API: signed once for every connection, and back by itself. It asks for a sign of life
 * now and then, and gives up a connection that owes one.
 */
import { KEY_REFUSALS } from "@/lib/api-error";
import type { ExchangeClock } from "@/lib/clock";
import { Pulse } from "@/lib/liveness";
import { signedParameters } from "@/lib/signing";
import type { Tickets } from "@/lib/tickets";

const RETRY_MS = 2_000;
/** A ping has a weight of 1. */
const PING_MS = 3_000;
const WRONG_TIME = -1021;

interface Frame {
  id?: number;
  status?: number;
  event?: unknown;
  error?: { code?: number };
}

export interface UserStreamListener {
  /** From now on nothing is missing: ask for the present state. */
  onStart(): void;
  onEvent(event: unknown): void;
  onStop(): void;
  /** The key is not one any more. The stream is closed. */
  onRefused(): void;
}

export interface UserStream {
  /** Look at once whether it is still there. */
  look(): void;
  close(): void;
}

/** Open the stream. */
export function openUserStream(
  wsUrl: string,
  tickets: Tickets,
  clock: ExchangeClock,
  listener: UserStreamListener,
): UserStream {
  const pulse = new Pulse();
  let socket: WebSocket | null = null;
  let retry: ReturnType<typeof setTimeout> | undefined;
  let number = 1;

  const open = () => {
    const opened = new WebSocket(`${wsUrl}/ws-api/v3`);
    socket = opened;
    pulse.asked(performance.now());
    opened.onopen = async () => {
      pulse.heard(performance.now());
      let params;
      try {
        params = await signedParameters({}, await tickets.current(), clock.now());
      } catch {
        if (socket === opened) lost();
        return;
      }
      if (opened.readyState === WebSocket.OPEN)
        opened.send(JSON.stringify({ id: 1, method: "userDataStream.subscribe.signature", params }));
    };
    opened.onmessage = (message: MessageEvent<string>) => {
      pulse.heard(performance.now());
      const frame = JSON.parse(message.data) as Frame;
      if ((frame.event as { e?: string } | undefined)?.e === "eventStreamTerminated") {
        close();
        listener.onRefused();
      } else if (frame.event !== undefined) listener.onEvent(frame.event);
      else if (frame.id !== 1) return;
      else if (frame.status === 200) listener.onStart();
      else if (KEY_REFUSALS.has(frame.error?.code ?? 0)) {
        close();
        listener.onRefused();
      } else {
        if (frame.error?.code === WRONG_TIME) void clock.set().catch(() => undefined);
        lost();
      }
    };
    opened.onclose = lost;
  };
  const drop = () => {
    if (socket === null) return;
    // A peer that is frozen would not take part in closing.
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    socket = null;
    pulse.ended();
    listener.onStop();
  };
  const lost = () => {
    drop();
    retry = setTimeout(open, RETRY_MS);
  };
  const look = () => {
    const now = performance.now();
    if (pulse.isSilent(now)) {
      lost();
    } else if (socket?.readyState === WebSocket.OPEN) {
      number += 1;
      pulse.asked(now);
      socket.send(JSON.stringify({ id: number, method: "ping" }));
    }
  };
  const pinging = setInterval(look, PING_MS);
  const close = () => {
    clearTimeout(retry);
    clearInterval(pinging);
    drop();
  };
  open();
  return { look, close };
}
