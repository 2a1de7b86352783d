"""What an API key may do, and from where."""

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from functions.api.errors import ApiError


class Scope(StrEnum):
    """What a key may be used for; each function says which it needs."""

    READ = "read"
    TRADE = "trade"
    WITHDRAW = "withdraw"


EVERY_SCOPE: Final = frozenset(Scope)
DEFAULT_SCOPES: Final = (Scope.READ, Scope.TRADE)
NETWORKS_MAX: Final = 30
_MAPPED_BITS: Final = 96

Network = IPv4Network | IPv6Network


def network_of(text: str) -> Network:
    """Return an address or a network (10.0.0.0/8); ValueError: it is none, or one of an interface
    (fe80::1%eth0).

    What is written as IPv4 within IPv6 (::ffff:10.0.0.0/104) is the IPv4 one, as which such addresses come.
    """
    if "%" in text:
        raise ValueError(text)
    network = ip_network(text, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Return whether an address is in one of `networks`; anything is where there are none."""
    if not networks:
        return True
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in networks)


def not_permitted() -> ApiError:
    """-2015: there is no such key, or it may not do this, or not from there; it is not said which."""
    return ApiError(-2015, "Invalid API-key, IP, or permissions for action.", 401)
