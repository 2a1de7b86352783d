"""What the commands that look into the past share: connections and progress."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import redis
from rich.console import Console
from rich.progress import Progress as ProgressBar

from cli.console import CommandError
from cli.inquiries import connect, connect_log
from cli.listed_markets import listing_of, read_listing
from history.past import Past, PastError, Progress
from persist.segments import ArchiveDamagedError
from protocol.market import MarketMap
from runtime.settings import Settings, SettingsError
from stream_log.redis_log import RedisStreamLog

SHOWN_FROM_ENTRIES = 2_000
"""A replay of fewer is over before a bar could be read."""


@contextmanager
def looking_back(settings: Settings) -> Iterator[tuple[Past, psycopg.Connection[Any] | None]]:
    """Open the past: from the archive and Redis, or from the one that answers.

    Raises:
        CommandError: neither answers, or the lookup fails.
    """
    reasons: list[str] = []
    connection: psycopg.Connection[Any] | None = None
    log: RedisStreamLog | None = None
    try:
        with connect(settings) as client:
            client.ping()
        log = connect_log(settings)
    except (redis.RedisError, SettingsError) as error:
        reasons.append(str(error))
    try:
        connection = psycopg.connect(settings.resolved_database_url(), connect_timeout=2, autocommit=True)
    except (psycopg.Error, SettingsError) as error:
        reasons.append(str(error).strip())
    if log is None and connection is None:
        raise CommandError(
            f"Neither Redis nor the database answers; `exchange up` starts them ({'; '.join(reasons)})."
        )
    try:
        listing = read_listing(log, settings) if log is not None else listing_of(settings)
        yield Past(log, connection, listing.known), connection
    except (PastError, ArchiveDamagedError) as error:
        raise CommandError(f"{error}.") from error
    except psycopg.Error as error:
        raise CommandError(f"The database returned an error: {str(error).strip()}") from error
    except redis.RedisError as error:
        raise CommandError(f"Redis returned an error: {error}") from error
    finally:
        if log is not None:
            log.close()
        if connection is not None:
            connection.close()


@contextmanager
def replay_bar(console: Console, *, quiet: bool) -> Iterator[Progress]:
    """Show how far a replay is, on a terminal, when it takes a while."""
    with ProgressBar(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("replaying", visible=False)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=done >= SHOWN_FROM_ENTRIES)

        yield progress


def known_market(market_map: MarketMap, symbol: str) -> str:
    """Return the market's symbol as it is written.

    Raises:
        CommandError: there is no such market.
    """
    if symbol.upper() not in market_map.by_symbol:
        raise CommandError(f"There is no market {symbol}; there are: {', '.join(market_map.by_symbol)}.")
    return symbol.upper()


def account_of_email(connection: psycopg.Connection[Any] | None, email: str) -> int:
    """Return the account with this address.

    Raises:
        CommandError: there is none, or the database does not answer.
    """
    if connection is None:
        raise CommandError(
            "The database, which knows the addresses, does not answer; name the account by --account."
        )
    row = connection.execute("SELECT account_id FROM users WHERE email = %s", (email.lower(),)).fetchone()
    if row is None:
        raise CommandError(f"There is no account with the address {email}.")
    return int(row[0])
