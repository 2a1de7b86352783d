"use client";

import { useEffect, useRef, useState } from "react";

import { type DepthBook, bookOf } from "@/lib/depth-book";
import { type DepthAction, type DepthEvent, START, step } from "@/lib/depth-sync";
import { depthStream, readDepth } from "@/lib/streams";

import { useExchange } from "./use-exchange";
import { useStream } from "./use-stream";

const POLL_MS = 2_000;
const WEIGHT = 5;
const SOON_MS = 300;
const LATER_MS = 2_000;

/** The market's book, kept in step with its stream. */
export function useDepth(symbol: string): DepthBook | null {
  const { api, budget } = useExchange();
  const [book, setBook] = useState<DepthBook | null>(null);
  const sync = useRef(START);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);

  const take = (event: DepthEvent) => {
    const [next, action] = step(sync.current, event);
    sync.current = next;
    setBook(next.book);
    act(action);
  };

  const act = (action: DepthAction) => {
    if (action === "none") return;
    clearTimeout(timer.current);
    if (action === "ask") {
      api.depth(symbol).then(
        (found) => take({ kind: "snapshot", book: bookOf(found) }),
        () => take({ kind: "failed" }),
      );
      return;
    }
    const wait = action === "ask soon" ? SOON_MS : Math.max(LATER_MS, budget.closedMs());
    timer.current = setTimeout(() => take({ kind: "refresh" }), wait);
  };

  useEffect(() => () => clearTimeout(timer.current), []);

  useStream(depthStream(symbol), POLL_MS, WEIGHT, {
    refresh: () => take({ kind: "refresh" }),
    onData: (data) => {
      const diff = readDepth(data);
      if (diff !== null) take({ kind: "diff", diff });
    },
  });
  return book;
}
