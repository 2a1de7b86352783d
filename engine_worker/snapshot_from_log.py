"""A snapshot by a process of its own: `python -m engine_worker.snapshot_from_log`.

Its size goes to the standard output.

It is a standby that nobody counts on: it restores the snapshot before, follows the log up to the position as
it is then, compares what it came to with the leader's commit, saves, and ends. The leader, with however much
in memory, has nothing to fork, and goes on meanwhile.
"""

import gc
import os
import sys
from collections.abc import Mapping

import structlog

from engine_worker.checksum import StateDiffers
from engine_worker.frame_core import InvariantBroken
from engine_worker.snapshots import IMPOSSIBLE, STDOUT, be_patient, save
from engine_worker.worker import LogDamaged, Worker
from protocol.codec import LaterFormatError
from runtime import child_process
from runtime.log import configure_logs
from runtime.settings import Settings, load_settings
from stream_log.interface import Fenced
from stream_log.redis_log import RedisStreamLog, Unreachable

_log = structlog.get_logger()


def start(output: int, environment: Mapping[str, str] | None = None) -> int:
    """Start the process, with `output` as its standard output, and return its id.

    That takes no longer for a parent that is large.

    `environment` is what its settings come from; None: this process's own.
    """
    return os.posix_spawn(
        sys.executable,
        child_process.command(__name__),
        os.environ if environment is None else environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, output, STDOUT)],
    )


def main() -> None:
    """Make the snapshot with the settings of the engine worker whose shard it is."""
    be_patient()
    gc.disable()
    settings = load_settings()
    configure_logs(settings, f"{settings.engine_name()}-snapshot")
    try:
        size = _make(settings)
    except StateDiffers as error:
        # Its parent's state is what was published, so that one goes on, and forks the next snapshot.
        _log.critical("no snapshot from the log: its state differs", shard=settings.shard, reason=str(error))
        sys.exit(1)
    except InvariantBroken as error:
        _log.critical("the state is wrong", shard=settings.shard, reason=str(error))
        sys.exit(IMPOSSIBLE)
    except (LogDamaged, LaterFormatError, Fenced, *Unreachable) as error:
        _log.warning("no snapshot from the log", shard=settings.shard, reason=str(error))
        sys.exit(1)
    sys.stdout.write(str(size))
    sys.exit(0 if size else 1)


def _make(settings: Settings) -> int:
    log = RedisStreamLog.connect(
        settings.resolved_redis_url(), shard=settings.shard, replicas_min=settings.redis_replicas_min
    )
    worker = Worker.of(settings, log)
    worker.join()
    worker.core.check_invariants()
    return save(worker, log, settings.shard)


if __name__ == "__main__":
    main()
