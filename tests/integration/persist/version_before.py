"""A database as the version before left it: migrations 0001 to 0004, and rows of then."""

import shutil
from importlib import resources
from pathlib import Path
from typing import LiteralString

import psycopg

from persist.migrate import migrate


def make_database(url: str, folder: Path) -> None:
    """Apply the migrations that the version before had.

    They are copied into `folder`, which does not exist.
    """
    with resources.as_file(resources.files("persist").joinpath("schema")) as schema:
        shutil.copytree(schema, folder, ignore=shutil.ignore_patterns("000[5-9]*", "00[1-9][0-9]*"))
    migrate(url, folder)


# Deposits of 10 (n) into account n % 100, one a second from 2026-01-01 on, each with its other side; see
# persist/rows.py of that version.
DEPOSITS: LiteralString = """
INSERT INTO ledger_entries (time, shard, stream_id, event, entry, account_id, asset, amount, kind, reference)
SELECT timestamptz '2026-01-01' + n * interval '1 s', 0, n || '-0', 0, entry, account_id, 'BTC', amount,
    'deposit', 'd' || n
FROM generate_series(1, %(count)s::integer) AS n
CROSS JOIN LATERAL (VALUES (0, -3, -10 * n), (1, n %% 100 + 1, 10 * n)) AS side (entry, account_id, amount)
"""
ORDERS: LiteralString = """
INSERT INTO orders (order_id, account_id, client_order_id, market, side, order_type, time_in_force, price,
    quantity, quote_quantity,
self_trade_prevention, status, cum_quantity, cum_quote, accepted_time, updated_time)
SELECT n, n %% 100 + 1, 'c' || n, 'BTC-USDT', 1, 1, 1, 100, 10, 0, 1, 1, 0, 0,
    timestamptz '2026-01-01' + n * interval '1 s',
timestamptz '2026-01-01' + n * interval '1 s' FROM generate_series(%(first)s::integer, %(last)s::integer) AS n
"""
LEDGER_OF_THE_VERSION_BEFORE: LiteralString = (
    "COPY ledger_entries (time, shard, stream_id, event, entry, account_id, asset, amount, kind, reference) "
    "FROM STDIN"
)
"""How its worker writes to the ledger."""


def deposit(
    connection: psycopg.Connection[tuple[object, ...]], time: str, account_id: int, name: str, amount: int
) -> None:
    """Store a deposit as the worker of the version before does: nothing but two entries of the ledger."""
    with connection.cursor() as cursor, cursor.copy(LEDGER_OF_THE_VERSION_BEFORE) as copy:
        for entry, account, signed in ((0, -3, -amount), (1, account_id, amount)):
            copy.write_row((time, 1, "1-0", 0, entry, account, "BTC", signed, "deposit", name))
