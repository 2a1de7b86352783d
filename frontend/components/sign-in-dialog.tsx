"use client";

import { useEffect, useRef, useState } from "react";

import { useSession } from "@/hooks/use-session";

import { messageOf } from "./message-of";

export function SignInDialog({ onClose }: { onClose: () => void }) {
  const session = useSession();
  const dialog = useRef<HTMLDialogElement>(null);
  const [isNew, setIsNew] = useState(false);
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [mistake, setMistake] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);

  useEffect(() => dialog.current?.showModal(), []);

  const submit = async (event: React.FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setMistake(null);
    try {
      await (isNew ? session.signUp(email, password) : session.signIn(email, password));
      onClose();
    } catch (error) {
      setMistake(messageOf(error));
      setBusy(false);
    }
  };

  return (
    <dialog ref={dialog} onClose={onClose} aria-label={isNew ? "Sign up" : "Sign in"} className="panel m-auto w-[min(24rem,calc(100vw-2rem))] p-6 text-text shadow-2xl backdrop:bg-black/60">
      <form onSubmit={submit} className="flex flex-col gap-4">
        <h2 className="text-lg font-semibold text-strong">{isNew ? "Make an account" : "Welcome back"}</h2>
        <label className="flex flex-col gap-1.5">
          Email
          <span className="field">
            <input type="email" name="email" autoComplete="email" required autoFocus value={email} onChange={(event) => setEmail(event.target.value)} />
          </span>
        </label>
        <label className="flex flex-col gap-1.5">
          Password
          <span className="field">
            <input type="password" name="password" autoComplete={isNew ? "new-password" : "current-password"} required minLength={8} maxLength={1024} value={password} onChange={(event) => setPassword(event.target.value)} />
          </span>
          {isNew && <span className="text-xs text-quiet">Eight characters or more.</span>}
        </label>
        {mistake !== null && <p role="alert" className="text-down">{mistake}</p>}
        <button type="submit" disabled={busy} className="h-11 rounded-lg bg-strong font-medium text-page transition hover:bg-white disabled:opacity-50">
          {isNew ? "Sign up" : "Sign in"}
        </button>
        <button type="button" className="text-quiet transition hover:text-strong" onClick={() => { setIsNew(!isNew); setMistake(null); }}>
          {isNew ? "I have an account" : "I am new here"}
        </button>
      </form>
    </dialog>
  );
}
