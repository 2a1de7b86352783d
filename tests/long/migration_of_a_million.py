"""A million orders and as many ledger entries are migrated while a writer is at work: how long it takes, and
how long the writer waits.

Run by `make test-long`; not part of `make test`, which does not collect files of such names.
"""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from persist.migrate import Flavour, migrate
from tests.integration.persist.version_before import DEPOSITS, ORDERS, deposit, make_database

ORDER_COUNT = 1_000_000
DEPOSIT_COUNT = 500_000
WAIT_S_MAX = 1.0


class Writing(NamedTuple):
    statements: int
    longest_s: float
    deposits: int


class Writer:
    """What the worker of the version before does: it inserts and updates orders, and stores deposits, without
    a pause."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.result = Writing(0, 0.0, 0)
        self.failure: BaseException | None = None

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        statements, longest, deposits = 0, 0.0, 0
        try:
            with psycopg.connect(self._url) as connection:
                while not self._stopping.is_set():
                    number = ORDER_COUNT + deposits + 1
                    began = time.monotonic()
                    connection.execute(ORDERS, {"first": number, "last": number})
                    connection.execute(
                        "UPDATE orders SET cum_quantity = cum_quantity + 1 WHERE order_id = %s",
                        (number * 7919 % ORDER_COUNT + 1,),
                    )
                    deposit(connection, "2026-03-01", 1, f"while migrating {deposits}", 5)
                    connection.commit()
                    longest = max(longest, time.monotonic() - began)
                    statements, deposits = statements + 3, deposits + 1
                    self.result = Writing(statements, longest, deposits)
        except BaseException as error:
            self.failure = error
            raise


@pytest.fixture
def million_url(postgres_server: str, tmp_path: Path) -> Iterator[str]:
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS million WITH (FORCE)")
        connection.execute("CREATE DATABASE million TEMPLATE template0")
        url = f"{postgres_server.rpartition('/')[0]}/million"
        make_database(url, tmp_path / "version_before")
        with psycopg.connect(url) as filling:
            filling.execute(ORDERS, {"first": 1, "last": ORDER_COUNT})
            filling.execute(DEPOSITS, {"count": DEPOSIT_COUNT})
        yield url
        connection.execute("DROP DATABASE million WITH (FORCE)")


def test_a_million_orders_are_migrated_while_they_are_written(million_url: str) -> None:
    progress: list[str] = []
    with Writer(million_url) as writer:
        time.sleep(3)
        before = writer.result
        began = time.monotonic()
        flavour = migrate(million_url, tell=progress.append)
        total_s = time.monotonic() - began
    assert writer.failure is None
    before_ms, during_ms = (round(writing.longest_s * 1000) for writing in (before, writer.result))
    sys.stdout.write(
        f"\n{flavour}: {ORDER_COUNT:,} orders, {2 * DEPOSIT_COUNT:,} ledger entries; migrated in "
        f"{total_s:.1f} s\nlongest transaction of the writer: {during_ms} ms, in the 3 s before: {before_ms} "
        f"ms; {writer.result.deposits:,} transactions\n" + "\n".join(progress) + "\n"
    )
    with psycopg.connect(million_url) as connection:
        counted = connection.execute("SELECT count(*), sum(amount) FROM transfers").fetchone()
    amount = 10 * DEPOSIT_COUNT * (DEPOSIT_COUNT + 1) // 2 + 5 * writer.result.deposits
    assert counted == (DEPOSIT_COUNT + writer.result.deposits, amount)
    assert writer.result.longest_s < WAIT_S_MAX
    assert flavour in Flavour
