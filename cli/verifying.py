"""Takes an account's address for its owner's by an operator's word: for programs, which read no mails."""

from contextlib import suppress
from typing import Final, LiteralString

import psycopg

from adapters.activity import noting
from cli.console import CommandError, database_away
from cli.local.embedded import CONNECT_TIMEOUT_S
from functions.users.activity import Activity
from mm.accounts import accounts_file, kept_accounts
from runtime.settings import Settings

BY_OPERATOR: Final = "by an operator"
_VERIFY: Final[LiteralString] = noting(
    """
    UPDATE users SET verified_at = coalesce(verified_at, now()) WHERE email = lower(%(who)s)
    OR account_id::text = %(who)s
    RETURNING account_id, %(detail)s::text AS detail
    """,
    "SELECT account_id FROM changed",
)


def verified(settings: Settings, who: str) -> int | None:
    """Mark the address of an account, named by number or address, as verified.

    Return its number; None: there is no such account.

    Raises:
        CommandError: the database is unreachable; nothing was changed.
    """
    asked = {
        "who": who,
        "activity": Activity.VERIFIED,
        "address": "",
        "agent": "exchange",
        "detail": BY_OPERATOR,
    }
    try:
        with psycopg.connect(settings.resolved_database_url(), connect_timeout=CONNECT_TIMEOUT_S) as database:
            row = database.execute(_VERIFY, asked).fetchone()
    except psycopg.Error as error:
        raise database_away(error) from error
    return int(row[0]) if row else None


def verify_market_maker(settings: Settings, done: set[str]) -> None:
    """Verify the addresses of the local market maker, once they are stored; add verified ones to `done`."""
    accounts = kept_accounts(accounts_file(settings.data_dir)) if settings.verification_required else None
    for account in (accounts.maker, accounts.taker) if accounts is not None else ():
        if account.email not in done:
            with suppress(CommandError):  # the database is away for the moment
                verified(settings, account.email)
                done.add(account.email)
