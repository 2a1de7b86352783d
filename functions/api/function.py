"""The description of a function: route, security, parameters, and handler."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from functions.api.key_permissions import Scope
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports


class Group(StrEnum):
    """Groups of functions that a gateway process may serve alone."""

    ORDERS = "orders"
    ACCOUNT = "account"
    MARKET_DATA = "market-data"
    USERS = "users"


class Security(StrEnum):
    """The credentials that a function requires."""

    PUBLIC = "public"
    SIGNED = "signed"
    """An API key and a signature."""
    API_KEY = "api-key"
    """An API key without a signature."""
    SESSION = "session"
    """A session: by a token, or by a cookie and a proof that the page may read the answers."""
    OWNER = "owner"
    """With an API key as `SIGNED`, without one as `SESSION`."""


class Parameter(NamedTuple):
    """One parameter, for the documentation and for refusing unknown parameters."""

    name: str
    description: str
    required: bool = False
    kind: str = "string"
    """string, integer, positive, decimal or boolean."""
    choices: tuple[str, ...] = ()
    """The allowed values; empty: any value of its kind."""
    pattern: str = ""
    """The regular expression of a string; empty: any string."""
    example: str = ""


Handler = Callable[[Ports, Call], Awaitable[object]]
"""Returns the JSON answer (msgspec structs, lists, dicts); raises `ApiError`.

Its return annotation is the documented schema of the answer.
"""


Shape_co = TypeVar("Shape_co", covariant=True)


class Answered(NamedTuple, Generic[Shape_co]):
    """The result of a handler that also sets headers."""

    shape: Shape_co
    headers: tuple[tuple[bytes, bytes], ...]


class Written(NamedTuple):
    """An answer, or its `shape`, that is not JSON."""

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
    """The scope that an API key must have."""
    weight: int | Callable[[Parameters], int] = 1
    parameters: tuple[Parameter, ...] = ()
    places_order: bool = False
    """The request counts against the account's order limits."""
    weighs_nothing_done: bool = False
    """Its weight is refunded on success: orders and cancels cost request weight only when refused."""
    takes_idempotency_key: bool = False
    """The request may have an idempotency key in the header of this name."""
    lenient: bool = False
    """Unknown parameters are accepted."""
    body: type | None = None
    """The type of the JSON body."""
    needs_nothing: bool = False
    """The process answers alone, so the function is never unavailable (503)."""
    also_writes: tuple[str, ...] = ()
    """Media types of the answer besides JSON."""
    refuses_with: tuple[int, ...] = ()
    """Statuses that only this function returns, besides those of all functions of its kind."""

    def known_parameters(self) -> frozenset[str]:
        """Return the names of the accepted parameters."""
        names = {parameter.name for parameter in self.parameters}
        if self.security in (Security.SIGNED, Security.OWNER):
            names |= {"timestamp", "recvWindow", "signature"}
        return frozenset(names)

    def weight_of(self, parameters: Parameters) -> int:
        """Return the request weight of a call."""
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
