"""Mails leave by a real mail server, each once, and wait where there is none."""

from collections.abc import Iterator
from email.message import EmailMessage, Message

import psycopg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as Receiving

from cli.local.free_ports import free_port
from persist.mails import ATTEMPTS_MAX, BATCH, Mailer, send_due
from tests.support.databases import as_persist


class Inbox(Receiving):
    """Keeps what it is sent; refuses an address that it does not know."""

    def __init__(self) -> None:
        super().__init__(EmailMessage)
        self.mails: list[Message] = []

    async def handle_RCPT(  # noqa: N802  # the library finds it by this name
        self, _server: object, _session: object, envelope: object, address: str, _options: object
    ) -> str:
        """Take an address or refuse it."""
        if address.startswith("unknown"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)  # type: ignore[attr-defined]
        return "250 OK"

    def handle_message(self, message: Message) -> None:
        """Keep a mail."""
        self.mails.append(message)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def mailer(inbox: Inbox) -> Iterator[Mailer]:
    controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield Mailer("127.0.0.1", controller.port, "", "", "none", "exchange@example.com")
    finally:
        controller.stop()


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute(
            "INSERT INTO users (account_id, email, password_hash) VALUES (1001, 'a@example.com', '')"
        )
        yield database


def write(database: psycopg.Connection[tuple[object, ...]], recipient: str, subject: str = "Hello") -> None:
    database.execute(
        "INSERT INTO mails (account_id, recipient, subject, body) VALUES (1001, %s, %s, 'token')",
        (recipient, subject),
    )


def sent(database_url: str, mailer: Mailer) -> int:
    return send_due(as_persist(database_url), mailer, lambda: True)


def test_each_is_sent_once_and_then_says_nothing_more(
    database: psycopg.Connection[tuple[object, ...]], database_url: str, mailer: Mailer, inbox: Inbox
) -> None:
    for number in range(BATCH + 1):
        write(database, f"a{number}@example.com", f"Number {number}")
    assert [sent(database_url, mailer), sent(database_url, mailer)] == [BATCH + 1, 0]
    assert sorted(mail["To"] for mail in inbox.mails) == sorted(
        f"a{number}@example.com" for number in range(BATCH + 1)
    )
    assert inbox.mails[0]["From"] == "exchange@example.com"
    assert "token" in str(inbox.mails[0].get_payload())
    assert database.execute("SELECT count(*) FROM mails WHERE body <> ''").fetchone() == (0,)


def test_one_that_is_refused_holds_no_other_up_and_waits(
    database: psycopg.Connection[tuple[object, ...]], database_url: str, mailer: Mailer, inbox: Inbox
) -> None:
    write(database, "unknown@example.com")
    write(database, "evil@example.com", "Two\nBcc: everybody@example.com")
    write(database, "a@example.com")
    assert sent(database_url, mailer) == 1
    assert [mail["To"] for mail in inbox.mails] == ["a@example.com"]
    rows = database.execute(
        "SELECT attempts, next_try_at > now(), error <> '' FROM mails WHERE sent_at IS NULL"
    ).fetchall()
    assert rows == [(1, True, True)] * 2
    assert sent(database_url, mailer) == 0


def test_where_there_is_no_mail_server_they_wait_and_are_given_up_in_the_end(
    database: psycopg.Connection[tuple[object, ...]], database_url: str, mailer: Mailer, inbox: Inbox
) -> None:
    away = mailer._replace(port=free_port())
    write(database, "a@example.com")
    assert sent(database_url, away) == 0
    database.execute("UPDATE mails SET next_try_at = now()")
    assert sent(database_url, mailer) == 1
    write(database, "b@example.com")
    database.execute("UPDATE mails SET attempts = %s WHERE sent_at IS NULL", (ATTEMPTS_MAX,))
    assert sent(database_url, mailer) == 0
    assert len(inbox.mails) == 1
