"""Whether the receivers of the database's log (`exchange backup`, a replica) still get it.

The server keeps for each receiver the log that it has not got yet. If a receiver is gone for good, there is
no backup from then on, and the disk fills up.
"""

from typing import Any, Final

import psycopg
from prometheus_client import Gauge

_STOPPED = Gauge(
    "persist_log_copies_stopped", "How many of those who keep a copy of the database's log do not get it now"
)
_BEHIND = Gauge(
    "persist_log_behind_bytes",
    "How much of its log the database keeps, since the copy that is farthest behind lacks it",
)
_SLOTS: Final = """
SELECT count(*) FILTER (WHERE NOT active OR coalesce(wal_status, 'lost') = 'lost'),
       coalesce(max(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)), 0)::bigint
FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary
"""


def look_at_copies(connection: psycopg.Connection[Any]) -> None:
    """Update the metrics of the server's physical replication slots.

    Raises:
        psycopg.Error: the database does not answer.
    """
    row = connection.execute(_SLOTS).fetchone()
    assert row is not None
    _STOPPED.set(row[0])
    _BEHIND.set(max(0, row[1]))
