"""Whether those who keep a copy of the database's log – `exchange backup`, a replica – still get it.

The server keeps for each what it has not got yet. Where one has gone away for good, there is no backup any more from that moment on,
and the disk fills up.
"""

from typing import Any, Final

import psycopg
from prometheus_client import Gauge

_RECEIVING = Gauge(
    "persist_log_receiving",
    "1: who keeps a copy of the database's log by this slot gets it; 0: not now, or no more",
    ["slot"],
)
_BEHIND = Gauge(
    "persist_log_behind_bytes", "How much of the database's log the server keeps, since the copy lacks it", ["slot"]
)
_SLOTS: Final = """
SELECT slot_name, active AND coalesce(wal_status, 'lost') <> 'lost',
       coalesce(greatest(0, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)), 0)::bigint
FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary
"""


class LogCopies:
    """Keeps the metrics of the server's physical replication slots."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def look(self, connection: psycopg.Connection[Any]) -> None:
        """Measure; forget slots that are gone.

        Raises:
            psycopg.Error: the database does not answer.
        """
        found = connection.execute(_SLOTS).fetchall()
        for name, is_receiving, behind in found:
            _RECEIVING.labels(name).set(is_receiving)
            _BEHIND.labels(name).set(behind)
        names = {name for name, _, _ in found}
        for gone in self._known - names:
            _RECEIVING.remove(gone)
            _BEHIND.remove(gone)
        self._known = names
