"""One worker of a shard: it follows until it may take over, then it leads.

Any number may run. Each joins as a standby; a single worker finds no leader, and takes over at once.
"""

from collections.abc import Callable

import structlog

from engine_worker.leadership import POLLS_PER_LEASE, Decision, Watch, lease_after
from engine_worker.metrics import FRUITLESS_TAKEOVERS
from engine_worker.worker import Worker, monotonic_ms
from protocol.lease import STANDBY_TTL_MS, Leader, Standby
from stream_log.interface import Fenced, Rewound, StreamLog

_ANNOUNCE_MS = STANDBY_TTL_MS // 3

_log = structlog.get_logger()


class Candidate:
    """A worker and its place among the workers of its shard. Times are milliseconds of `now_ms`."""

    def __init__(
        self,
        worker: Worker,
        log: StreamLog,
        process: str,
        pid: int,
        lease_ms: int,
        now_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        """Make `worker` one of its shard's workers, with the name `process`.

        Call `join` first, then `step` repeatedly.
        """
        self._worker = worker
        self._streams = log
        self._index = worker.index
        self._process = process
        self._pid = pid
        self._lease_ms = lease_ms
        self._now_ms = now_ms
        self._watch = Watch(lease_ms)
        self._look_ms = 0
        """The time of the next look at the lease."""
        self._announce_ms = 0

    @property
    def leads(self) -> bool:
        """Whether it has taken the shard over."""
        return self._worker.leads

    @property
    def poll_ms(self) -> int:
        """How long to wait after a step that has followed everything there was."""
        return max(1, self._lease_ms // POLLS_PER_LEASE)

    def join(self) -> None:
        """Bring the worker to the committed position. See `Worker.join`."""
        self._worker.join()

    def step(self, block_ms: int) -> int:
        """Lead for one step, waiting up to `block_ms` for input; or follow, and take over if it is time.

        Returns the number of entries processed or followed.

        Raises:
            Fenced: another worker has taken over from this leader, which must be created again.
            Rewound: Redis has lost entries that it has applied; it must be created again.
            LogDamaged: the committed position cannot be reached.
            InvariantBroken: the state is wrong; nothing derived from it was published.
        """
        if self.leads:
            led_from = self._worker.position
            processed = self._worker.step(block_ms)
            if self._worker.position != led_from:
                FRUITLESS_TAKEOVERS.labels(self._index).set(0)
            return processed
        followed = self._worker.follow()
        now_ms = self._now_ms()
        if now_ms >= self._announce_ms:
            self._announce_ms = now_ms + _ANNOUNCE_MS
            self._streams.announce(self._index, self._standby())
        if now_ms >= self._look_ms:
            self._look_ms = now_ms + self.poll_ms
            self._look(now_ms)
        return followed

    def _look(self, now_ms: int) -> None:
        sight = self._streams.lease(self._index)
        if self._watch.decide(sight, now_ms) is not Decision.TAKE_OVER:
            return
        try:
            fruitless = self._streams.fruitless_takeovers(self._index)
            FRUITLESS_TAKEOVERS.labels(self._index).set(fruitless)
            lease_ms = lease_after(fruitless, self._lease_ms)
            if fruitless:
                _log.warning(
                    "takeovers lead to nothing", shard=self._index, takeovers=fruitless, lease_ms=lease_ms
                )
            self._worker.lead(Leader(self._process, self._pid, lease_ms), sight.leader, self._lease_ms)
        except Rewound:
            raise
        except Fenced:
            return  # another standby was first, or the leader has returned
        self._streams.withdraw(self._index, self._standby())
        _log.info(
            "this worker leads", shard=self._index, after=sight.leader.process if sight.leader else None
        )

    def _standby(self) -> Standby:
        return Standby(self._process, self._pid, self._worker.position.stream_id, self._worker.lag_ms)

    def tick(self, now_us: int) -> None:
        """Advance the time of a shard that this worker leads. See `Worker.tick`."""
        if self.leads:
            self._worker.tick(now_us)

    def redis_was_away(self) -> None:
        """Record that a step failed because Redis was unreachable."""
        self._watch.redis_was_away(self._now_ms())

    def leave(self) -> None:
        """Leave: publish pending replies and release the lease, or withdraw as a standby."""
        if self.leads:
            self._worker.finish()
        else:
            self._streams.withdraw(self._index, self._standby())
