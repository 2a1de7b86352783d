"""Places in the ledger, and how clients write them."""

import re
from typing import Final, NamedTuple, Self

from functions.api.errors import illegal_characters
from protocol.units import TimeMs

POSITION_PATTERN: Final = r"^[0-9]{1,15}\.[0-9]{1,3}\.[0-9]{1,15}-[0-9]{1,20}\.[0-9]{1,9}\.[0-9]{1,4}$"
_position = re.compile(POSITION_PATTERN.strip("^$"), re.ASCII)


class Position(NamedTuple):
    """A place in the ledger: entries are ordered by it, and each has one of its own.

    An account's entries come from its shard, whose times never go back, in the order in which they are
    stored. So no entry comes to be stored before one that has been read.
    """

    time: TimeMs
    shard: int = 0
    milliseconds: int = 0
    number: int = 0
    """With `milliseconds`: the id in the shard's event stream."""
    event: int = 0
    entry: int = 0

    @classmethod
    def after(cls, text: str) -> Self:
        """Return the first place after one that `str` has written.

        Raises:
            ApiError: -1100, it is none.
        """
        if _position.fullmatch(text) is None:
            raise illegal_characters("after", POSITION_PATTERN)
        time, shard, milliseconds, number, event, entry = (int(digits) for digits in re.split("[.-]", text))
        return cls(TimeMs(time), shard, milliseconds, number, event, entry + 1)

    def __str__(self) -> str:
        """Return the text that `after` reads."""
        return f"{self.time}.{self.shard}.{self.milliseconds}-{self.number}.{self.event}.{self.entry}"
