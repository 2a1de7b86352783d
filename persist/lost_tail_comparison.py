"""Compares the shards' logs in Redis with the database, once after every start of Redis.

A shard opens only after that.
"""

from collections.abc import Sequence
from typing import Any

import psycopg
import structlog

from persist.archive import has_entry
from persist.lost_tail_rules import Found, Stored, lost_tail
from protocol import streams
from protocol.stream_id import STREAM_START, StreamId
from stream_log.lost_tail_note import read_guard, write_guard
from stream_log.redis_log import RedisStreamLog

_log = structlog.get_logger()


class LogGuard:
    """Records for each shard whether it may open."""

    def __init__(self, log: RedisStreamLog, database_url: str, shards: Sequence[int]) -> None:
        self._streams = log
        self._database_url = database_url
        self._shards = list(shards)

    def step(self) -> list[str]:
        """Compare the logs that were not compared since Redis started, or must not open.

        Return why shards must not open.

        Raises:
            psycopg.Error: the database does not answer; nothing is recorded then.
        """
        guards = {shard: read_guard(self._streams.at(shard), shard) for shard in self._shards}
        open_questions = [shard for shard, guard in guards.items() if not guard.checked or guard.reason]
        if not open_questions:
            return []
        stored = stored_of(self._database_url)
        reasons: list[str] = []
        for shard in open_questions:
            stored_state = stored.get(shard, Stored())
            reason = lost_tail(shard, stored_state, found_of(self._streams, shard, stored_state))
            write_guard(self._streams.at(shard), shard, guards[shard].run_id, reason)
            if not reason:
                _log.info(
                    "log compared with the database", shard=shard, archived=str(stored_state.archived_id)
                )
            else:
                reasons.append(reason)
                if guards[shard].reason != reason:
                    _log.critical("the shard must not open", shard=shard, reason=reason)
        return reasons


def found_of(log: RedisStreamLog, shard: int, stored: Stored) -> Found:
    """Return Redis's data of a shard."""
    return Found(
        log.position(shard),
        log.last_id(streams.commands(shard)),
        log.last_id(streams.events(shard)),
        stored.archived_id == STREAM_START or has_entry(log, shard, stored.archived_id),
    )


def stored_of(database_url: str) -> dict[int, Stored]:
    """Return the database's data of the shards.

    Raises:
        psycopg.Error: it does not answer, or has not been migrated.
    """
    with psycopg.connect(database_url, connect_timeout=5) as connection:
        rows: list[tuple[Any, ...]] = connection.execute(
            "SELECT coalesce(archive.shard, ingest.shard), coalesce(archive.last_id, '0-0'), "
            "coalesce(archive.epoch, 0), coalesce(may_restart, true), coalesce(ingest.last_id, '0-0'), "
            "coalesce(ingest.error, '') FROM archive FULL JOIN ingest ON ingest.shard = archive.shard"
        ).fetchall()
    return {
        shard: Stored(StreamId.parse(archived_id), epoch, may_restart, StreamId.parse(ingested_id), error)
        for shard, archived_id, epoch, may_restart, ingested_id, error in rows
    }
