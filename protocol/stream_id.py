"""Ids of Redis stream entries, as numbers that compare in the order of the entries.

Redis, the database, snapshots and frames hold an id as text, `ms-number`; code that reads or writes them
converts it there.
"""

from typing import Final, NamedTuple, Self


class StreamId(NamedTuple):
    """A stream entry's id: its time in ms by Redis's clock, and its number within that millisecond."""

    ms: int
    number: int = 0

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Return the id of the text `ms-number`.

        A text without a number means the first id of its millisecond, as in Redis.

        Raises:
            ValueError: the text is not an id.
        """
        if isinstance(text, bytes):
            text = text.decode()
        ms, _, number = text.partition("-")
        # Bypasses the class's own constructor, which would take five times as long: every entry read is
        # parsed here.
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
"""The largest number, and number of milliseconds, of an id in Redis."""

STREAM_START: Final = StreamId(0)
"""The id before all entries; no entry has it."""

NOTHING_NEEDED: Final = StreamId(NUMBER_MAX)
"""The position of a reader that needs no entries at all."""
