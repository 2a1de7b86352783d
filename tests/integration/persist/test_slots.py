"""Whether the copies of the database's log get it, as the metrics tell."""

from collections.abc import Iterator

import psycopg
import pytest
from prometheus_client import REGISTRY

from persist.slots import LogCopies

SLOT = "copy_of_a_test"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (SLOT,)
        )


def metric(name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"slot": SLOT})


def test_a_copy_that_nobody_gets_is_told_with_what_is_kept_for_it(connection: psycopg.Connection) -> None:
    copies = LogCopies()
    copies.look(connection)
    assert metric("persist_log_receiving") is None, "there is no copy"
    connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
    connection.execute("SELECT pg_switch_wal()")
    copies.look(connection)
    assert metric("persist_log_receiving") == 0
    assert (metric("persist_log_behind_bytes") or 0) > 0
    connection.execute("SELECT pg_drop_replication_slot(%s)", (SLOT,))
    copies.look(connection)
    assert metric("persist_log_receiving") is None
    assert metric("persist_log_behind_bytes") is None
