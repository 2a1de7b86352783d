"""A state that is large enough for its snapshot to take time."""

import os
from collections.abc import Callable
from functools import partial

from engine_worker import snapshot_from_log
from engine_worker.snapshots import Snapshotter
from engine_worker.worker import Worker
from runtime.settings import PREFIX, Settings
from stream_log.redis_log import RedisStreamLog

MARKETS = Settings().market_map()


def large(
    worker: Worker,
    log: RedisStreamLog,
    redis_url: str,
    start: Callable[..., int] = snapshot_from_log.start,
    **settings: str,
) -> Snapshotter:
    """Return what saves the snapshots of a worker that has too much in memory to fork.

    `start` starts the process for that.
    """
    environment = os.environ | {
        f"{PREFIX}{name}": value for name, value in ({"REDIS_URL": redis_url} | settings).items()
    }
    connect = partial(RedisStreamLog.connect, redis_url)
    start_from_log = partial(start, environment=environment)
    return Snapshotter(
        worker, log, connect, 0, interval_s=0.0, start_from_log=start_from_log, fork_bytes_max=0
    )
