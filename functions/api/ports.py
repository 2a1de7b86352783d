"""What the functions need of the world, as small interfaces; adapters/ implements them.

Those to the database are in repositories/.
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
    """The way to the shards. Commands and queries carry `next_request_id()` and `reply_to`."""

    reply_to: str
    next_request_id: Callable[[], int]
    """Returns a number that no other request of this process has."""

    def submit(self, command: Command, deadline_us: int = 0) -> Awaitable[Reply]:
        """Enqueue at the account's shard and return its reply.

        It is refused when it gets there after `deadline_us`, by this process's clock (0: never).

        Raises:
            ApiError: overloaded or unavailable (nothing happened), or status unknown (no reply in time).
        """
        ...

    def query(self, shard: int, query: Query) -> Awaitable[Reply]:
        """Ask a shard. Raises as `submit`."""
        ...


class ReadModels(Protocol):
    """Public market data as feeds keep it; None or empty where a market has none yet."""

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
        """Remove a value; it need not exist."""
        ...


class Passwords(Protocol):
    """Password hashing: slow on purpose, so its concurrency is limited.

    Nobody who has an account waits for those who sign up.
    """

    async def hashed(self, password: str, email: str, *, is_known: bool) -> str:
        """Return the hash of a new password, to keep; `is_known`: it is for an account that there is.

        Raises:
            ApiError: -1130, the rules refuse it (see `functions.users.password_rules`); -1008, too many wait.
        """
        ...

    async def matches(self, password_hash: str, password: str) -> bool:
        """Return whether the password is the one that was hashed."""
        ...


class SecretBox(Protocol):
    """Encryption of secrets at rest."""

    def seal(self, secret: bytes, bound_to: str) -> bytes:
        """Return the secret encrypted and authenticated; it opens for `bound_to` alone."""
        ...

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """Return the secret; ValueError: it was sealed under another key or for something else."""
        ...


class OrderCounts(Protocol):
    """How many unfilled orders an account has placed in the current windows."""

    def count_order(self, account_id: AccountId, now: TimeMs) -> Awaitable[None] | None:
        """Count one order that is about to be placed; await what is returned, if anything, for the decision.

        Raises:
            ApiError: -1015, the account has used up one of its limits.
        """
        ...

    def forgive_order(self, account_id: AccountId, now: TimeMs) -> None:
        """Take one order back that was counted at `now`: it was refused, or it traded at once."""
        ...

    def know_orders(self, account_id: AccountId, now: TimeMs) -> Awaitable[None] | None:
        """Make sure that `order_counts` says what all processes have counted.

        Await what is returned, if anything.
        """
        ...

    def order_counts(self, account_id: AccountId, now: TimeMs) -> tuple[int, int]:
        """Return the counts of the current 10 s and of the current day."""
        ...


class Ports(NamedTuple):
    """Everything that a function may reach."""

    settings: Settings
    listing: Callable[[], Listing]
    """Returns the markets as their shards have them now. The properties below return parts of it."""
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
        """The markets that are listed."""
        return self.listing().listed

    @property
    def known_markets(self) -> MarketMap:
        """The markets that are, or have been, listed: for what an account has done."""
        return self.listing().known


class Call(msgspec.Struct, frozen=True, gc=False):
    """One request, authenticated as its function demands.

    `account_id` is 0 for a public function. `time_scale` is 1000 when the client asked for microseconds,
    otherwise 1. `body` is the JSON body of a function that takes one; `session` the session token, and
    `session_id` the name that it is listed under; `idempotency_key` what the header of this name holds;
    `api_key` the key that a request came with, and `credential` what it stands and falls with. `address` and
    `agent` say from where and with what. After `deadline_us` (this process's clock; 0: none) the client does
    not want it done any more.
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
        """From where and with what the request came."""
        return Origin(self.address, self.agent)


MILLISECONDS: Final = 1
MICROSECONDS: Final = 1000
