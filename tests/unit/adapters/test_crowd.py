"""Who is one too many is not let in, and who has left is forgotten."""

import pytest

from adapters.crowd import Crowd
from adapters.networks import Networks, networks_of


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("203.0.113.9", Networks("203.0.113.9", "")),
        ("2001:db8:1:2:3:4:5:6", Networks("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("2001:DB8:1:2::", Networks("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("fe80::1%eth0", Networks("fe80::/64", "fe80::/48")),
        ("::ffff:203.0.113.9", Networks("203.0.113.9", "")),
        ("unknown", Networks("unknown", "")),
        ("no:address", Networks("no:address", "")),
    ],
)
def test_networks(address: str, networks: Networks) -> None:
    assert networks_of(address) == networks


def test_a_network_has_its_share() -> None:
    crowd = Crowd(connections_max=100, per_network_max=2)
    assert [crowd.enter("2001:db8::1"), crowd.enter("2001:db8::2"), crowd.enter("2001:db8::3")] == [
        True,
        True,
        False,
    ]
    assert crowd.enter("203.0.113.9")
    crowd.leave("2001:db8::1")
    assert crowd.enter("2001:db8::3")
    assert (crowd.total, crowd.count_of("2001:db8::9")) == (3, 2)


def test_a_48_has_ten_times_as_much() -> None:
    crowd = Crowd(connections_max=1_000, per_network_max=2)
    entered = [crowd.enter(f"2001:db8:0:{network:x}::1") for network in range(30)]
    assert entered == [True] * 20 + [False] * 10


def test_proxies_and_all_together() -> None:
    crowd = Crowd(connections_max=3, per_network_max=1)
    assert [crowd.enter(None), crowd.enter(None), crowd.enter("a"), crowd.enter("b")] == [
        True,
        True,
        True,
        False,
    ]


def test_whoever_has_left_takes_no_memory() -> None:
    crowd = Crowd(connections_max=1_000_000, per_network_max=1)
    for number in range(1_000):
        address = f"2001:db8:{number:x}::1"
        assert crowd.enter(address)
        assert not crowd.enter(address)
        crowd.leave(address)
    assert (crowd.total, crowd.networks()) == (0, 0)
