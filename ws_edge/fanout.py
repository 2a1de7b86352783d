"""Updates on their way to all who listen: so many deliveries in a turn of the event loop, then it is the turn
of everything else. Pure.

While the loop keeps up, an update is delivered at once. What is more than a turn's worth waits, in order, and
is conflated as it is for a slow client: of a state the newest counts, depth is merged. When what waits
becomes too old or too much all the same, somebody has to leave: the shell closes the connections of the
network that listens to most.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, Generic, Protocol, TypeVar

from protocol.depth import joined
from ws_edge.conflation import Conflation, Update

DELIVERIES_PER_TURN: Final = 1_000
"""Some 10 ms."""
WAITING_S_MAX: Final = 5.0
"""How old an update may become before somebody has to leave."""
WAITING_MAX: Final = 20_000
"""Updates that may wait."""


class Listener(Protocol):
    """Whoever gets updates."""

    def deliver(self, update: Update) -> None:
        """Take one."""
        ...


ListenerType = TypeVar("ListenerType", bound=Listener)


class _Waiting:
    """An update that waits, or its successor."""

    __slots__ = ("since_s", "update")

    def __init__(self, update: Update, since_s: float) -> None:
        self.update = update
        self.since_s = since_s


class Fanout(Generic[ListenerType]):
    """Delivers updates to those who listen to their streams."""

    def __init__(
        self, listeners: Mapping[str, Mapping[ListenerType, object]], per_turn: int = DELIVERIES_PER_TURN
    ) -> None:
        """Look up who listens in `listeners`, by stream, when an update's turn has come."""
        self._listeners = listeners
        self._per_turn = self._left = per_turn
        self._queue: deque[_Waiting] = deque()
        self._newest: dict[str, _Waiting] = {}
        """By stream, what waits and may be conflated."""
        self._begun: tuple[Update, Iterator[ListenerType]] | None = None
        self._begun_since_s = 0.0
        self.conflated = 0
        """Updates that a newer one took the place of, ever."""

    def __len__(self) -> int:
        """Return how many updates wait."""
        return len(self._queue) + (self._begun is not None)

    def waits_since(self) -> float | None:
        """Return since when the oldest has waited, or None."""
        if self._begun is not None:
            return self._begun_since_s
        return self._queue[0].since_s if self._queue else None

    def is_too_late(self, now_s: float) -> bool:
        """Return whether so much waits, or for so long, that somebody has to leave."""
        since = self.waits_since()
        return since is not None and (now_s - since > WAITING_S_MAX or len(self._queue) > WAITING_MAX)

    def publish(self, update: Update, now_s: float) -> int:
        """Deliver an update, or let it wait; return how many listen to it."""
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
        """Begin a new turn: deliver what waits, as far as one turn goes. Return whether more waits."""
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
        # Those who listen now: whoever comes meanwhile has been shown something newer.
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
            # What waited on the same stream was an earlier state of this; what comes after it is something
            # else.
            self._newest.pop(update.stream, None)
        else:
            self._newest[update.stream] = earlier
