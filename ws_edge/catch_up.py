"""An account's events, each once and in order, whatever was lost, repeated or divided differently. Pure.

An account's channel brings portions: all that the log has for the account from behind one position up to
another. A portion is taken when it begins at or behind the position up to which the account was heard. When a
part of it was heard already (feeds repeat events after a crash, in other portions), only the log can tell
which part, and the portion waits. Portions also wait after a lost connection. In both cases the account is
behind until the log was read up to what feeds had published.
"""

from collections.abc import Iterable
from typing import NamedTuple

from protocol.events import Event
from protocol.stream_id import StreamId


class Portion(NamedTuple):
    """All that the log has for an account from behind `after` up to `position`."""

    after: StreamId
    position: StreamId
    events: list[Event]


class CatchUp:
    """How far one account was heard."""

    def __init__(self) -> None:
        self.heard: StreamId | None = None
        """Position up to which everything was heard; None until the channel is subscribed to."""
        self.is_behind = False
        """Whether the log has to be read."""
        self.waiting: list[Portion] = []
        """Portions that came while the account was behind, oldest first."""

    def move_to(self, position: StreamId) -> None:
        """Note that everything up to `position` was heard."""
        self.heard = position if self.heard is None else max(self.heard, position)

    def take(self, portion: Portion) -> list[Event] | None:
        """Return the new events of a portion, which then are heard.

        Empty: all of them were heard. None: some of them were; nothing is taken.
        """
        if self.heard is not None:
            if portion.position <= self.heard:
                return []
            if portion.after < self.heard:
                return None
        self.heard = portion.position
        return portion.events

    def put_aside(self, portion: Portion) -> None:
        """Keep a portion until the account is caught up."""
        self.waiting.append(portion)

    def fall_behind(self, portion: Portion) -> None:
        """Keep a portion that cannot be taken; the log has to be read."""
        self.is_behind = True
        self.waiting.append(portion)

    def interrupted(self) -> None:
        """Note that the channel was lost for a while."""
        self.is_behind = self.heard is not None

    def caught_up(self, events: Iterable[Event], position: StreamId) -> list[Event]:
        """Return the new events: `events` from the log up to `position`, and the waiting portions."""
        new = list(events)
        self.move_to(position)
        while self.waiting and (following := self.take(self.waiting[0])) is not None:
            new += following
            del self.waiting[0]
        self.is_behind = bool(self.waiting)
        return new

    def give_up(self, position: StreamId) -> None:
        """Go on behind `position`: what comes before cannot be read any more."""
        self.is_behind, self.heard, self.waiting = False, position, []
