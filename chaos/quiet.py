"""Whether everything has come to its end. Pure: no clock, no connections."""

from collections.abc import Sequence

import msgspec

from protocol.streams import StreamId, split_stream_id


class Progress(msgspec.Struct):
    """How far each part of the exchange is, by shard."""

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
        return max(
            max(0, split_stream_id(newest)[0] - split_stream_id(done)[0])
            for newest, done in zip(self.events, self.stored, strict=True)
        )

    def has_passed(self, earlier: "Progress") -> bool:
        """Return whether everything that was there at an earlier look has been gone through by everybody."""
        events = earlier.events
        return (
            not self.undelivered
            and _reaches(self.positions, earlier.inputs)
            and all(_reaches(reader, events) for reader in (self.published, self.stored, self.heard))
        )


def _reaches(done: Sequence[StreamId], goals: Sequence[StreamId]) -> bool:
    return all(split_stream_id(at) >= split_stream_id(goal) for at, goal in zip(done, goals, strict=True))


class Quiet:
    """Looks for a while in which nothing happens, and at whose end everybody is as far as things were at its begin.

    The logs themselves never rest: the time of an idle shard passes by an event every second.
    """

    def __init__(self, length_s: float) -> None:
        """Look for a while of `length_s`."""
        self._length_s = length_s
        self._began: tuple[float, Progress] | None = None
        self._happened: object = None

    def look(self, now_s: float, happened: object, progress: Progress | None) -> bool:
        """Return whether there was such a while up to now. `happened` is another value once anything but time has passed."""
        if progress is None:
            self._began = None
            return False
        if self._began is None or happened != self._happened:
            self._began, self._happened = (now_s, progress), happened
            return False
        began_s, begin = self._began
        return now_s - began_s >= self._length_s and progress.has_passed(begin)
