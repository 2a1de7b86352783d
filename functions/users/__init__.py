"""Users and their credentials: sign-up, sessions, API keys, passwords, the second factor, mails."""
