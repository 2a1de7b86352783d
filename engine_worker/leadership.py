"""Leadership of a shard: what a standby should do now, and when a leader should renew its lease.

A standby looks at the lease periodically and decides:

| lease                   | the leader's connection | before that                               | decision  |
| ----------------------- | ----------------------- | ----------------------------------------- | --------- |
| held                    | exists                  | –                                         | follow    |
| held beyond its maximum | exists                  | seen so for less than a lease             | follow    |
| held beyond its maximum | exists                  | seen so for a lease                       | take over |
| held                    | gone                    | not yet gone for `GONE_PART` of the lease | follow    |
| held                    | gone                    | gone for all that time                    | take over |
| free, expired, released | –                       | Redis was away or stalled within a lease  | follow    |
| free, expired, released | –                       | –                                         | take over |

A killed leader loses its connection at once, so its standby need not wait for the lease. A leader that only
reconnects writes its new connection into the lease at the same moment. A paused leader keeps its connection
and loses the lease. After an outage of Redis all connections are gone and every lease may have expired, so
the leader gets the time of one lease to return. The same applies if this standby could not look for a while:
Redis may have stalled, and may process the leader's renewal next.

None of this prevents two workers from writing: the compare-and-set on `pos:{k}` does.
"""

from enum import Enum, auto

from protocol.lease import Leader, Sight

POLLS_PER_LEASE = 20
"""How many times per lease a standby looks."""
GONE_PART = 5
"""A leader whose connection is gone for this fraction of a lease is considered dead."""
LATE_PART = 2
"""A look that is later than this fraction of a lease after the previous one is not used."""
RENEWALS_PER_LEASE = 4
LEASE_FACTOR_MAX = 8


def lease_after(fruitless: int, lease_ms: int) -> int:
    """Return the duration of a lease after `fruitless` takeovers in a row without a commit; it doubles.

    Otherwise work that takes longer than a lease would be started by one worker after the other, and never be
    committed.
    """
    return lease_ms * min(1 << fruitless, LEASE_FACTOR_MAX)


class Decision(Enum):
    """What a standby should do."""

    FOLLOW = auto()
    TAKE_OVER = auto()


class Watch:
    """A standby's memory between two looks at the lease. Times are milliseconds of one clock."""

    def __init__(self, lease_ms: int) -> None:
        self._lease_ms = lease_ms
        self._gone: Leader | None = None
        """The leader whose connection was gone at the last look."""
        self._gone_since_ms = 0
        self._overlong_since_ms: int | None = None
        """Since when the lease exceeds the maximum duration of a lease."""
        self._patient_until_ms = 0
        self._looked_ms: int | None = None

    def decide(self, sight: Sight, now_ms: int) -> Decision:
        """Return what to do after this look."""
        if self._looked_ms is not None and now_ms - self._looked_ms > self._lease_ms // LATE_PART:
            self.redis_was_away(now_ms)
        self._looked_ms = now_ms
        if now_ms < self._patient_until_ms:
            return Decision.FOLLOW
        if sight.leader is None:
            return Decision.TAKE_OVER
        if sight.connected:
            self._gone = None
            if sight.remaining_ms <= 2 * sight.leader.lease_ms:
                self._overlong_since_ms = None
                return Decision.FOLLOW
            # Renewed while Redis's clock was ahead, and not since its correction: a living leader would have
            # renewed it.
            self._overlong_since_ms = now_ms if self._overlong_since_ms is None else self._overlong_since_ms
            return (
                Decision.TAKE_OVER if now_ms - self._overlong_since_ms >= self._lease_ms else Decision.FOLLOW
            )
        if sight.leader != self._gone:
            self._gone, self._gone_since_ms = sight.leader, now_ms
        gone_ms = now_ms - self._gone_since_ms
        return Decision.TAKE_OVER if gone_ms >= self._lease_ms // GONE_PART else Decision.FOLLOW

    def redis_was_away(self, now_ms: int) -> None:
        """Record that a look failed."""
        self._gone = None
        self._looked_ms = now_ms
        self._patient_until_ms = now_ms + self._lease_ms


class Renewals:
    """When a leader renews its lease."""

    def __init__(self, leader: Leader, now_ms: int, usual_ms: int | None = None) -> None:
        """The lease of `leader` was taken at `now_ms`.

        `usual_ms` is its duration after the leader's first commit.
        """
        self.leader = leader
        self._usual_ms = usual_ms or leader.lease_ms
        self._due_ms = now_ms + leader.lease_ms // RENEWALS_PER_LEASE

    def committed(self) -> None:
        """Record that the leader has committed: from now on its lease has the usual duration."""
        if self.leader.lease_ms != self._usual_ms:
            self.leader = self.leader._replace(lease_ms=self._usual_ms)
            self._due_ms = 0

    def due(self, now_ms: int) -> Leader | None:
        """Return the leader whose lease must be renewed now, by the caller; None: it is not due."""
        if now_ms < self._due_ms:
            return None
        self._due_ms = now_ms + self.leader.lease_ms // RENEWALS_PER_LEASE
        return self.leader
