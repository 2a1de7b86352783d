"""Before a shard opens, persist compares its log with the database, once per start of Redis."""

import threading
import time

import structlog

from engine_worker.worker import LogDamaged
from protocol import streams
from runtime import redis_clients
from runtime.probes import Probes
from stream_log.lost_tail_note import read_guard
from stream_log.redis_log import Unreachable

ASK_EVERY_S = 0.02
SAY_EVERY_S = 5.0

_log = structlog.get_logger()


def await_guard(redis_url: str, shard: int, stopping: threading.Event, probes: Probes) -> None:
    """Wait until persist has compared the shard's log with the database, or until a stop request.

    Raises:
        LogDamaged: the log has lost entries that were stored.
    """
    say_s = time.monotonic() + SAY_EVERY_S
    with redis_clients.client_for(redis_url, streams.guard(shard)) as client:
        while not stopping.is_set():
            probes.starting("waiting for the log to be compared with the database")
            try:
                guard = read_guard(client, shard)
                if guard.reason:
                    raise LogDamaged(guard.reason)
                if guard.checked:
                    return
            except Unreachable as error:
                _log.debug("redis is away", error=str(error))
            if time.monotonic() >= say_s:
                say_s = time.monotonic() + SAY_EVERY_S
                _log.warning(
                    "waiting for persist-nudger (or `exchange up`) to compare this log with the database; "
                    "EXCHANGE_LOST_TAIL_CHECK_ENABLED=false opens without",
                    shard=shard,
                )
            stopping.wait(ASK_EVERY_S)
