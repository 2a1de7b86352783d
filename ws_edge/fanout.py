"""Delivers updates to subscribers: a limited number per turn of the event loop. Pure.

While the loop keeps up, an update is delivered at once. Updates beyond one turn wait, in order, and are
conflated as for a slow client: of a state the newest counts, depth is merged. If the waiting updates still
become too old or too many, a client has to be disconnected: the shell closes the connections of the network
with the most subscriptions.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, Generic, Protocol, TypeVar

from protocol.depth import joined
from ws_edge.conflation import Conflation, Update

DELIVERIES_PER_TURN: Final = 1_000
"""About 10 ms."""
WAITING_S_MAX: Final = 5.0
"""Maximum age of a waiting update before a client is disconnected."""
WAITING_MAX: Final = 20_000
"""Maximum of waiting updates."""


class Listener(Protocol):
    """A receiver of updates."""

    def deliver(self, update: Update) -> None:
        """Receive one update."""
        ...


ListenerType = TypeVar("ListenerType", bound=Listener)


class _Waiting:
    """A waiting update, or its successor."""

    __slots__ = ("since_s", "update")

    def __init__(self, update: Update, since_s: float) -> None:
        self.update = update
        self.since_s = since_s


class Fanout(Generic[ListenerType]):
    """Delivers updates to the subscribers of their streams."""

    def __init__(
        self, listeners: Mapping[str, Mapping[ListenerType, object]], per_turn: int = DELIVERIES_PER_TURN
    ) -> None:
        """Look up the listeners of a stream in `listeners` when an update is delivered."""
        self._listeners = listeners
        self._per_turn = self._left = per_turn
        self._queue: deque[_Waiting] = deque()
        self._newest: dict[str, _Waiting] = {}
        """By stream, the waiting update that may be conflated."""
        self._begun: tuple[Update, Iterator[ListenerType]] | None = None
        self._begun_since_s = 0.0
        self.conflated = 0
        """The total number of updates that newer ones have replaced."""

    def __len__(self) -> int:
        """Return how many updates wait."""
        return len(self._queue) + (self._begun is not None)

    def waits_since(self) -> float | None:
        """Return since when the oldest update has waited, or None."""
        if self._begun is not None:
            return self._begun_since_s
        return self._queue[0].since_s if self._queue else None

    def is_too_late(self, now_s: float) -> bool:
        """Return whether so much waits, or for so long, that a client has to be disconnected."""
        since = self.waits_since()
        return since is not None and (now_s - since > WAITING_S_MAX or len(self._queue) > WAITING_MAX)

    def publish(self, update: Update, now_s: float) -> int:
        """Deliver an update, or let it wait; return the number of its subscribers."""
        listeners = self._listeners.get(update.stream)
        if not listeners:
            return 0
        count = len(listeners)
        if self._begun is None and not self._queue and count <= self._left:
            self._left -= count
            for listener in listeners:
                listener.deliver(update)
        else:
            self._wait(update, now_s)
        return count

    def turn(self) -> bool:
        """Begin a new turn: deliver waiting updates, at most one turn's worth. Return whether more wait."""
        self._left = self._per_turn
        while self._left > 0:
            if self._begun is None and not self._begin():
                return False
            assert self._begun is not None
            update, listeners = self._begun
            for listener in listeners:
                listener.deliver(update)
                self._left -= 1
                if self._left <= 0:
                    return True
            self._begun = None
        return len(self) > 0

    def _begin(self) -> bool:
        if not self._queue:
            return False
        waiting = self._queue.popleft()
        update = waiting.update
        if self._newest.get(update.stream) is waiting:
            del self._newest[update.stream]
        # The current subscribers: a later one has been shown a newer state.
        self._begun = (update, iter(list(self._listeners.get(update.stream, ()))))
        self._begun_since_s = waiting.since_s
        return True

    def _wait(self, update: Update, now_s: float) -> None:
        earlier = self._newest.get(update.stream)
        if earlier is None:
            earlier = _Waiting(update, now_s)
            self._queue.append(earlier)
        else:
            self.conflated += 1
            if earlier.update.diff is not None and update.diff is not None:
                market, diff = update.diff
                update = Update.of_depth(update.stream, market, joined((earlier.update.diff[1], diff)))
            earlier.update = update
        if update.conflation is Conflation.NONE:
            # The waiting update of the same stream is an earlier state; a later one is not.
            self._newest.pop(update.stream, None)
        else:
            self._newest[update.stream] = earlier
