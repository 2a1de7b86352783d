"""A shard's progress: the values of `pos:{k}`, of its checksum, and of the count of takeovers.

The scripts of stream_log/redis_log.py write the same formats.
"""

from typing import Final, NamedTuple, Self

from protocol.stream_id import STREAM_START, StreamId


class ShardPosition(NamedTuple):
    """The current writer of a shard (`epoch`), and the last entry of its input that is committed."""

    epoch: int
    stream_id: StreamId

    @classmethod
    def parse(cls, value: str | bytes | None) -> Self:
        """Return the position in the value of `pos:{k}`, `epoch|stream_id`.

        Without a value, the position of a new shard.

        Raises:
            ValueError: the value is not a position.
        """
        if not value:
            return cls(0, STREAM_START)
        if isinstance(value, bytes):
            value = value.decode()
        epoch, _, stream_id = value.partition("|")
        return cls(int(epoch), StreamId.parse(stream_id))

    def encode(self) -> str:
        """Return the value of `pos:{k}`."""
        return f"{self.epoch}|{self.stream_id}"


NEW_SHARD: Final = ShardPosition(0, STREAM_START)
"""The position of a shard that no worker has taken over yet."""


class StateChecksum(NamedTuple):
    """The checksum of a shard's state after an entry of its input.

    Every worker that has applied the same input must have the same checksum.
    """

    stream_id: StreamId
    checksum: str

    @classmethod
    def parse(cls, value: str | bytes) -> Self:
        """Return the checksum in the value of `pos:{k}:checksum`, `stream_id|checksum`.

        Raises:
            ValueError: the value is not a checksum.
        """
        if isinstance(value, bytes):
            value = value.decode()
        stream_id, _, checksum = value.partition("|")
        return cls(StreamId.parse(stream_id), checksum)

    def encode(self) -> str:
        """Return the value of `pos:{k}:checksum`."""
        return f"{self.stream_id}|{self.checksum}"


class Takeovers(NamedTuple):
    """How many workers in a row have taken over a shard at one position without committing anything."""

    stream_id: StreamId
    fruitless: int

    @classmethod
    def parse(cls, value: str | bytes) -> Self:
        """Return the count in the value of `pos:{k}:takeovers`, `stream_id|count`.

        Raises:
            ValueError: the value is not a count of takeovers.
        """
        if isinstance(value, bytes):
            value = value.decode()
        stream_id, _, fruitless = value.partition("|")
        return cls(StreamId.parse(stream_id), int(fruitless))
