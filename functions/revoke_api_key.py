"""DELETE /api/v1/api-keys: revoke a key."""

from functions.errors import ApiError
from functions.function import Function, Group, Parameter, Security
from functions.ports import Call, Ports
from protocol import streams

_UPDATE = """
    UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
    WHERE key = %(key)s AND account_id = %(account)s RETURNING key
"""


async def revoke_api_key(ports: Ports, call: Call) -> object:
    """Revoke one of the account's keys; gateways that have just used it may still accept it for a few seconds.

    Revoking it again is harmless, and what to do when the answer was an outage.
    """
    key = call.parameters.required("apiKey")
    if not key.isascii() or not key.isalnum():
        raise ApiError(-1130, "Data sent for parameter 'apiKey' is not valid.")
    rows = await ports.database.fetch(_UPDATE, {"key": key, "account": call.account_id})
    if not rows:
        raise ApiError(-1130, "Data sent for parameter 'apiKey' is not valid.")
    await ports.key_values.remove(streams.api_key(key))
    return {}


FUNCTION = Function(
    "DELETE",
    "/api/v1/api-keys",
    Group.USERS,
    "Revoke an API key",
    revoke_api_key,
    security=Security.SESSION,
    parameters=(Parameter("apiKey", "The key to revoke.", required=True),),
)
