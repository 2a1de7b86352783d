"""Who leads a shard: what a worker that does not should do now, and when one that does should renew its
lease.

A standby looks at the lease every so often and decides by what it sees:

| lease                  | the leader's connection  | before that                                | decision  |
| ---------------------- | ------------------------ | ------------------------------------------ | --------- |
| held                   | there                    | –                                          | follow    |
| held for longer than leases last | there          | seen so for less than a lease              | follow    |
| held for longer than leases last | there          | seen so for a lease                        | take over |
| held                   | gone                     | not seen gone for `GONE_PART` of the lease | follow    |
| held                   | gone                     | seen gone for so long, and nothing else    | take over |
| free, run out, given up | –                       | Redis was away or stalled less than a lease ago | follow |
| free, run out, given up | –                       | –                                          | take over |

A killed leader loses its connection at once, so its standby need not wait for the lease. One that only
reconnects writes its new connection into the lease in the same moment. One that is paused keeps its
connection and loses the lease. After Redis itself was away everybody's connection is gone and every lease may
have run out, so the leader gets the time of one lease to come back. The same when this standby could not look
for a while: Redis may have stalled, and the leader's renewal may be the next thing that it gets to.

Nothing here keeps two workers from writing: whatever is decided, the compare-and-set on `pos:{k}` has the
last word.
"""

from enum import Enum, auto

from protocol.lease import Leader, Sight

POLLS_PER_LEASE = 20
"""How often a standby looks."""
GONE_PART = 5
"""A connection that has been gone for this part of a lease does not come back."""
LATE_PART = 2
"""A look that comes later than this part of a lease after the one before says nothing about the leader."""
RENEWALS_PER_LEASE = 4
LEASE_FACTOR_MAX = 8


def lease_after(fruitless: int, lease_ms: int) -> int:
    """Return how long a lease lasts that is taken after so many takeovers in turn that led to nothing: each
    time twice as long.

    What takes longer than a lease would otherwise be begun by one worker after the other, and never be
    committed.
    """
    return lease_ms * min(1 << fruitless, LEASE_FACTOR_MAX)


class Decision(Enum):
    """What a worker that does not lead should do."""

    FOLLOW = auto()
    TAKE_OVER = auto()


class Watch:
    """What a standby remembers between two looks at the lease. Times are milliseconds of one clock."""

    def __init__(self, lease_ms: int) -> None:
        self._lease_ms = lease_ms
        self._gone: Leader | None = None
        """Whose connection was gone at the last look."""
        self._gone_since_ms = 0
        self._overlong_since_ms: int | None = None
        """Since when the lease is to last longer than a leader may take it for."""
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
            # Renewed while Redis's clock was ahead, and not since it was set right: a leader that lives would
            # have.
            self._overlong_since_ms = now_ms if self._overlong_since_ms is None else self._overlong_since_ms
            return (
                Decision.TAKE_OVER if now_ms - self._overlong_since_ms >= self._lease_ms else Decision.FOLLOW
            )
        if sight.leader != self._gone:
            self._gone, self._gone_since_ms = sight.leader, now_ms
        gone_ms = now_ms - self._gone_since_ms
        return Decision.TAKE_OVER if gone_ms >= self._lease_ms // GONE_PART else Decision.FOLLOW

    def redis_was_away(self, now_ms: int) -> None:
        """Note that a look failed."""
        self._gone = None
        self._looked_ms = now_ms
        self._patient_until_ms = now_ms + self._lease_ms


class Renewals:
    """When a leader renews its lease."""

    def __init__(self, leader: Leader, now_ms: int, usual_ms: int | None = None) -> None:
        """The lease of `leader` was taken at `now_ms`.

        `usual_ms` is how long it lasts once the leader has committed something.
        """
        self.leader = leader
        self._usual_ms = usual_ms or leader.lease_ms
        self._due_ms = now_ms + leader.lease_ms // RENEWALS_PER_LEASE

    def committed(self) -> None:
        """Note that the leader gets on: from now on its lease lasts no longer than usual."""
        if self.leader.lease_ms != self._usual_ms:
            self.leader = self.leader._replace(lease_ms=self._usual_ms)
            self._due_ms = 0

    def due(self, now_ms: int) -> Leader | None:
        """Return whose lease to renew now, None when it is not due; who asks does so."""
        if now_ms < self._due_ms:
            return None
        self._due_ms = now_ms + self.leader.lease_ms // RENEWALS_PER_LEASE
        return self.leader
