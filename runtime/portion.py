"""How many entries of a stream to read at once, when it is their bytes that count. Pure."""

from typing import Final

FIRST: Final = 16
BYTES_MAX: Final = 8 << 20


class Portion:
    """`count` entries at once come to about `bytes_max`, judged by what was read last.

    An entry is at most some two megabytes.
    """

    def __init__(self, entries_max: int, bytes_max: int = BYTES_MAX) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self.count = min(FIRST, entries_max)

    def note(self, entries: int, size: int) -> None:
        """Note that so many entries of so many bytes were read."""
        if size > self._bytes_max:
            self.count = max(1, self.count * self._bytes_max // size)
        elif entries >= self.count and 2 * size <= self._bytes_max:
            self.count = min(2 * self.count, self._entries_max)
