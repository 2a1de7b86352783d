"""Counts the connections of a process by network, and refuses those beyond the maximum. Pure."""

from collections import Counter

from adapters.networks import WIDE_FACTOR, networks_of


class Crowd:
    """Connections by network; a /48 may have ten times as many as a /64."""

    def __init__(self, connections_max: int, per_network_max: int) -> None:
        self.total = 0
        self._connections_max = connections_max
        self._per_network_max = per_network_max
        self._by_network: Counter[str] = Counter()

    def count_of(self, address: str) -> int:
        """Return how many connections the network of an address has."""
        return self._by_network[networks_of(address).own]

    def networks(self) -> int:
        """Return how many networks have a connection; a /48 counts in addition to its /64s."""
        return len(self._by_network)

    def enter(self, address: str | None) -> bool:
        """Count a connection if there is room for it; return whether there was.

        None is a proxy with many clients: only the total is bounded for it.
        """
        if self.total >= self._connections_max:
            return False
        if address is not None:
            own, wide = networks_of(address)
            counts = self._by_network
            if counts.get(own, 0) >= self._per_network_max:
                return False
            if wide:
                if counts.get(wide, 0) >= self._per_network_max * WIDE_FACTOR:
                    return False
                counts[wide] += 1
            counts[own] += 1
        self.total += 1
        return True

    def leave(self, address: str | None) -> None:
        """Remove an admitted connection from the counts."""
        self.total -= 1
        for network in networks_of(address) if address is not None else ():
            if network:
                self._by_network[network] -= 1
                if not self._by_network[network]:
                    del self._by_network[network]
