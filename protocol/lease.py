"""The leader and the standbys of a shard, as its workers announce themselves.

Only for liveness: the compare-and-set on `pos:{k}` keeps a second writer out.
"""

from typing import NamedTuple, Self

from protocol.stream_id import STREAM_START, StreamId

STANDBY_TTL_MS = 3_000
"""A standby that has not announced itself for this time counts as gone."""


class Leader(NamedTuple):
    """The worker that leads a shard; `lease:{k}` holds it while the worker renews the lease.

    A worker sets `process`, `pid` and `lease_ms`; the log adds the other fields when it writes.
    """

    process: str
    pid: int
    lease_ms: int
    epoch: int = 0
    client_id: int = 0
    """The number of its connection in Redis."""
    connection: str = ""
    """The name of its connection. Redis reuses the numbers after a restart; names identify processes."""

    @classmethod
    def parse(cls, value: str | bytes) -> Self:
        """Return the leader that the value of `lease:{k}` names.

        Raises:
            ValueError: the value names no leader.
        """
        if isinstance(value, bytes):
            value = value.decode()
        epoch, process, pid, lease_ms, client_id, connection = value.split("|")
        return cls(process, int(pid), int(lease_ms), int(epoch), int(client_id), connection)

    def encode(self) -> str:
        """Return the value of `lease:{k}`."""
        return f"{self.epoch}|{self.text()}"

    def text(self) -> str:
        """Return the part of the key's value after the epoch."""
        return f"{self.process}|{self.pid}|{self.lease_ms}|{self.client_id}|{self.connection}"


class Sight(NamedTuple):
    """The result of one look at a shard's lease."""

    leader: Leader | None
    """None: the lease was never taken, has expired, or was released."""
    remaining_ms: int = 0
    connected: bool = False
    """Whether the leader's connection to Redis still exists.

    The operating system closes the connection of a killed process at once.
    """


class Standby(NamedTuple):
    """A worker that follows a shard; `standbys:{k}` holds it under its process's name."""

    process: str
    pid: int
    stream_id: StreamId = STREAM_START
    """The last entry of the input that it has applied."""
    behind_ms: int = 0
    """How far that is behind the shard's position."""
    age_ms: int = 0
    """The age of its last announcement."""

    @classmethod
    def parse(cls, process: str, value: str | bytes, now_ms: int) -> Self:
        """Return the standby of the value `pid|stream_id|behind_ms|time_ms` in `standbys:{k}`.

        `now_ms` is Redis's time.

        Raises:
            ValueError: the value does not describe a standby.
        """
        if isinstance(value, bytes):
            value = value.decode()
        pid, stream_id, behind_ms, time_ms = value.split("|")
        return cls(
            process, int(pid), StreamId.parse(stream_id), int(behind_ms), max(0, now_ms - int(time_ms))
        )

    def text(self) -> str:
        """Return the part of the hash's value before the time, which Redis adds."""
        return f"{self.pid}|{self.stream_id}|{self.behind_ms}"
