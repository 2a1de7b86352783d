"""Positions in the ledger, and their text form for clients."""

import re
from typing import Final, NamedTuple, Self

from functions.api.errors import illegal_characters
from protocol.units import TimeMs

POSITION_PATTERN: Final = r"^[0-9]{1,15}\.[0-9]{1,3}\.[0-9]{1,15}-[0-9]{1,20}\.[0-9]{1,9}\.[0-9]{1,4}$"
_position = re.compile(POSITION_PATTERN.strip("^$"), re.ASCII)


class Position(NamedTuple):
    """A unique position in the ledger, by which entries are ordered.

    An account's entries come from its shard, whose times never decrease, and are stored in this order. No
    entry is therefore stored before one that has already been read.
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
        """Return the first position after the one in `text`.

        Raises:
            ApiError: -1100, the text is not a position.
        """
        if _position.fullmatch(text) is None:
            raise illegal_characters("after", POSITION_PATTERN)
        time, shard, milliseconds, number, event, entry = (int(digits) for digits in re.split("[.-]", text))
        return cls(TimeMs(time), shard, milliseconds, number, event, entry + 1)

    def __str__(self) -> str:
        """Return the text that `after` reads."""
        return f"{self.time}.{self.shard}.{self.milliseconds}-{self.number}.{self.event}.{self.entry}"
