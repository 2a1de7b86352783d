"""Who leads a shard and who stands by, as its workers tell each other.

For liveness only: what keeps a second writer out is the compare-and-set on `pos:{k}`.
"""

from typing import NamedTuple, Self

from protocol.stream_id import STREAM_START, StreamId

STANDBY_TTL_MS = 3_000
"""A standby that has not announced itself for so long counts as gone."""


class Leader(NamedTuple):
    """The worker that leads a shard; `lease:{k}` holds it for as long as it says that it is alive.

    A worker says `process`, `pid` and `lease_ms`; the log adds the rest when it writes.
    """

    process: str
    pid: int
    lease_ms: int
    epoch: int = 0
    client_id: int = 0
    """The number of its connection in Redis, and …"""
    connection: str = ""
    """… its name. Numbers begin anew when Redis restarts, names tell processes apart."""

    @classmethod
    def parse(cls, value: str | bytes) -> Self:
        """Return the leader that the value of `lease:{k}` names.

        Raises:
            ValueError: it names none.
        """
        if isinstance(value, bytes):
            value = value.decode()
        epoch, process, pid, lease_ms, client_id, connection = value.split("|")
        return cls(process, int(pid), int(lease_ms), int(epoch), int(client_id), connection)

    def encode(self) -> str:
        """Return the value of `lease:{k}`."""
        return f"{self.epoch}|{self.text()}"

    def text(self) -> str:
        """Return what the key holds after the epoch."""
        return f"{self.process}|{self.pid}|{self.lease_ms}|{self.client_id}|{self.connection}"


class Sight(NamedTuple):
    """What one look at a shard's lease shows."""

    leader: Leader | None
    """None: the lease was never taken, has run out, or was given up."""
    remaining_ms: int = 0
    connected: bool = False
    """Whether Redis still knows the leader's connection.

    A killed process's is closed by its system at once.
    """


class Standby(NamedTuple):
    """A worker that follows a shard; `standbys:{k}` holds it by its process's name."""

    process: str
    pid: int
    stream_id: StreamId = STREAM_START
    """Up to where it has applied the input."""
    behind_ms: int = 0
    """How far that is behind the shard's position."""
    age_ms: int = 0
    """How long ago it said so."""

    @classmethod
    def parse(cls, process: str, value: str | bytes, now_ms: int) -> Self:
        """Return the standby of which `standbys:{k}` says `value`, `pid|stream_id|behind_ms|time_ms`.

        `now_ms` is Redis's time.

        Raises:
            ValueError: it says nothing of a standby.
        """
        if isinstance(value, bytes):
            value = value.decode()
        pid, stream_id, behind_ms, time_ms = value.split("|")
        return cls(
            process, int(pid), StreamId.parse(stream_id), int(behind_ms), max(0, now_ms - int(time_ms))
        )

    def text(self) -> str:
        """Return what the hash holds before the time, which Redis adds."""
        return f"{self.pid}|{self.stream_id}|{self.behind_ms}"
