"use client";

import { ExchangeProvider } from "@/hooks/use-exchange";
import { SessionProvider } from "@/hooks/use-session";

import { MailLinks } from "./mail-links";
import { TopBar } from "./top-bar";

export function Shell({ children }: { children: React.ReactNode }) {
  return (
    <ExchangeProvider waiting={(failed) => <Waiting failed={failed} />}>
      <SessionProvider>
        <div className="flex min-h-dvh flex-col">
          <TopBar />
          <MailLinks />
          <main className="flex flex-1 flex-col">{children}</main>
        </div>
      </SessionProvider>
    </ExchangeProvider>
  );
}

function Waiting({ failed }: { failed: boolean }) {
  return (
    <div className="grid min-h-dvh place-items-center p-8 text-center text-quiet" role="status">
      {failed ? "The exchange is not responding. Retrying …" : "Connecting …"}
    </div>
  );
}
