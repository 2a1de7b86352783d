"use client";

import { useEffect, useEffectEvent } from "react";

import { useExchange } from "./use-exchange";

interface StreamHandlers {
  /** Ask REST for the present state: at every start of the stream, and every `pollMs` while there is no stream and the budget allows it. */
  refresh(): void;
  onData(data: unknown): void;
}

/** Follow a stream, and poll while it is not there; `weight` is that of one poll. */
export function useStream(stream: string, pollMs: number, weight: number, handlers: StreamHandlers): void {
  const { budget, socket } = useExchange();
  const refresh = useEffectEvent(() => handlers.refresh());
  const onData = useEffectEvent((data: unknown) => handlers.onData(data));

  useEffect(() => {
    let timer: ReturnType<typeof setInterval> | undefined;
    const poll = () => {
      clearInterval(timer);
      timer = setInterval(() => budget.mayPoll(weight) && refresh(), pollMs);
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
  }, [budget, socket, stream, pollMs, weight]);
}
