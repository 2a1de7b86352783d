"""Orders that have traded count among an account's unfilled orders no more: what feeds take off the counts,
once. Pure.

Of an order that trades when it arrives, the server that has placed it takes the count back, with the answer;
of one that has rested, nobody but its account's shard knows when it trades, and no gateway hears of it. Feeds
commit what they take off together with how far they are, so a restart takes off nothing twice and leaves
nothing out. The windows are those of the fill's time.
"""

from typing import Final, NamedTuple

from feeds.frames import Filled
from protocol import streams
from protocol.streams import ORDER_WINDOWS_MS

_UNTOLD_MS: Final = 1_000
"""An order that is no older may not be in the count yet: servers tell it several times a second."""


class Forgiven(NamedTuple):
    """What is taken off one count."""

    orders: int
    untold: int
    """So many of these may not be in it yet."""


class FirstFills:
    """The orders of a batch that have rested and traded for the first time."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._forgiven: dict[str, Forgiven] = {}

    def note(self, fill: Filled) -> None:
        """Note an order's first fill."""
        accepted, now = fill.order.accepted_time, fill.time
        for kind, window_ms in ORDER_WINDOWS_MS.items():
            window = now // window_ms
            key = streams.rate(self._shard, kind, fill.order.account_id, window)
            orders, untold = self._forgiven.get(key, (0, 0))
            is_untold = now - accepted <= _UNTOLD_MS and accepted // window_ms == window
            self._forgiven[key] = Forgiven(orders + 1, untold + is_untold)

    def take(self) -> dict[str, Forgiven]:
        """Return, by the keys of the counts, what was noted since the last call."""
        forgiven, self._forgiven = self._forgiven, {}
        return forgiven
