"""A snapshot made by a separate process: `python -m engine_worker.snapshot_from_log`.

Its size is written to standard output.

The process is an unannounced standby: it restores the previous snapshot, follows the log up to the current
position, compares its state with the leader's commit, saves, and ends. The leader, however much memory it
has, need not fork, and continues meanwhile.
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

    The time does not depend on the parent's memory.

    `environment` has its settings; None: this process's own.
    """
    return os.posix_spawn(
        sys.executable,
        child_process.command(__name__),
        os.environ if environment is None else environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, output, STDOUT)],
    )


def main() -> None:
    """Make the snapshot with the settings of the shard's engine worker."""
    be_patient()
    gc.disable()
    settings = load_settings()
    configure_logs(settings, f"{settings.engine_name()}-snapshot")
    try:
        size = _make(settings)
    except StateDiffers as error:
        # The parent's state was published, so the parent continues, and forks the next snapshot.
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
