"use client";

import { useEffect, useEffectEvent } from "react";

import { useExchange } from "./use-exchange";

interface StreamHandlers {
  /** Ask REST for the present state: at every start of the stream, and every `pollMs` while there is no stream. */
  refresh(): void;
  onData(data: unknown): void;
}

/** Follow a stream, and poll while it is not there. */
export function useStream(stream: string, pollMs: number, handlers: StreamHandlers): void {
  const { socket } = useExchange();
  const refresh = useEffectEvent(() => handlers.refresh());
  const onData = useEffectEvent((data: unknown) => handlers.onData(data));

  useEffect(() => {
    let timer: ReturnType<typeof setInterval> | undefined;
    const poll = () => {
      clearInterval(timer);
      timer = setInterval(() => refresh(), pollMs);
    };
    refresh();
    poll();
    const stop = socket.listen(stream, {
      onStart: () => {
        clearInterval(timer);
        refresh();
      },
      onData: (data) => onData(data),
      onStop: poll,
    });
    return () => {
      clearInterval(timer);
      stop();
    };
  }, [socket, stream, pollMs]);
}
