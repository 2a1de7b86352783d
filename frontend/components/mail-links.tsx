"use client";

import { useEffect, useState } from "react";

import { useExchange } from "@/hooks/use-exchange";

import { messageOf } from "./message-of";
import { SignInDialog } from "./sign-in-dialog";

/** What a mail's link asks for: to show that its address is its reader's, or to choose a new password. The token leaves the address at once. */
export function MailLinks() {
  const { api } = useExchange();
  const [said, setSaid] = useState<string | null>(null);
  const [resetToken, setResetToken] = useState<string | null>(null);

  useEffect(() => {
    const asked = new URLSearchParams(location.search);
    const verification = asked.get("verification");
    const reset = asked.get("reset");
    if (verification === null && reset === null) return;
    history.replaceState(null, "", location.pathname);
    if (reset !== null) queueMicrotask(() => setResetToken(reset));
    if (verification !== null)
      api.verify(verification).then(
        () => setSaid("Your email address is verified."),
        (error) => setSaid(`Your email address could not be verified: ${messageOf(error)}`),
      );
  }, [api]);

  return (
    <>
      {said !== null && (
        <p
          role="status"
          data-testid="mail-link"
          className="flex items-center justify-between gap-4 border-b border-line bg-raised px-4 py-2 text-strong lg:px-6"
        >
          {said}
          <button className="text-quiet hover:text-strong" onClick={() => setSaid(null)}>
            Close
          </button>
        </p>
      )}
      {resetToken !== null && <SignInDialog resetToken={resetToken} onClose={() => setResetToken(null)} />}
    </>
  );
}
