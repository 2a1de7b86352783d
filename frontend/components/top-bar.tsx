"use client";

import Link from "next/link";
import { useLiveness } from "@/hooks/use-exchange";
import { useSession } from "@/hooks/use-session";
import type { Liveness } from "@/lib/liveness";

import { SignInDialog } from "./sign-in-dialog";

export function TopBar() {
  const session = useSession();
  const liveness = useLiveness();
  const { dot, text, title } = shown(liveness);

  return (
    <header className="flex h-14 items-center gap-4 border-b border-line px-4 lg:px-6">
      <Link href="/" className="flex items-center gap-2.5 font-semibold tracking-tight text-strong">
        <Mark />
        Exchange
      </Link>
      <span
        data-testid="liveness"
        role="status"
        className={`flex items-center gap-1.5 text-xs whitespace-nowrap ${liveness.state === "stale" ? "text-warn" : "text-quiet"}`}
        title={title}
      >
        <span className={`size-1.5 rounded-full ${dot}`} />
        {text}
      </span>
      <div className="ml-auto flex min-w-0 items-center gap-3">
        {session.email === null ? (
          <button
            className="h-9 rounded-lg bg-strong px-4 font-medium text-page transition hover:bg-white"
            onClick={() => session.ask(true)}
          >
            Sign in
          </button>
        ) : (
          <>
            <span className="truncate text-quiet" data-testid="email">
              {session.email}
            </span>
            <button
              className="h-9 shrink-0 rounded-lg border border-line px-3 transition hover:bg-raised hover:text-strong"
              onClick={session.signOut}
            >
              Sign out
            </button>
          </>
        )}
      </div>
      {session.isAsking && <SignInDialog onClose={() => session.ask(false)} />}
    </header>
  );
}

function shown(liveness: Liveness): { dot: string; text: string; title: string } {
  if (liveness.state === "live") return { dot: "bg-up", text: "Live", title: "Streams are connected" };
  if (liveness.state === "polling")
    return { dot: "bg-quiet", text: "Polling", title: "Streams are disconnected: polling every few seconds" };
  return {
    dot: "bg-warn",
    text: liveness.seconds > 0 ? `No data for ${liveness.seconds} s` : "No data",
    title: "No new data from the exchange. The values shown are out of date.",
  };
}

function Mark() {
  return (
    <svg viewBox="0 0 20 20" className="size-5" aria-hidden>
      <path d="M6 2v16M14 2v16" className="stroke-quiet" strokeWidth="1.5" strokeLinecap="round" />
      <rect x="3.5" y="7" width="5" height="8" rx="1.2" className="fill-down" />
      <rect x="11.5" y="4.5" width="5" height="9" rx="1.2" className="fill-up" />
    </svg>
  );
}
