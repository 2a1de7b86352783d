"""The I/O of the functions, as small interfaces that adapters/ implements.

The interfaces to the database are in repositories/.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from functions.api.parameters import Parameters
from functions.repositories.activity import ActivityLog
from functions.repositories.api_keys import ApiKeys
from functions.repositories.candles import Candles
from functions.repositories.ingestion import Ingestion
from functions.repositories.ledger import Ledger
from functions.repositories.mails import Mails
from functions.repositories.orders import Orders
from functions.repositories.second_factors import SecondFactors
from functions.repositories.sessions import Sessions
from functions.repositories.trades import Trades
from functions.repositories.users import Users
from functions.users.activity import Origin
from functions.users.attempts import Attempts
from functions.users.revocations import Revocations
from protocol.commands import Command
from protocol.events import TradeExecuted
from protocol.listing import Listing
from protocol.market import MarketMap
from protocol.market_data import BookTicker, DepthSnapshot, Ticker
from protocol.replies import Query, Reply
from protocol.units import AccountId, TimeMs
from runtime.settings import Settings


class Shards(Protocol):
    """The connection to the shards. Commands and queries carry `next_request_id()` and `reply_to`."""

    reply_to: str
    next_request_id: Callable[[], int]
    """Returns a request id that is unique in this process."""

    def submit(self, command: Command, deadline_us: int = 0) -> Awaitable[Reply]:
        """Enqueue a command at the account's shard and return its reply.

        The shard refuses it when it arrives after `deadline_us`, by this process's clock (0: no deadline).

        Raises:
            ApiError: overloaded or unavailable (nothing happened), or status unknown (no reply in time).
        """
        ...

    def query(self, shard: int, query: Query) -> Awaitable[Reply]:
        """Query a shard. Raises as `submit`."""
        ...


class ReadModels(Protocol):
    """Public market data from the feeds; None or empty if a market has none yet."""

    async def depth(self, symbol: str, limit: int) -> DepthSnapshot | None:
        """Return the best `limit` levels of each side, 5,000 at most."""
        ...

    async def book_tickers(self, symbols: Sequence[str]) -> list[BookTicker | None]:
        """Return best bid and ask of each market."""
        ...

    async def tickers(self, symbols: Sequence[str]) -> list[Ticker | None]:
        """Return the 24 h ticker of each market."""
        ...

    async def trades(self, symbol: str, limit: int) -> list[TradeExecuted]:
        """Return the newest trades, oldest first."""
        ...


class KeyValues(Protocol):
    """Small values in Redis; unreachable: `ApiError` (unavailable)."""

    async def get(self, key: str) -> bytes | None:
        """Return a value."""
        ...

    async def put(self, key: str, value: bytes, ttl_s: int | None = None) -> None:
        """Set a value, for `ttl_s` seconds if given."""
        ...

    async def remove(self, key: str) -> None:
        """Remove a value, if it exists."""
        ...


class Passwords(Protocol):
    """Password hashing: slow on purpose, so its concurrency is limited.

    Users with an account do not wait for sign-ups.
    """

    async def hashed(self, password: str, email: str, *, is_known: bool) -> str:
        """Return the hash of a new password, for storage; `is_known`: the account exists.

        Raises:
            ApiError: -1130, the rules refuse it (see `functions.users.password_rules`); -1008, too many wait.
        """
        ...

    async def matches(self, password_hash: str, password: str) -> bool:
        """Return whether the password matches the hash."""
        ...


class SecretBox(Protocol):
    """Encryption of secrets at rest."""

    def seal(self, secret: bytes, bound_to: str) -> bytes:
        """Return the secret encrypted and authenticated; it can only be opened for `bound_to`."""
        ...

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """Return the secret.

        Raises:
            ValueError: it was sealed with another key or for another binding.
        """
        ...


class OrderCounts(Protocol):
    """The number of unfilled orders that an account has placed in the current windows."""

    def count_order(self, account_id: AccountId, now: TimeMs) -> Awaitable[None] | None:
        """Count one order that is about to be placed; await the returned value, if any, for the decision.

        Raises:
            ApiError: -1015, the account has used up one of its limits.
        """
        ...

    def forgive_order(self, account_id: AccountId, now: TimeMs) -> None:
        """Take back an order that was counted at `now`: it was refused, or it traded at once."""
        ...

    def know_orders(self, account_id: AccountId, now: TimeMs) -> Awaitable[None] | None:
        """Ensure that `order_counts` includes the counts of all processes.

        Await the returned value, if any.
        """
        ...

    def order_counts(self, account_id: AccountId, now: TimeMs) -> tuple[int, int]:
        """Return the counts of the current 10 s and of the current day."""
        ...


class Ports(NamedTuple):
    """All ports of the functions."""

    settings: Settings
    listing: Callable[[], Listing]
    """Returns the current markets of the shards. The properties below return parts of it."""
    shards: Shards
    read_models: ReadModels
    ingestion: Ingestion
    trades: Trades
    candles: Candles
    orders: Orders
    ledger: Ledger
    users: Users
    second_factors: SecondFactors
    sessions: Sessions
    api_keys: ApiKeys
    mails: Mails
    activity: ActivityLog
    key_values: KeyValues
    passwords: Passwords
    secret_box: SecretBox
    order_counts: OrderCounts
    revocations: Revocations
    attempts: Attempts

    @property
    def markets(self) -> MarketMap:
        """The listed markets."""
        return self.listing().listed

    @property
    def known_markets(self) -> MarketMap:
        """The markets that are or were listed: for an account's history."""
        return self.listing().known


class Call(msgspec.Struct, frozen=True, gc=False):
    """One request, authenticated as its function requires.

    `account_id` is 0 for a public function. `time_scale` is 1000 if the client asked for microseconds,
    otherwise 1. `body` is the JSON body of a function that has one; `session` is the session token, and
    `session_id` the name under which the session is listed; `idempotency_key` is the value of this header;
    `api_key` is the key of the request, and `credential` the credential on which it depends. `address` and
    `agent` identify the client. After `deadline_us` (this process's clock; 0: none) the client no longer
    wants the request executed.
    """

    parameters: Parameters
    now: TimeMs
    account_id: AccountId = AccountId(0)
    time_scale: int = 1
    body: bytes = b""
    session: str = ""
    session_id: str = ""
    deadline_us: int = 0
    idempotency_key: str = ""
    api_key: str = ""
    credential: str = ""
    address: str = ""
    agent: str = ""

    @property
    def origin(self) -> Origin:
        """The client's address and program."""
        return Origin(self.address, self.agent)


MILLISECONDS: Final = 1
MICROSECONDS: Final = 1000
