"""What only a development installation may have is refused elsewhere, by name and with what to do."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from runtime.settings import SettingsError, load_settings
from runtime.unsafe_settings import PUBLISHED_PRIVATE_KEYS, refuse_unsafe

PUBLISHED_KEY = base64.urlsafe_b64encode(b"development-only-development-onl").decode()
OWN_KEY = base64.urlsafe_b64encode(b"k" * 32).decode()


def _public(private: bytes) -> str:
    return base64.urlsafe_b64encode(
        Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    ).decode()


UNSAFE = {
    "EXCHANGE_REDIS_URL": "redis://gateway:development-only@redis-0:6379/0",
    "EXCHANGE_CACHE_URL": "redis://gateway:development-only-2@redis-cache:6379/0",
    "EXCHANGE_DATABASE_URL": "postgresql://exchange:development-only@database/exchange",
    "EXCHANGE_METRICS_PASSWORD": "development-only",
    "EXCHANGE_MASTER_KEY": PUBLISHED_KEY,
    "EXCHANGE_OPERATOR_KEY": PUBLISHED_KEY,
    "EXCHANGE_TREASURY_KEY": PUBLISHED_KEY,
    "EXCHANGE_FAUCET_KEY": PUBLISHED_KEY,
    "EXCHANGE_OPERATOR_KEYS": f"operator:{_public(PUBLISHED_PRIVATE_KEYS[0])}",
}
SAFE = {
    "EXCHANGE_REDIS_URL": "redis://gateway:made-by-us@redis-0:6379/0",
    "EXCHANGE_DATABASE_URL": "postgresql://exchange:development@database/exchange",
    "EXCHANGE_MASTER_KEY": OWN_KEY,
    "EXCHANGE_OPERATOR_KEYS": f"operator:{_public(b'k' * 32)}",
}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EXCHANGE_REDIS_URL", "redis://redis-0:6379/0?password=development-only"),
        ("EXCHANGE_REDIS_URL", "redis://gateway:development%2Donly@redis-0:6379/0"),
        (
            "EXCHANGE_REDIS_URL",
            "redis+sentinel://g:own@s1:26379,s2:26379/exchange?sentinel_password=development-only",
        ),
        ("EXCHANGE_CACHE_URL", "redis+cluster://:development-only@r1:6379,r2:6379"),
        ("EXCHANGE_DATABASE_URL", "postgresql://exchange@database/exchange?password=development-only"),
        ("EXCHANGE_DATABASE_URL", "host=database user=exchange password=development-only"),
        ("EXCHANGE_DATABASE_ADMIN_URL", "host=database password='development-only'"),
        ("EXCHANGE_DATABASE_ROLE_PASSWORDS", "gateway:our-own,persist:development-only"),
    ],
)
def test_published_passwords_are_found_in_every_form_that_is_taken(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}: ") as caught:
        refuse_unsafe(load_settings({variable: value}))
    assert value not in str(caught.value)


@pytest.mark.parametrize("variable", UNSAFE)
def test_what_is_published_is_refused_everywhere_but_on_a_development_installation(variable: str) -> None:
    unsafe = {variable: UNSAFE[variable]}
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(SettingsError) as caught:
            refuse_unsafe(load_settings({**unsafe, "EXCHANGE_HOST": host}))
        message = str(caught.value)
        assert message.startswith(f"{variable}: ")
        assert "EXCHANGE_DEVELOPMENT=true" in message
        assert UNSAFE[variable] not in message
    refuse_unsafe(load_settings({**unsafe, "EXCHANGE_DEVELOPMENT": "true", "EXCHANGE_HOST": "0.0.0.0"}))


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        refuse_unsafe(load_settings({**UNSAFE, "EXCHANGE_FAUCET_ENABLED": "true", "EXCHANGE_HOST": "::"}))
    named = {line.partition(":")[0] for line in str(caught.value).splitlines()}
    assert named == {*UNSAFE, "EXCHANGE_FAUCET_ENABLED"}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "exchange.example.com"])
def test_secrets_of_ones_own_are_taken(host: str) -> None:
    refuse_unsafe(load_settings({**SAFE, "EXCHANGE_HOST": host}))


@pytest.mark.parametrize(
    ("variables", "is_on"),
    [
        ({}, True),
        ({"EXCHANGE_HOST": "::1"}, True),
        ({"EXCHANGE_HOST": "localhost"}, True),
        ({"EXCHANGE_FAUCET_ENABLED": "false"}, False),
        ({"EXCHANGE_HOST": "0.0.0.0"}, False),
        ({"EXCHANGE_HOST": "::"}, False),
        ({"EXCHANGE_HOST": "192.0.2.1"}, False),
        ({"EXCHANGE_HOST": "exchange.example.com"}, False),
        ({"EXCHANGE_HOST": "0.0.0.0", "EXCHANGE_DEVELOPMENT": "true"}, True),
        (
            {"EXCHANGE_HOST": "0.0.0.0", "EXCHANGE_DEVELOPMENT": "true", "EXCHANGE_FAUCET_ENABLED": "false"},
            False,
        ),
    ],
)
def test_a_faucet_is_on_by_itself_only_where_nobody_else_reaches_it(
    variables: dict[str, str], is_on: bool
) -> None:
    settings = load_settings(variables)
    refuse_unsafe(settings)
    assert settings.has_faucet() == is_on


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "exchange.example.com"])
def test_a_faucet_that_others_reach_is_refused(host: str) -> None:
    variables = {"EXCHANGE_HOST": host, "EXCHANGE_FAUCET_ENABLED": "true"}
    with pytest.raises(SettingsError, match=r"EXCHANGE_FAUCET_ENABLED: .*EXCHANGE_DEVELOPMENT=true"):
        refuse_unsafe(load_settings(variables))
    refuse_unsafe(load_settings({**variables, "EXCHANGE_DEVELOPMENT": "true"}))
