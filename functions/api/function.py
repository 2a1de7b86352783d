"""What a function is: how it is reached, what it demands, what it takes, and what handles it."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from functions.api.key_permissions import Scope
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports


class Group(StrEnum):
    """Groups that a gateway process may mount by itself."""

    ORDERS = "orders"
    ACCOUNT = "account"
    MARKET_DATA = "market-data"
    USERS = "users"


class Security(StrEnum):
    """Who may call."""

    PUBLIC = "public"
    SIGNED = "signed"
    """An API key and a signature."""
    API_KEY = "api-key"
    """An API key without a signature."""
    SESSION = "session"
    """A signed-in user: by a token, or by a cookie and proof that the page may read what it is answered."""
    OWNER = "owner"
    """With an API key as `SIGNED`, without one as `SESSION`."""


class Parameter(NamedTuple):
    """One parameter, for the documentation and for the refusal of unknown ones."""

    name: str
    description: str
    required: bool = False
    kind: str = "string"
    """string, integer, positive, decimal or boolean."""
    choices: tuple[str, ...] = ()
    """All that it may be; empty: anything of its kind."""
    pattern: str = ""
    """What a string looks like; empty: anything."""
    example: str = ""


Handler = Callable[[Ports, Call], Awaitable[object]]
"""Returns what is answered as JSON (msgspec structs, lists, dicts); raises `ApiError`.

Its return annotation is what the documentation says of the answer.
"""


Shape_co = TypeVar("Shape_co", covariant=True)


class Answered(NamedTuple, Generic[Shape_co]):
    """What a handler returns that sets headers besides."""

    shape: Shape_co
    headers: tuple[tuple[bytes, bytes], ...]


class Written(NamedTuple):
    """An answer, or the `shape` of one, that is not JSON."""

    body: bytes
    content_type: bytes


class Function(NamedTuple):
    """One function of the public API."""

    method: str
    path: str
    group: Group
    summary: str
    handle: Handler
    security: Security = Security.PUBLIC
    scope: Scope = Scope.READ
    """What an API key must be allowed."""
    weight: int | Callable[[Parameters], int] = 1
    parameters: tuple[Parameter, ...] = ()
    places_order: bool = False
    """Counts against the account's order limits."""
    weighs_nothing_done: bool = False
    """Its weight is given back when it succeeds: orders and cancels cost request weight only when they are
    refused."""
    takes_idempotency_key: bool = False
    """In the header of this name."""
    lenient: bool = False
    """Takes parameters that it does not know."""
    body: type | None = None
    """What its JSON body holds."""
    needs_nothing: bool = False
    """Is answered by the process alone, so that it is never unavailable (503)."""
    also_writes: tuple[str, ...] = ()
    """Media types that it answers besides JSON."""
    refuses_with: tuple[int, ...] = ()
    """Statuses that only this function answers, besides those of all that are reached alike."""

    def known_parameters(self) -> frozenset[str]:
        """Return the names that may be sent."""
        names = {parameter.name for parameter in self.parameters}
        if self.security in (Security.SIGNED, Security.OWNER):
            names |= {"timestamp", "recvWindow", "signature"}
        return frozenset(names)

    def weight_of(self, parameters: Parameters) -> int:
        """Return what a call counts against the caller's request weight."""
        return self.weight if isinstance(self.weight, int) else self.weight(parameters)


_SYMBOL_PATTERN = r"[A-Z0-9\-_.\u00a1-\uffff]{1,20}"
OPTIONAL_SYMBOL = Parameter(
    "symbol", "Market, for example BTCUSDT.", pattern=f"^{_SYMBOL_PATTERN}$", example="BTCUSDT"
)
SYMBOL = OPTIONAL_SYMBOL._replace(required=True)
SYMBOLS = Parameter(
    "symbols",
    'Several markets as a JSON array: ["BTCUSDT","ETHUSDT"].',
    pattern=rf'^\["{_SYMBOL_PATTERN}"(,"{_SYMBOL_PATTERN}")*\]$',
    example='["BTCUSDT","ETHUSDT"]',
)
SYMBOL_STATUS = Parameter(
    "symbolStatus",
    "TRADING, HALT, CANCEL_ONLY or BREAK.",
    choices=("TRADING", "HALT", "CANCEL_ONLY", "BREAK"),
)
ASSET = Parameter("asset", "Asset, for example BTC.", example="BTC")
START_TIME = Parameter("startTime", "From this time on, in ms or µs.", kind="integer")
END_TIME = Parameter("endTime", "Up to and including this time, in ms or µs.", kind="integer")
ORDER_ID = Parameter("orderId", "The exchange's number of the order.", kind="integer")
_CLIENT_ORDER_ID_PATTERN = r"^[.A-Z:/a-z0-9_\-]{1,36}$"
ORIG_CLIENT_ORDER_ID = Parameter(
    "origClientOrderId", "The order's client order id.", pattern=_CLIENT_ORDER_ID_PATTERN
)
NEW_CLIENT_ORDER_ID = Parameter("newClientOrderId", "", pattern=_CLIENT_ORDER_ID_PATTERN)


def limit_parameter(default: int, largest: int) -> Parameter:
    """Return the description of `limit`."""
    return Parameter("limit", f"Rows wanted: {default} by default, {largest} at most.", kind="positive")
