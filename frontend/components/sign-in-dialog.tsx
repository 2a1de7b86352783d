"use client";

import { useEffect, useRef, useState } from "react";

import { useExchange } from "@/hooks/use-exchange";
import { useSession } from "@/hooks/use-session";
import { ApiError, SECOND_FACTOR_NEEDED } from "@/lib/api-error";

import { messageOf } from "./message-of";

type Purpose = "in" | "up" | "forgotten" | "reset";

const TITLES: Record<Purpose, string> = {
  in: "Welcome back",
  up: "Create account",
  forgotten: "Reset password",
  reset: "Choose a new password",
};
const ACTIONS: Record<Purpose, string> = {
  in: "Sign in",
  up: "Sign up",
  forgotten: "Send reset link",
  reset: "Set password",
};

/** Signs in or up, or chooses a new password with the token of a mail. */
export function SignInDialog({ onClose, resetToken = "" }: { onClose: () => void; resetToken?: string }) {
  const session = useSession();
  const { api } = useExchange();
  const dialog = useRef<HTMLDialogElement>(null);
  const [purpose, setPurpose] = useState<Purpose>(resetToken === "" ? "in" : "reset");
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [code, setCode] = useState<string | null>(null);
  const [mistake, setMistake] = useState<string | null>(null);
  const [notice, setNotice] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);

  useEffect(() => dialog.current?.showModal(), []);

  const turnTo = (next: Purpose, say: string | null = null) => {
    setPurpose(next);
    setNotice(say);
    setMistake(null);
    setCode(null);
    setPassword("");
  };

  const act = async (): Promise<void> => {
    if (purpose === "in") return session.signIn(email, password, code ?? "").then(onClose);
    if (purpose === "up") return session.signUp(email, password).then(onClose);
    if (purpose === "forgotten") {
      await api.forgetPassword(email);
      return turnTo("in", "If an account with this address exists, an email has been sent.");
    }
    await api.resetPassword(resetToken, password, code ?? "");
    return turnTo("in", "Password changed. Sign in with the new password.");
  };

  const submit = async (event: React.FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setMistake(null);
    try {
      await act();
    } catch (error) {
      if (error instanceof ApiError && error.code === SECOND_FACTOR_NEEDED) setCode("");
      else setMistake(messageOf(error));
    } finally {
      setBusy(false);
    }
  };

  const isNewPassword = purpose === "up" || purpose === "reset";
  return (
    <dialog
      ref={dialog}
      onClose={onClose}
      aria-label={ACTIONS[purpose]}
      className="panel m-auto w-[min(24rem,calc(100vw-2rem))] p-6 text-text shadow-2xl backdrop:bg-black/60"
    >
      <form onSubmit={submit} className="flex flex-col gap-4">
        <h2 className="text-lg font-semibold text-strong">{TITLES[purpose]}</h2>
        {notice !== null && (
          <p role="status" className="text-quiet">
            {notice}
          </p>
        )}
        {purpose !== "reset" && (
          <label className="flex flex-col gap-1.5">
            Email
            <span className="field">
              <input
                type="email"
                name="email"
                autoComplete="email"
                required
                autoFocus
                value={email}
                onChange={(event) => setEmail(event.target.value)}
              />
            </span>
          </label>
        )}
        {purpose !== "forgotten" && (
          <label className="flex flex-col gap-1.5">
            {purpose === "reset" ? "New password" : "Password"}
            <span className="field">
              <input
                type="password"
                name="password"
                autoComplete={isNewPassword ? "new-password" : "current-password"}
                required
                minLength={isNewPassword ? 8 : 1}
                maxLength={1024}
                value={password}
                onChange={(event) => setPassword(event.target.value)}
              />
            </span>
            {isNewPassword && (
              <span className="text-xs text-quiet">
                At least eight characters; common passwords are refused.
              </span>
            )}
          </label>
        )}
        {code !== null && (
          <label className="flex flex-col gap-1.5">
            Authenticator code
            <span className="field">
              <input
                name="code"
                inputMode="numeric"
                autoComplete="one-time-code"
                required
                autoFocus
                maxLength={40}
                value={code}
                onChange={(event) => setCode(event.target.value)}
              />
            </span>
            <span className="text-xs text-quiet">You can also enter a recovery code.</span>
          </label>
        )}
        {mistake !== null && (
          <p role="alert" className="text-down">
            {mistake}
          </p>
        )}
        <button
          type="submit"
          disabled={busy}
          className="h-11 rounded-lg bg-strong font-medium text-page transition hover:bg-white disabled:opacity-50"
        >
          {ACTIONS[purpose]}
        </button>
        {purpose !== "reset" && (
          <div className="flex justify-between gap-4">
            <Turn onClick={() => turnTo(purpose === "in" ? "up" : "in")}>
              {purpose === "in" ? "Create an account" : "I have an account"}
            </Turn>
            {purpose === "in" && <Turn onClick={() => turnTo("forgotten")}>Forgot password?</Turn>}
          </div>
        )}
      </form>
    </dialog>
  );
}

function Turn({ onClick, children }: { onClick: () => void; children: React.ReactNode }) {
  return (
    <button type="button" className="text-quiet transition hover:text-strong" onClick={onClick}>
      {children}
    </button>
  );
}
