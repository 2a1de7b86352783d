"""Whether a shard's log still has everything that was stored of it (pure).

Redis alone cannot tell: after a truncated log file, an old backup, or a failover to a replica that had missed
entries, all its keys are consistent with one earlier moment. Only the database is independent.
"""

from typing import NamedTuple

from protocol.positions import ShardPosition
from protocol.stream_id import STREAM_START, StreamId


class Stored(NamedTuple):
    """The database's data of one shard; everything at its start if it has none."""

    archived_id: StreamId = STREAM_START
    archived_epoch: int = 0
    may_restart: bool = True
    ingested_id: StreamId = STREAM_START
    error: str = ""


class Found(NamedTuple):
    """Redis's data of the shard."""

    position: ShardPosition
    input_end: StreamId
    """The id of the newest input entry ever appended."""
    events_end: StreamId
    has_archived: bool
    """Whether the last archived entry is in the input."""


def lost_tail(shard: int, stored: Stored, log_state: Found) -> str:
    """Return what is missing in Redis and what to do; empty if nothing is."""
    position = log_state.position
    damage = ""
    if position.stream_id < stored.archived_id:
        damage = f"its log ends at {position.stream_id}, but was archived up to {stored.archived_id}"
    elif position.epoch < stored.archived_epoch:
        damage = f"its epoch is {position.epoch}, but was {stored.archived_epoch} before"
    elif log_state.events_end < stored.ingested_id:
        damage = f"its events end at {log_state.events_end}, but were stored up to {stored.ingested_id}"
    elif log_state.input_end < position.stream_id:
        damage = f"its input ends at {log_state.input_end}, but was committed up to {position.stream_id}"
    elif stored.archived_id > STREAM_START and not log_state.has_archived and not stored.may_restart:
        damage = f"its log goes on without entry {stored.archived_id}, which was archived last"
    if not damage:
        return ""
    return (
        f"shard {shard} has lost the end of its log: {damage}. Redis came back with less than it had "
        "acknowledged. Stop the exchange, and bring Redis's newest data back if there are any; otherwise "
        "`exchange restore` rebuilds them from the database (first with --dry-run, to see what would be "
        "missing)"
    )
