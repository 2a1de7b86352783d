"""The ids of Redis stream entries, as numbers that compare as the entries follow on each other.

Redis, the database, snapshots and frames hold an id as text, `ms-number`. Whoever reads or writes one of them
converts it there.
"""

from typing import Final, NamedTuple, Self


class StreamId(NamedTuple):
    """A stream entry's id: when it was appended, by Redis's clock in milliseconds, and its number within that
    millisecond.
    """

    ms: int
    number: int = 0

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Return the id that `ms-number` names.

        Without a number, as Redis reads it, the first one of its millisecond.

        Raises:
            ValueError: it names none.
        """
        if isinstance(text, bytes):
            text = text.decode()
        ms, _, number = text.partition("-")
        # Without the class's own call, which takes a fifth of the time: every entry that is read comes by
        # here.
        return tuple.__new__(cls, (int(ms), int(number or 0)))

    def __str__(self) -> str:
        """Return the id as Redis writes it, `ms-number`."""
        return f"{self.ms}-{self.number}"

    def preceding(self) -> "StreamId":
        """Return the largest id before this one, which must not be `STREAM_START`."""
        return StreamId(self.ms, self.number - 1) if self.number else StreamId(self.ms - 1, NUMBER_MAX)

    def following(self) -> "StreamId":
        """Return the smallest id after this one."""
        return StreamId(self.ms, self.number + 1) if self.number < NUMBER_MAX else StreamId(self.ms + 1)


NUMBER_MAX: Final = 2**64 - 1
"""The largest number, and number of milliseconds, that an id has in Redis."""

STREAM_START: Final = StreamId(0)
"""No entry's id: before all of them."""

NOTHING_NEEDED: Final = StreamId(NUMBER_MAX)
"""What a reader has passed that needs nothing at all."""
