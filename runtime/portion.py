"""How many entries of a stream to read at once when their bytes are what matters. Pure."""

from typing import Final

FIRST: Final = 16
BYTES_MAX: Final = 8 << 20


class Portion:
    """A number of entries, `count`, that has about `bytes_max`, judged by the last read.

    An entry has at most about two megabytes.
    """

    def __init__(self, entries_max: int, bytes_max: int = BYTES_MAX) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self.count = min(FIRST, entries_max)

    def note(self, entries: int, size: int) -> None:
        """Record that `entries` entries of `size` bytes in total were read."""
        if size > self._bytes_max:
            self.count = max(1, self.count * self._bytes_max // size)
        elif entries >= self.count and 2 * size <= self._bytes_max:
            self.count = min(2 * self.count, self._entries_max)
