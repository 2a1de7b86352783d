"""GET /api/v1/api-keys: the account's keys, without their secrets."""

import msgspec

from functions.api.function import Function, Group, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Time

_SELECT = """
    SELECT key, kind, label, (extract(epoch from created_at) * 1000)::bigint, scopes, networks::text[],
        (extract(epoch from expires_at) * 1000)::bigint, (extract(epoch from last_used_at) * 1000)::bigint
    FROM api_keys
    WHERE account_id = %(account)s AND revoked_at IS NULL ORDER BY created_at, key
"""


class ListedKeyShape(msgspec.Struct, rename="camel"):
    """A key, without its secret. Times in ms or µs; when it was used last is known to some fifteen seconds."""

    api_key: str
    kind: str
    label: str
    created_time: Time
    scopes: list[str]
    networks: list[str]
    expires_time: Time | None
    last_used_time: Time | None


async def list_api_keys(ports: Ports, call: Call) -> list[ListedKeyShape]:
    """Return the keys that are not revoked, oldest first."""
    rows = await ports.database.fetch(_SELECT, {"account": call.account_id})
    scale = call.time_scale
    return [
        ListedKeyShape(
            key, kind, label, created * scale, scopes, networks, _scaled(expires, scale), _scaled(used, scale)
        )
        for key, kind, label, created, scopes, networks, expires, used in rows
    ]


def _scaled(time: int | None, scale: int) -> int | None:
    return None if time is None else time * scale


FUNCTION = Function(
    "GET",
    "/api/v1/api-keys",
    Group.USERS,
    "API keys",
    list_api_keys,
    security=Security.SESSION,
)
