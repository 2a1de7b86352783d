"""DELETE /api/v1/api-keys: revoke a key."""

from typing import Final, LiteralString

from functions.api.errors import invalid_parameter
from functions.api.function import Function, Group, Parameter, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing
from functions.users.activity import Activity, note_parameters, noting
from functions.users.revocations import Revocation, of_key
from protocol import streams

_UPDATE: Final[LiteralString] = noting(
    """
    UPDATE api_keys SET revoked_at = now()
    WHERE key = %(key)s AND account_id = %(account)s AND revoked_at IS NULL RETURNING account_id, key AS detail
    """,
    "SELECT key FROM api_keys WHERE key = %(key)s AND account_id = %(account)s",
)


_UPDATE_EVERY: Final[LiteralString] = noting(
    """
    UPDATE api_keys SET revoked_at = now() WHERE account_id = %(account)s AND revoked_at IS NULL
    RETURNING account_id, key AS detail
    """,
    # With those of a day ago, in case whoever revoked them was interrupted before all processes had heard of it.
    """
    SELECT key FROM api_keys
    WHERE account_id = %(account)s AND (revoked_at IS NULL OR revoked_at > now() - interval '1 day')
    """,
)


async def revoke_every_key(ports: Ports, call: Call) -> None:
    """Revoke all keys of the account that calls."""
    noted = note_parameters(Activity.KEY_REVOKED, call)
    for (key,) in await ports.database.fetch(_UPDATE_EVERY, {**noted, "account": call.account_id}):
        await _forget(ports, call, key)


async def revoke_api_key(ports: Ports, call: Call) -> Nothing:
    """Revoke one of the account's keys: within a second nothing is done with it any more, and what was opened with it ends.

    So do streams opened with a listenKey that was made with it. Revoking it again is harmless, and what to do when the answer was an
    outage.
    """
    key = call.parameters.required("apiKey")
    if not key.isascii() or not key.isalnum():
        raise invalid_parameter("apiKey")
    noted = note_parameters(Activity.KEY_REVOKED, call)
    rows = await ports.database.fetch(_UPDATE, {**noted, "key": key, "account": call.account_id})
    if not rows:
        raise invalid_parameter("apiKey")
    await _forget(ports, call, key)
    return Nothing()


async def _forget(ports: Ports, call: Call, key: str) -> None:
    await ports.revocations.add(Revocation(of_key(key), call.account_id))
    await ports.key_values.remove(streams.api_key(key))


FUNCTION = Function(
    "DELETE",
    "/api/v1/api-keys",
    Group.USERS,
    "Revoke an API key",
    revoke_api_key,
    security=Security.SESSION,
    parameters=(Parameter("apiKey", "The key to revoke.", required=True),),
)
