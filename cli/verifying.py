"""Takes an account's address for its owner's by an operator's word: for programs, which read no mails."""

from typing import Final, LiteralString

import psycopg

from cli.console import CommandError
from functions.activity import Activity, noting
from runtime.settings import Settings

BY_OPERATOR: Final = "by an operator"
_VERIFY: Final[LiteralString] = noting(
    """
    UPDATE users SET verified_at = coalesce(verified_at, now()) WHERE email = lower(%(who)s) OR account_id::text = %(who)s
    RETURNING account_id, %(detail)s::text AS detail
    """,
    "SELECT account_id FROM changed",
)


def verified(settings: Settings, who: str) -> int | None:
    """Note that the address of an account, named by number or address, is its owner's; return its number, None: there is no such account.

    Raises:
        CommandError: the database is away; nothing was noted.
    """
    asked = {"who": who, "activity": Activity.VERIFIED, "address": "", "agent": "exchange", "detail": BY_OPERATOR}
    try:
        with psycopg.connect(settings.resolved_database_url()) as database:
            row = database.execute(_VERIFY, asked).fetchone()
    except psycopg.Error as error:
        raise CommandError(f"The database does not answer: {error}".strip()) from error
    return int(row[0]) if row else None
