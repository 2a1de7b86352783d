"""An engine worker that does not compare before it writes: the control of the tests that say that only one
does."""

from collections.abc import Sequence
from typing import Any

from engine_worker.main import main
from protocol import streams
from protocol.lease import Leader
from protocol.positions import ShardPosition
from stream_log import redis_log
from stream_log.interface import Entry
from stream_log.redis_log import RedisStreamLog

_COMPARISON = "if (redis.call('GET', KEYS[1]) or '0|0-0') ~= ARGV[1] then return 0 end\n"


def _read_inputs(
    self: RedisStreamLog,
    shard: int,
    position: ShardPosition,
    count: int,
    block_ms: int,
    publish: Sequence[tuple[str, bytes]] = (),
    *,
    renew: Leader | None = None,
    **_others: Any,
) -> list[Entry]:
    if publish:
        self.publish(publish)
    if renew is not None:  # or it would lose its lease whenever nothing comes for a while
        self.renew_lease(shard, renew)
    return self.read({streams.commands(shard): position.stream_id}, count, block_ms)


if __name__ == "__main__":
    without = redis_log._COMMIT.replace(_COMPARISON, "")
    assert without != redis_log._COMMIT
    redis_log._COMMIT = without
    RedisStreamLog.read_inputs = _read_inputs  # type: ignore[method-assign]
    main()
