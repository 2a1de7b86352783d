"""DELETE /api/v1/api-keys: revoke a key."""

from functions.api.errors import invalid_parameter
from functions.api.function import Function, Group, Parameter, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing
from functions.users.revocations import Revocation, of_key
from protocol import streams


async def revoke_every_key(ports: Ports, call: Call) -> None:
    """Revoke all keys of the calling account."""
    for key in await ports.api_keys.revoke_all(call.account_id, call.origin):
        await _forget(ports, call, key)


async def revoke_api_key(ports: Ports, call: Call) -> Nothing:
    """Revoke one of the account's keys: within a second it is invalid, and everything opened with it ends.

    This includes streams opened with a listenKey of the API key. Repeating the call is harmless, and correct
    after an outage.
    """
    key = call.parameters.required("apiKey")
    if not key.isascii() or not key.isalnum():
        raise invalid_parameter("apiKey")
    if not await ports.api_keys.revoke(call.account_id, key, call.origin):
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
