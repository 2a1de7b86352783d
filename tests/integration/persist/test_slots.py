"""Whether the copies of the database's log get it, as the metrics tell."""

from collections.abc import Iterator

import psycopg
import pytest
from prometheus_client import REGISTRY

from persist.slots import look_at_copies

SLOT = "copy_of_a_test"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
            (SLOT,),
        )


def told() -> tuple[float | None, float | None]:
    return (
        REGISTRY.get_sample_value("persist_log_copies_stopped"),
        REGISTRY.get_sample_value("persist_log_behind_bytes"),
    )


def test_a_copy_that_nobody_gets_is_told_with_what_is_kept_for_it(connection: psycopg.Connection) -> None:
    look_at_copies(connection)
    assert told() == (0, 0), "there is no copy"
    connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
    connection.execute("SELECT pg_switch_wal()")
    look_at_copies(connection)
    stopped, behind = told()
    assert stopped == 1
    assert (behind or 0) > 0
    connection.execute("SELECT pg_drop_replication_slot(%s)", (SLOT,))
    look_at_copies(connection)
    assert told() == (0, 0)
