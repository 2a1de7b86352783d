"""Encrypts secrets at rest again, with the current master key.

These are HMAC secrets of API keys, and secrets of second factors. Each row is updated separately, only if it
is unchanged since it was read: gateways may change the same rows meanwhile. Secrets of the current key are
left alone, so the command may be interrupted and repeated.
"""

from collections.abc import Callable
from typing import Any, Final, LiteralString, NamedTuple

import psycopg

from adapters.secret_box import SecretBox
from functions.users.second_factor import binding_of
from protocol.units import AccountId

_BATCH: Final = 500


class Resealed(NamedTuple):
    """The number of encrypted and of unchanged secrets, and the secrets that no key opens."""

    resealed: int
    kept: int
    unreadable: list[str]


class _Kind(NamedTuple):
    """One column of sealed secrets: `select` returns (row, secret) after a row, `update` changes one."""

    name: str
    first: object
    select: LiteralString
    update: LiteralString
    bound_to: Callable[[Any], str]


_KINDS: Final = (
    _Kind(
        "API key",
        "",
        "SELECT key, secret FROM api_keys WHERE kind = 'hmac' AND key > %(after)s ORDER BY key LIMIT "
        "%(batch)s",
        "UPDATE api_keys SET secret = %(new)s WHERE key = %(row)s AND secret = %(old)s",
        str,
    ),
    _Kind(
        "second factor of account",
        0,
        "SELECT account_id, totp_secret FROM users WHERE totp_secret IS NOT NULL AND account_id > %(after)s "
        "ORDER BY account_id LIMIT %(batch)s",
        "UPDATE users SET totp_secret = %(new)s WHERE account_id = %(row)s AND totp_secret = %(old)s",
        lambda account_id: binding_of(AccountId(account_id)),
    ),
)


def reseal(connection: psycopg.Connection[Any], now: SecretBox, both: SecretBox) -> Resealed:
    """Encrypt the secrets that `now` does not open, and `both` does.

    The connection is the owner's, and commits by itself.

    Raises:
        psycopg.Error: the database is unreachable; the updated secrets stay updated.
    """
    resealed, kept, unreadable = 0, 0, []
    for kind in _KINDS:
        after = kind.first
        while rows := connection.execute(kind.select, {"after": after, "batch": _BATCH}).fetchall():
            for row, sealed in rows:
                after, old, bound_to = row, bytes(sealed), kind.bound_to(row)
                if _opened(now, old, bound_to) is not None:
                    kept += 1
                elif (secret := _opened(both, old, bound_to)) is None:
                    unreadable.append(f"{kind.name} {row}")
                else:
                    new = {"new": now.seal(secret, bound_to), "row": row, "old": old}
                    resealed += connection.execute(kind.update, new).rowcount
    return Resealed(resealed, kept, unreadable)


def _opened(box: SecretBox, sealed: bytes, bound_to: str) -> bytes | None:
    try:
        return box.open(sealed, bound_to)
    except ValueError:
        return None
