"""Sends the mails that functions have written into the database, each at least once.

A body is emptied when it is sent.

A process that ends between the mail server's answer and the commit sends a mail again: twice is better than
never.
"""

import smtplib
import ssl
from collections.abc import Callable
from contextlib import closing
from email.message import EmailMessage
from typing import Any, Final, NamedTuple

import prometheus_client
import psycopg
import structlog

from runtime.settings import Settings

BATCH: Final = 20
_TIMEOUT_S: Final = 20
_WAIT_MAX_S: Final = 3_600
ATTEMPTS_MAX: Final = 20
"""After this many attempts, over about twelve hours, a mail is given up."""
_TAKE: Final = """
    SELECT mail_id, recipient, subject, body, attempts FROM mails
    WHERE sent_at IS NULL AND next_try_at <= now() AND attempts < %(most)s
    ORDER BY next_try_at LIMIT %(batch)s FOR UPDATE SKIP LOCKED
"""
_SENT: Final = (
    "UPDATE mails SET sent_at = now(), body = '', error = '', attempts = attempts + 1 WHERE mail_id = %(id)s"
)
_FAILED: Final = """
    UPDATE mails SET attempts = attempts + 1, error = %(error)s,
    next_try_at = now() + make_interval(secs => %(wait_s)s)
    WHERE mail_id = %(id)s
"""

_log = structlog.get_logger()
_mails = prometheus_client.Counter(
    "persist_mails", "Mails, by what became of an attempt to send them", ["outcome"]
)
for _outcome in ("sent", "failed"):
    _mails.labels(_outcome)


class Mailer(NamedTuple):
    """A mail server, and the sender of the mails."""

    host: str
    port: int
    user: str
    password: str
    encryption: str
    """starttls, tls, or none."""
    sender: str

    def open(self) -> smtplib.SMTP:
        """Connect.

        Raises:
            OSError, smtplib.SMTPException: this failed.
        """
        context = ssl.create_default_context()
        if self.encryption == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=_TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=_TIMEOUT_S)
            if self.encryption == "starttls":
                server.starttls(context=context)
        if self.user:
            server.login(self.user, self.password)
        return server

    def message(self, recipient: str, subject: str, body: str) -> EmailMessage:
        """Return a mail."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self.sender, recipient, subject
        message.set_content(body)
        return message


def mailer_of(settings: Settings) -> Mailer | None:
    """Return the mail server of the settings; None: mails are kept, and `exchange mails` shows them."""
    if not settings.mail_host:
        return None
    return Mailer(
        settings.mail_host,
        settings.mail_port,
        settings.mail_user,
        settings.mail_password,
        settings.mail_encryption,
        settings.mail_from,
    )


def send_due(database_url: str, mailer: Mailer, still_running: Callable[[], bool]) -> int:
    """Send due mails, and return how many were sent. `psycopg.Error` is raised."""
    sent = 0
    with closing(psycopg.connect(database_url, application_name="mails")) as database:
        while still_running():
            with database.transaction():
                due = database.execute(_TAKE, {"batch": BATCH, "most": ATTEMPTS_MAX}).fetchall()
                sent += sum(_send(database, mailer, *mail) for mail in due)
            if len(due) < BATCH:
                break
    return sent


def _send(
    database: psycopg.Connection[Any],
    mailer: Mailer,
    mail_id: int,
    recipient: str,
    subject: str,
    body: str,
    attempts: int,
) -> bool:
    try:
        with mailer.open() as server:
            server.send_message(mailer.message(recipient, subject, body))
    except (OSError, smtplib.SMTPException, ValueError) as error:
        wait_s = min(_WAIT_MAX_S, 5 * 2**attempts)
        _log.warning(
            "a mail was not sent", mail=mail_id, attempts=attempts + 1, next_try_s=wait_s, error=str(error)
        )
        database.execute(_FAILED, {"id": mail_id, "error": str(error)[:500], "wait_s": wait_s})
        _mails.labels("failed").inc()
        return False
    database.execute(_SENT, {"id": mail_id})
    _mails.labels("sent").inc()
    return True
