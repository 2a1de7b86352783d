"""Signing up and in, and the mails that belong to it."""

import re
import time

import httpx
import psycopg
import pyotp

from tests.support.newcomers import PASSWORD

STEP_S = 30


class Mails:
    """The mails that were written, newest first."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    def to(self, email: str) -> list[tuple[str, str]]:
        """Return subject and body of those to an address."""
        with psycopg.connect(self._database_url) as database:
            return database.execute(
                "SELECT subject, body FROM mails WHERE recipient = %s ORDER BY mail_id DESC", (email,)
            ).fetchall()

    def token(self, email: str) -> str:
        """Return the token of the newest mail to an address."""
        found = re.search(r"or enter: (\S+)", self.to(email)[0][1])
        assert found
        return found[1]

    def let_a_minute_pass(self) -> None:
        """Of one kind there is one in a minute."""
        with psycopg.connect(self._database_url) as database:
            database.execute("UPDATE mails SET created_at = created_at - interval '2 minutes'")


def sign_in(url: str, email: str, password: str = PASSWORD, **others: str) -> httpx.Response:
    return httpx.post(
        f"{url}/api/v1/signin", json={"email": email, "password": password, **others}, timeout=30
    )


def post(url: str, path: str, **body: str) -> httpx.Response:
    return httpx.post(f"{url}/api/v1/{path}", json=body, timeout=30)


def code_of(secret: str, steps: int = 0) -> str:
    return str(pyotp.TOTP(secret).at(int(time.time()) + steps * STEP_S))
