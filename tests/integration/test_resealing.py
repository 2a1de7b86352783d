"""`exchange keys reseal`: afterwards the master key of before opens nothing that is needed."""

import base64
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from adapters.secret_box import SecretBox
from cli.commands.keys import keys
from cli.resealing import Resealed, reseal
from functions.users.second_factor import binding_of
from protocol.units import AccountId
from runtime.settings import PREFIX

OLD, NEW = b"o" * 32, b"n" * 32
KEYS = 1_203
TOTP = "SELECT totp_secret FROM users WHERE account_id = 1002"


@pytest.fixture
def connection(database_url: str) -> psycopg.Connection[tuple[object, ...]]:
    """A database with secrets under the old key."""
    old = SecretBox(OLD)
    connection = psycopg.connect(database_url, autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO users (account_id, email, password_hash) VALUES (1001, 'a@b.c', ''), (1002, "
            "'d@e.f', '')"
        )
        cursor.execute(
            "UPDATE users SET totp_secret = %s WHERE account_id = 1002",
            (old.seal(b"totp", binding_of(AccountId(1002))),),
        )
        cursor.executemany(
            "INSERT INTO api_keys (key, account_id, secret, kind) VALUES (%s, 1001, %s, 'hmac')",
            [
                (f"key-{number}", old.seal(f"secret-{number}".encode(), f"key-{number}"))
                for number in range(KEYS)
            ],
        )
        cursor.execute(
            "INSERT INTO api_keys (key, account_id, secret, kind) VALUES ('public', 1001, 'PEM', 'ed25519')"
        )
    return connection


def opened(connection: psycopg.Connection[tuple[object, ...]], box: SecretBox) -> set[bytes]:
    """Return every secret that a box opens."""
    found = set()
    rows = [
        *connection.execute("SELECT key, secret FROM api_keys WHERE kind = 'hmac'"),
        *((binding_of(AccountId(1002)), secret) for (secret,) in connection.execute(TOTP)),
    ]
    for bound_to, secret in rows:
        try:
            found.add(box.open(bytes(secret), str(bound_to)))
        except ValueError:
            continue
    return found


def test_everything_is_sealed_anew_and_again_changes_nothing(
    connection: psycopg.Connection[tuple[object, ...]],
) -> None:
    secrets = {b"totp", *(f"secret-{number}".encode() for number in range(KEYS))}
    assert opened(connection, SecretBox(NEW)) == set()  # the control: the new key alone is not enough before
    assert reseal(connection, SecretBox(NEW), SecretBox(NEW, OLD)) == Resealed(KEYS + 1, 0, [])
    assert opened(connection, SecretBox(NEW)) == secrets
    assert opened(connection, SecretBox(OLD)) == set()
    assert reseal(connection, SecretBox(NEW), SecretBox(NEW, OLD)) == Resealed(0, KEYS + 1, [])
    assert connection.execute("SELECT secret FROM api_keys WHERE key = 'public'").fetchone() == (b"PEM",)


def test_what_no_key_opens_is_named_and_left(
    connection: psycopg.Connection[tuple[object, ...]],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    connection.execute("UPDATE api_keys SET secret = 'damaged' WHERE key = 'key-7'")
    for name, value in {
        "DATA_DIR": str(tmp_path),
        "DATABASE_URL": database_url,
        "MASTER_KEY": base64.urlsafe_b64encode(NEW).decode(),
        "MASTER_KEY_PREVIOUS": base64.urlsafe_b64encode(OLD).decode(),
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    done = CliRunner().invoke(keys, ["reseal"])
    assert done.exit_code == 1
    assert f"{KEYS} secrets were sealed anew, 0 were already" in done.output
    assert "API key key-7" in done.output
    assert len(opened(connection, SecretBox(NEW))) == KEYS
