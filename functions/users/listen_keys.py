"""/api/v3/userDataStream: keys that open an account's own stream at `/ws/KEY`, the way before the WebSocket
API.

A key lives for an hour after it was made or last kept alive, and stands and falls with the API key or session
that it was made with, which has one at a time.
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
    """Whose events a key opens, and what it falls with.

    Empty: made by an earlier release, it falls with anything of the account.
    """

    account_id: AccountId
    credential: str

    def to_bytes(self) -> bytes:
        """Return what is kept."""
        return f"{self.account_id} {self.credential}".encode()

    @classmethod
    def of_bytes(cls, kept: bytes) -> Self | None:
        """Return what was kept; None: nobody has written it so."""
        account, _, credential = kept.partition(b" ")
        return cls(AccountId(int(account)), credential.decode()) if account.isdigit() else None


class ListenKeyShape(TypedDict):
    """The key that opens the stream."""

    listenKey: str


async def open_stream(ports: Ports, call: Call) -> ListenKeyShape:
    """Return the key that goes with the API key, a new one if there is none; it is good for another hour."""
    _check_enabled(ports)
    own = ListenKey(call.account_id, call.credential)
    value = await ports.key_values.get(streams.listen_key_of(*own))
    key = value.decode("ascii") if value else random_text()
    await _keep(ports, key, own)
    return ListenKeyShape(listenKey=key)


async def keep_stream(ports: Ports, call: Call) -> Nothing:
    """Let the key live for another hour."""
    key, found = await _own_key(ports, call)
    await _keep(ports, key, found if found.credential else ListenKey(call.account_id, call.credential))
    return Nothing()


async def close_stream(ports: Ports, call: Call) -> Nothing:
    """Remove the key."""
    key, found = await _own_key(ports, call)
    await ports.key_values.remove(streams.listen_key(key))
    await ports.key_values.remove(streams.listen_key_of(*found))
    return Nothing()


async def find_listen_key(ports: Ports, key: str) -> ListenKey | None:
    """Return whose events the key opens, None when it does not exist (any more).

    Whatever else happens meanwhile, none is good that was made with what is revoked, as far as this process
    has heard: that is what counts, since requests that had begun before may still write it.
    """
    if not ports.settings.listen_keys_enabled:
        return None
    value = await ports.key_values.get(streams.listen_key(key))
    found = None if value is None else ListenKey.of_bytes(value)
    return None if found is None or ports.revocations.is_revoked(found.credential) else found


async def _keep(ports: Ports, key: str, kept: ListenKey) -> None:
    await ports.key_values.put(streams.listen_key(key), kept.to_bytes(), TTL_S)
    await ports.key_values.put(streams.listen_key_of(*kept), key.encode("ascii"), TTL_S)


async def _own_key(ports: Ports, call: Call) -> tuple[str, ListenKey]:
    _check_enabled(ports)
    key = call.parameters.required("listenKey")
    found = await find_listen_key(ports, key)
    if found is None or found.account_id != call.account_id:
        raise listen_key_unknown()
    return key, found


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
