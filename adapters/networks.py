"""The networks of an address. Limits count networks: an owner of one IPv6 address has 2⁶⁴ of them.

Pure.
"""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

_OWN_BITS: Final = 64
"""The smallest IPv6 network that is assigned to a customer."""
_WIDE_BITS: Final = 48
"""The largest network that one customer commonly gets."""
WIDE_FACTOR: Final = 10
"""A /48 may use this multiple of the limits of one address: some have one customer, others many."""
_REMEMBERED: Final = 65_536
"""Number of addresses whose networks are cached; parsing takes some microseconds."""


class Networks(NamedTuple):
    """The networks whose limits a request uses."""

    own: str
    """An IPv4 address, or the /64 of an IPv6 address."""
    wide: str
    """The /48 of an IPv6 address; empty for IPv4."""


@lru_cache(_REMEMBERED)
def networks_of(address: str) -> Networks:
    """Return the networks of an address; a text that is not an IP address stands for itself."""
    if ":" not in address:
        return Networks(address, "")
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return Networks(address, "")
    if not isinstance(parsed, IPv6Address):
        return Networks(address, "")
    if parsed.ipv4_mapped is not None:
        return Networks(str(parsed.ipv4_mapped), "")
    return Networks(_prefix(parsed, _OWN_BITS), _prefix(parsed, _WIDE_BITS))


def _prefix(address: IPv6Address, bits: int) -> str:
    shift = 128 - bits
    return f"{IPv6Address(int(address) >> shift << shift)}/{bits}"
