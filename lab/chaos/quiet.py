"""Whether everything has come to its end. Pure: no clock, no connections."""

from collections.abc import Sequence

import msgspec

from protocol.stream_id import StreamId


class Progress(msgspec.Struct):
    """The positions of each part of the exchange, by shard."""

    inputs: list[StreamId] = []
    """The newest command."""
    positions: list[StreamId] = []
    """Up to where commands are committed."""
    events: list[StreamId] = []
    """The newest event."""
    published: list[StreamId] = []
    """Up to where the feeds are."""
    stored: list[StreamId] = []
    """Up to where the database is."""
    heard: list[StreamId] = []
    """Up to where somebody who reads the events is."""
    undelivered: int = 0
    errors: list[str] = []
    """Why ingests stand still."""

    @property
    def behind_ms(self) -> int:
        """By how much of the log's time the database is behind, at most."""
        return max(max(0, newest.ms - done.ms) for newest, done in zip(self.events, self.stored, strict=True))

    def has_passed(self, earlier: "Progress") -> bool:
        """Return whether everything that was there at an earlier look has been gone through by everybody."""
        events = earlier.events
        return (
            not self.undelivered
            and _reaches(self.positions, earlier.inputs)
            and all(_reaches(reader, events) for reader in (self.published, self.stored, self.heard))
        )


def _reaches(done: Sequence[StreamId], goals: Sequence[StreamId]) -> bool:
    return all(at >= goal for at, goal in zip(done, goals, strict=True))


WHILES = 3
"""Consecutive periods: messages to another shard, and its answers, come after the first began."""


class Quiet:
    """Detects some periods without activity, in each of which every process reaches the end of its input.

    The logs themselves never rest: the time of an idle shard advances by an event every second.
    """

    def __init__(self, length_s: float) -> None:
        """Look for whiles that take `length_s` together, or longer."""
        self._length_s = length_s / WHILES
        self._passed = 0
        self._began: tuple[float, Progress] | None = None
        self._happened: object = None

    def look(self, now_s: float, happened: object, progress: Progress | None) -> bool:
        """Return whether there were such whiles up to now.

        `happened` is another value once anything but time has passed; it is from before `progress` was asked
        for, so that what is heard meanwhile makes the next one another.
        """
        if progress is None:
            self._began = None
            return False
        if self._began is None or happened != self._happened:
            self._began, self._happened, self._passed = (now_s, progress), happened, 0
            return False
        began_s, begin = self._began
        if now_s - began_s >= self._length_s and progress.has_passed(begin):
            self._began = (now_s, progress)
            self._passed += 1
        return self._passed >= WHILES
