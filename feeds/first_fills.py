"""First fills of orders, which no longer count among an account's unfilled orders. Pure.

If an order trades when it arrives, the server that placed it takes the count back with the answer; if a
resting order trades, only its account's shard knows, and no gateway learns of it. Feeds commit the reductions
together with their position, so a restart neither repeats nor omits any. The windows are those of the fill's
time.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from feeds.frames import Filled
from protocol import streams
from protocol.streams import ORDER_WINDOWS_MS
from protocol.units import AccountId, TimeMs

UNTOLD_MS: Final = 1_000
"""A younger order may not be in the count yet: servers report it several times a second."""


class Forgiven(NamedTuple):
    """The reduction of one count."""

    orders: int
    untold: int
    """How many of these may not be in the count yet."""


_NONE: Final = Forgiven(0, 0)
_OWNER: Final = "\0"
"""Stands for an account in a key."""


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
            is_untold = now - accepted <= UNTOLD_MS and accepted // window_ms == window
            self._forgiven[key] = Forgiven(orders + 1, untold + is_untold)

    def note_all(self, first_fills: Iterable[tuple[AccountId, TimeMs, int, tuple[int, ...]]]) -> None:
        """Record first fills that were counted: (account, time, orders, untold of each kind of window).

        The kinds are those of `ORDER_WINDOWS_MS`, in their order.
        """
        forgiven, keys_time = self._forgiven, None
        keys: list[list[str]] = []
        for account_id, time, orders, untold in first_fills:
            if time != keys_time:
                # Formatting a key costs more than the rest; the accounts of a frame mostly share its parts.
                keys, keys_time = self._key_parts(time), time
            for (before, after), untold_orders in zip(keys, untold, strict=True):
                key = f"{before}{account_id}{after}"
                earlier = forgiven.get(key, _NONE)
                forgiven[key] = Forgiven(earlier[0] + orders, earlier[1] + untold_orders)

    def _key_parts(self, time: TimeMs) -> list[list[str]]:
        """Return, for each kind of window, what precedes and what follows the account in the key."""
        return [
            streams.rate(self._shard, kind, _OWNER, time // window_ms).split(_OWNER)
            for kind, window_ms in ORDER_WINDOWS_MS.items()
        ]

    def take(self) -> dict[str, Forgiven]:
        """Return the reductions since the last call, by the keys of the counts."""
        forgiven, self._forgiven = self._forgiven, {}
        return forgiven
