import pytest

from adapters.proxies import TrustedProxies
from runtime.settings import SettingsError


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # who is not trusted says what he likes
        ("10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("192.168.0.7", ["198.51.100.1, 10.9.9.9"], "198.51.100.1"),
        (
            "10.1.2.3",
            ["1.1.1.1, 198.51.100.1", "10.9.9.9"],
            "198.51.100.1",
        ),  # what the client itself put there does not count
        ("10.1.2.3", [], "10.1.2.3"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("unknown", ["198.51.100.1"], "unknown"),
    ],
)
def test_a_client_is_who_trusted_proxies_say(peer: str, forwarded_for: list[str], client: str) -> None:
    trusted = TrustedProxies("10.0.0.0/8, 192.168.0.7,fd00::/8")
    assert trusted.client_of(peer, forwarded_for) == client


def test_without_proxies_nobody_is_believed() -> None:
    assert TrustedProxies("").client_of("10.1.2.3", ["198.51.100.1"]) == "10.1.2.3"


@pytest.mark.parametrize("text", ["10.0.0.0/33", "ingress", "10.0.0.1/8"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="EXCHANGE_TRUSTED_PROXIES"):
        TrustedProxies(text)
