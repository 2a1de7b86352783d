"""How far a shard is: the values of `pos:{k}`, of its checksum, and of the count of takeovers at one place.

The scripts of stream_log/redis_log.py write the same formats.
"""

from typing import Final, NamedTuple, Self

from protocol.stream_id import STREAM_START, StreamId


class ShardPosition(NamedTuple):
    """Who may write for a shard (`epoch`), and up to which entry of its input everything is committed."""

    epoch: int
    stream_id: StreamId

    @classmethod
    def parse(cls, value: str | bytes | None) -> Self:
        """Return the position that the value of `pos:{k}` says, `epoch|stream_id`.

        Without one, that of a new shard.

        Raises:
            ValueError: it says none.
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
"""The position of a shard that nobody has taken over yet."""


class StateChecksum(NamedTuple):
    """What a shard's state comes to after an entry of its input.

    Whoever has applied as much must come to the same.
    """

    stream_id: StreamId
    checksum: str

    @classmethod
    def parse(cls, value: str | bytes) -> Self:
        """Return the checksum that the value of `pos:{k}:checksum` says, `stream_id|checksum`.

        Raises:
            ValueError: it says none.
        """
        if isinstance(value, bytes):
            value = value.decode()
        stream_id, _, checksum = value.partition("|")
        return cls(StreamId.parse(stream_id), checksum)

    def encode(self) -> str:
        """Return the value of `pos:{k}:checksum`."""
        return f"{self.stream_id}|{self.checksum}"


class Takeovers(NamedTuple):
    """How many workers in turn have taken a shard over at one position, and committed nothing."""

    stream_id: StreamId
    fruitless: int

    @classmethod
    def parse(cls, value: str | bytes) -> Self:
        """Return what the value of `pos:{k}:takeovers` says, `stream_id|count`.

        Raises:
            ValueError: it says nothing.
        """
        if isinstance(value, bytes):
            value = value.decode()
        stream_id, _, fruitless = value.partition("|")
        return cls(StreamId.parse(stream_id), int(fruitless))
