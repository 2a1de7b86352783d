"""The scopes of an API key, and the networks from which it is accepted."""

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from functions.api.errors import ApiError


class Scope(StrEnum):
    """A permission of a key; each function names the one that it needs."""

    READ = "read"
    TRADE = "trade"
    WITHDRAW = "withdraw"


EVERY_SCOPE: Final = frozenset(Scope)
DEFAULT_SCOPES: Final = (Scope.READ, Scope.TRADE)
NETWORKS_MAX: Final = 30
_MAPPED_BITS: Final = 96

Network = IPv4Network | IPv6Network


def network_of(text: str) -> Network:
    """Return an address or a network (10.0.0.0/8).

    IPv4 within IPv6 (::ffff:10.0.0.0/104) becomes the IPv4 network, the form in which such addresses arrive.

    Raises:
        ValueError: the text is neither, or has an interface (fe80::1%eth0).
    """
    if "%" in text:
        raise ValueError(text)
    network = ip_network(text, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Return whether an address is in one of `networks`; always if there are none."""
    if not networks:
        return True
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in networks)


def not_permitted() -> ApiError:
    """-2015: the key does not exist, lacks the permission, or is used from a wrong address.

    The answer does not say which.
    """
    return ApiError(-2015, "Invalid API-key, IP, or permissions for action.", 401)
