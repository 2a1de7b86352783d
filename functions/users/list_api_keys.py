"""GET /api/v1/api-keys: the account's keys, without their secrets."""

import msgspec

from functions.api.function import Function, Group, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Time


class ListedKeyShape(msgspec.Struct, rename="camel"):
    """A key, without its secret.

    Times in ms or µs; the time of the last use is accurate to about fifteen seconds.
    """

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
    scale = call.time_scale
    return [
        ListedKeyShape(
            api_key.key,
            api_key.kind,
            api_key.label,
            api_key.created_time * scale,
            api_key.scopes,
            api_key.networks,
            _scaled(api_key.expires_time, scale),
            _scaled(api_key.last_used_time, scale),
        )
        for api_key in await ports.api_keys.of_account(call.account_id)
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
