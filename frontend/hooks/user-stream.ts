/** The account's own stream, through the WebSocket API: signed once for every connection, and back by itself. */
import { type ApiKey, signedParameters } from "@/lib/signing";

const RETRY_MS = 2_000;

interface Frame { id?: number; status?: number; subscriptionId?: number; event?: unknown }

export interface UserStreamListener {
  /** From now on nothing is missing: ask for the present state. */
  onStart(): void;
  onEvent(event: unknown): void;
  onStop(): void;
}

/** Open the stream; returns what closes it. */
export function openUserStream(wsUrl: string, apiKey: ApiKey, now: () => number, listener: UserStreamListener): () => void {
  let socket: WebSocket | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let left = false;

  const open = () => {
    const opened = new WebSocket(`${wsUrl}/ws-api/v3`);
    socket = opened;
    opened.onopen = async () => {
      const params = await signedParameters({}, apiKey, now());
      opened.send(JSON.stringify({ id: 1, method: "userDataStream.subscribe.signature", params }));
    };
    opened.onmessage = (message: MessageEvent<string>) => {
      const frame = JSON.parse(message.data) as Frame;
      if (frame.event !== undefined) listener.onEvent(frame.event);
      else if (frame.id === 1 && frame.status === 200) listener.onStart();
      else if (frame.id === 1) opened.close();
    };
    opened.onclose = () => {
      listener.onStop();
      if (!left) timer = setTimeout(open, RETRY_MS);
    };
  };
  open();
  return () => {
    left = true;
    clearTimeout(timer);
    socket?.close();
  };
}
