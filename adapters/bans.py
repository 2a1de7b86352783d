"""Bans of networks, longer each time while earlier bans are remembered.

Pure: bans of other processes are passed in.
"""

from itertools import islice
from typing import Final, NamedTuple

from protocol.units import TimeMs

_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 86_400_000
FIRST_BAN_MS: Final = 2 * _MINUTE_MS
LONGEST_BAN_MS: Final = 3 * _DAY_MS
_GROWTH: Final = 4
"""2 minutes, 8, 32, 2 hours, 8, 34, 3 days."""
FORGIVEN_AFTER_MS: Final = 3 * _DAY_MS
"""A network that has kept its limits for this long after a ban starts with the shortest ban again."""
BANS_MAX: Final = 100_000
"""Maximum of remembered networks; beyond it the one banned first is forgotten."""
_LOOKED_AT: Final = 100
"""How many of the oldest bans each call checks."""


class Ban(NamedTuple):
    """One network's latest ban."""

    network: str
    until: TimeMs
    times: int
    """The number of consecutive bans, including this one."""


def ban_ms(times: int) -> int:
    """Return the duration of a network's first (1), second, … ban."""
    duration = FIRST_BAN_MS
    while times > 1 and duration < LONGEST_BAN_MS:
        duration, times = duration * _GROWTH, times - 1
    return min(LONGEST_BAN_MS, duration)


class Bans:
    """The bans that this process knows, oldest first."""

    def __init__(self) -> None:
        self._bans: dict[str, Ban] = {}

    def __len__(self) -> int:
        return len(self._bans)

    def until(self, network: str, now: TimeMs) -> TimeMs | None:
        """Return the end of a network's ban, or None."""
        ban = self._bans.get(network)
        return ban.until if ban is not None and now < ban.until else None

    def ban(self, network: str, now: TimeMs) -> Ban:
        """Ban a network from now on, for longer than the last time."""
        earlier = self._bans.get(network)
        forgiven = earlier is None or now >= earlier.until + FORGIVEN_AFTER_MS
        times = 1 if earlier is None or forgiven else earlier.times + 1
        ban = Ban(network, TimeMs(now + ban_ms(times)), times)
        self._keep(ban)
        return ban

    def learn(self, ban: Ban) -> bool:
        """Adopt the ban of another process; return whether it is longer than the known one."""
        earlier = self._bans.get(ban.network)
        if earlier is not None and earlier.until >= ban.until:
            return False
        self._keep(ban)
        return True

    def forget(self, now: TimeMs) -> None:
        """Drop forgiven bans.

        They are stored roughly in the order in which they were made, so this checks few bans that remain.
        """
        for network, ban in list(islice(self._bans.items(), _LOOKED_AT)):
            if now >= ban.until + FORGIVEN_AFTER_MS:
                del self._bans[network]

    def _keep(self, ban: Ban) -> None:
        self._bans.pop(ban.network, None)
        self._bans[ban.network] = ban
        if len(self._bans) > BANS_MAX:
            del self._bans[next(iter(self._bans))]
