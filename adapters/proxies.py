"""Trusted proxies, whose X-Forwarded-For identifies the client."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from runtime.settings import PREFIX, SettingsError


class TrustedProxies:
    """The addresses and networks of EXCHANGE_TRUSTED_PROXIES."""

    def __init__(self, text: str) -> None:
        """Parse addresses and networks, comma separated.

        Raises:
            SettingsError: one of them is neither.
        """
        try:
            self._networks: list[IPv4Network | IPv6Network] = [
                ip_network(network.strip()) for network in text.split(",") if network.strip()
            ]
        except ValueError as error:
            raise SettingsError(f"{PREFIX}TRUSTED_PROXIES: {error}") from error

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def client_of(self, peer: str, forwarded_for: Iterable[str]) -> str:
        """Return the client: `peer`, or the last address in X-Forwarded-For that no trusted proxy has."""
        if peer not in self:
            return peer
        for hop in reversed(
            [address.strip() for address in ",".join(forwarded_for).split(",") if address.strip()]
        ):
            peer = hop
            if hop not in self:
                break
        return peer
