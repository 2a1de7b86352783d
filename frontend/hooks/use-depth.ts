"use client";

import { useRef, useState } from "react";

import { type DepthBook, type DepthDiff, applyDiff, bookOf, joined } from "@/lib/depth-book";
import { depthStream, readDepth } from "@/lib/streams";

import { useExchange } from "./use-exchange";
import { useStream } from "./use-stream";

const POLL_MS = 2_000;
const WEIGHT = 5;
const RETRY_MS = 300;
const FAILED_MS = 2_000;
const HEARD_MAX = 1_000;

/** The market's book: a snapshot and all differences since; a gap leads to a new snapshot. */
export function useDepth(symbol: string): DepthBook | null {
  const { api, budget } = useExchange();
  const [book, setBook] = useState<DepthBook | null>(null);
  const current = useRef<DepthBook | null>(null);
  const heard = useRef<DepthDiff[]>([]);
  const asking = useRef(false);

  const show = (next: DepthBook | null) => {
    current.current = next;
    setBook(next);
  };

  const snapshot = () => {
    if (asking.current) return;
    asking.current = true;
    api.depth(symbol).then(
      (found) => {
        asking.current = false;
        const next = joined(bookOf(found), heard.current);
        if (next === "gap") {
          // The snapshot is older than what was heard first; the next one will not be.
          setTimeout(snapshot, RETRY_MS);
        } else if (
          current.current === null ||
          next.updateId >= current.current.updateId ||
          heard.current.length > 0
        ) {
          heard.current = [];
          show(next);
        }
      },
      () => {
        asking.current = false;
        setTimeout(snapshot, Math.max(FAILED_MS, budget.closedMs()));
      },
    );
  };

  useStream(depthStream(symbol), POLL_MS, WEIGHT, {
    refresh: snapshot,
    onData: (data) => {
      const diff = readDepth(data);
      if (diff === null) return;
      if (current.current === null || asking.current || heard.current.length > 0) {
        heard.current = [...heard.current.slice(-HEARD_MAX), diff];
        if (!asking.current && heard.current.length === 1) snapshot();
        return;
      }
      const next = applyDiff(current.current, diff);
      if (next === "gap") {
        heard.current = [diff];
        snapshot();
      } else {
        show(next);
      }
    },
  });
  return book;
}
