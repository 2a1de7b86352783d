"""/api/v3/userDataStream: keys that open an account's own stream at `/ws/KEY`, the way before the WebSocket API.

A key lives for an hour after it was made or last kept alive. An account has one at a time.
"""

from typing import Final, TypedDict

from functions.create_api_key import random_text
from functions.errors import ApiError
from functions.function import Function, Group, Parameter, Security
from functions.ports import Call, Ports
from functions.shapes import Nothing
from protocol import streams
from protocol.units import AccountId

TTL_S: Final = 3_600
_PATH: Final = "/api/v3/userDataStream"
_LISTEN_KEY: Final = Parameter("listenKey", "The key.", required=True)


class ListenKeyShape(TypedDict):
    """The key that opens the stream."""

    listenKey: str


async def open_stream(ports: Ports, call: Call) -> ListenKeyShape:
    """Return the account's key, a new one if it has none; it is good for another hour."""
    _check_enabled(ports)
    name = streams.listen_key_of(call.account_id)
    value = await ports.key_values.get(name)
    key = value.decode("ascii") if value else random_text()
    await ports.key_values.put(streams.listen_key(key), str(call.account_id).encode(), TTL_S)
    await ports.key_values.put(name, key.encode("ascii"), TTL_S)
    return ListenKeyShape(listenKey=key)


async def keep_stream(ports: Ports, call: Call) -> Nothing:
    """Let the key live for another hour."""
    key = await _own_key(ports, call)
    await ports.key_values.put(streams.listen_key(key), str(call.account_id).encode(), TTL_S)
    await ports.key_values.put(streams.listen_key_of(call.account_id), key.encode("ascii"), TTL_S)
    return Nothing()


async def close_stream(ports: Ports, call: Call) -> Nothing:
    """Remove the key."""
    await _own_key(ports, call)
    await remove_listen_key(ports, call.account_id)
    return Nothing()


async def remove_listen_key(ports: Ports, account_id: AccountId) -> None:
    """Remove the account's key, if it has one."""
    name = streams.listen_key_of(account_id)
    value = await ports.key_values.get(name)
    if value is not None:
        await ports.key_values.remove(streams.listen_key(value.decode("ascii")))
        await ports.key_values.remove(name)


async def account_of_listen_key(ports: Ports, key: str) -> AccountId | None:
    """Return whose events the key opens, None when it does not exist (any more)."""
    if not ports.settings.listen_keys_enabled:
        return None
    value = await ports.key_values.get(streams.listen_key(key))
    return AccountId(int(value)) if value is not None and value.isdigit() else None


async def _own_key(ports: Ports, call: Call) -> str:
    _check_enabled(ports)
    key = call.parameters.required("listenKey")
    if await account_of_listen_key(ports, key) != call.account_id:
        raise listen_key_unknown()
    return key


def listen_key_unknown() -> ApiError:
    """-1125: there is no such key."""
    return ApiError(-1125, "This listenKey does not exist.")


def _check_enabled(ports: Ports) -> None:
    if not ports.settings.listen_keys_enabled:
        raise ApiError(-1020, "This operation is not supported.", 410)


FUNCTIONS: Final = (
    Function(
        "POST",
        _PATH,
        Group.ACCOUNT,
        "Open an account's own stream",
        open_stream,
        security=Security.API_KEY,
        weight=2,
        refuses_with=(410,),
    ),
    Function(
        "PUT",
        _PATH,
        Group.ACCOUNT,
        "Keep an account's own stream open",
        keep_stream,
        security=Security.API_KEY,
        weight=2,
        refuses_with=(410,),
        parameters=(_LISTEN_KEY,),
    ),
    Function(
        "DELETE",
        _PATH,
        Group.ACCOUNT,
        "Close an account's own stream",
        close_stream,
        security=Security.API_KEY,
        weight=2,
        refuses_with=(410,),
        parameters=(_LISTEN_KEY,),
    ),
)
