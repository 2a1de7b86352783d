"""/api/v3/userDataStream: keys that open an account's stream at `/ws/KEY`.

This is the older alternative to the WebSocket API. A key lives for an hour after it was created or last kept
alive, and depends on the API key or session with which it was created. An API key or session has one
listenKey at a time.
"""

from typing import Final, NamedTuple, Self, TypedDict

from functions.api.errors import ApiError
from functions.api.function import Function, Group, Parameter, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing
from functions.users.create_api_key import random_text
from protocol import streams
from protocol.units import AccountId

TTL_S: Final = 3_600
_PATH: Final = "/api/v3/userDataStream"
_LISTEN_KEY: Final = Parameter("listenKey", "The key.", required=True)


class ListenKey(NamedTuple):
    """The account whose events a key opens, and the credential on which it depends.

    Empty: an earlier release created it; it ends with any credential of the account.
    """

    account_id: AccountId
    credential: str

    def to_bytes(self) -> bytes:
        """Return the stored form."""
        return f"{self.account_id} {self.credential}".encode()

    @classmethod
    def of_bytes(cls, value: bytes) -> Self | None:
        """Return the key of a stored form; None: it is invalid."""
        account, _, credential = value.partition(b" ")
        return cls(AccountId(int(account)), credential.decode()) if account.isdigit() else None


class ListenKeyShape(TypedDict):
    """The key that opens the stream."""

    listenKey: str


async def open_stream(ports: Ports, call: Call) -> ListenKeyShape:
    """Return the API key's listenKey, a new one if there is none; it is valid for another hour."""
    _check_enabled(ports)
    own = ListenKey(call.account_id, call.credential)
    value = await ports.key_values.get(streams.listen_key_of(*own))
    key = value.decode("ascii") if value else random_text()
    await _keep(ports, key, own)
    return ListenKeyShape(listenKey=key)


async def keep_stream(ports: Ports, call: Call) -> Nothing:
    """Extend the key by an hour."""
    key, listen_key = await _own_key(ports, call)
    await _keep(
        ports, key, listen_key if listen_key.credential else ListenKey(call.account_id, call.credential)
    )
    return Nothing()


async def close_stream(ports: Ports, call: Call) -> Nothing:
    """Remove the key."""
    key, listen_key = await _own_key(ports, call)
    await ports.key_values.remove(streams.listen_key(key))
    await ports.key_values.remove(streams.listen_key_of(*listen_key))
    return Nothing()


async def find_listen_key(ports: Ports, key: str) -> ListenKey | None:
    """Return the account and credential of the key; None: it does not exist.

    A key that was created with a revoked credential is invalid, as far as this process knows the revocation.
    This check is decisive, because a request that began before the revocation may still write the key.
    """
    if not ports.settings.listen_keys_enabled:
        return None
    value = await ports.key_values.get(streams.listen_key(key))
    listen_key = None if value is None else ListenKey.of_bytes(value)
    return None if listen_key is None or ports.revocations.is_revoked(listen_key.credential) else listen_key


async def _keep(ports: Ports, key: str, listen_key: ListenKey) -> None:
    await ports.key_values.put(streams.listen_key(key), listen_key.to_bytes(), TTL_S)
    await ports.key_values.put(streams.listen_key_of(*listen_key), key.encode("ascii"), TTL_S)


async def _own_key(ports: Ports, call: Call) -> tuple[str, ListenKey]:
    _check_enabled(ports)
    key = call.parameters.required("listenKey")
    listen_key = await find_listen_key(ports, key)
    if listen_key is None or listen_key.account_id != call.account_id:
        raise listen_key_unknown()
    return key, listen_key


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
