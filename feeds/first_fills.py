"""First fills of orders, which no longer count among an account's unfilled orders. Pure.

If an order trades when it arrives, the server that placed it takes the count back with the answer; if a
resting order trades, only its account's shard knows, and no gateway learns of it. Feeds commit the reductions
together with their position, so a restart neither repeats nor omits any. The windows are those of the fill's
time.
"""

from typing import Final, NamedTuple

from feeds.frames import Filled
from protocol import streams
from protocol.streams import ORDER_WINDOWS_MS

_UNTOLD_MS: Final = 1_000
"""A younger order may not be in the count yet: servers report it several times a second."""


class Forgiven(NamedTuple):
    """The reduction of one count."""

    orders: int
    untold: int
    """How many of these may not be in the count yet."""


class FirstFills:
    """The resting orders of a batch that have traded for the first time."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._forgiven: dict[str, Forgiven] = {}

    def note(self, fill: Filled) -> None:
        """Record an order's first fill."""
        accepted, now = fill.order.accepted_time, fill.time
        for kind, window_ms in ORDER_WINDOWS_MS.items():
            window = now // window_ms
            key = streams.rate(self._shard, kind, fill.order.account_id, window)
            orders, untold = self._forgiven.get(key, (0, 0))
            is_untold = now - accepted <= _UNTOLD_MS and accepted // window_ms == window
            self._forgiven[key] = Forgiven(orders + 1, untold + is_untold)

    def take(self) -> dict[str, Forgiven]:
        """Return the reductions since the last call, by the keys of the counts."""
        forgiven, self._forgiven = self._forgiven, {}
        return forgiven
