"""GET /api/v1/api-keys: the account's keys, without their secrets."""

import msgspec

from functions.function import Function, Group, Security
from functions.ports import Call, Ports

_SELECT = """
    SELECT key, kind, label, (extract(epoch from created_at) * 1000)::bigint FROM api_keys
    WHERE account_id = %(account)s AND revoked_at IS NULL ORDER BY created_at, key
"""


class ListedKeyShape(msgspec.Struct, rename="camel"):
    """A key, without its secret."""

    api_key: str
    kind: str
    label: str
    created_time: int


async def list_api_keys(ports: Ports, call: Call) -> object:
    """Return the keys that are not revoked, oldest first."""
    rows = await ports.database.fetch(_SELECT, {"account": call.account_id})
    return [ListedKeyShape(key, kind, label, created * call.time_scale) for key, kind, label, created in rows]


FUNCTION = Function(
    "GET",
    "/api/v1/api-keys",
    Group.USERS,
    "API keys",
    list_api_keys,
    security=Security.SESSION,
    answer=list[ListedKeyShape],
)
