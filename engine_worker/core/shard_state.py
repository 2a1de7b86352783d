"""The state of a shard as data: accounts, books, configuration, numbers, time, and output since `take`.

The parts of the shard share it; it decides nothing. What a snapshot holds of it, snapshot.py says.
"""

from collections import defaultdict, deque
from typing import Final

from engine_worker.core.accounts import Account, AssetTotals
from engine_worker.core.authority import Authority
from engine_worker.core.drains import Drain
from engine_worker.core.matching import MarketState
from engine_worker.core.outcomes import AnsweredRequests, Request, Transfers
from protocol.codec import OLDEST_FORMAT
from protocol.commands import ShardMessage
from protocol.configuration import MarketConfig, MarketStatus, OperatorKey, ShardConfig
from protocol.events import Event
from protocol.market import MarketMap
from protocol.orders import OrderState
from protocol.replies import Reply
from protocol.units import AccountId, OrderId, TimeMs
from protocol.windows import Windows

NEVER: Final = TimeMs(2**63)
UNBOUNDED: Final = 2**63


class CancelAllRequest:
    """A request to cancel several orders, until the last of them is answered."""

    __slots__ = ("orders", "waiting")

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.orders: list[OrderState] = []


class ShardState:
    """The state of one shard; and, while a command is handled, whose it is and what has come of it so far."""

    __slots__ = (
        "accounts",
        "authority",
        "cancel_alls",
        "checksum",
        "closed",
        "closed_from",
        "command_count",
        "config",
        "drains",
        "entered",
        "events",
        "execution_count",
        "in_flight",
        "in_flight_max",
        "index",
        "is_founding",
        "key_expiries",
        "market_configs",
        "market_map",
        "markets",
        "not_trading",
        "open_order_count",
        "open_orders_max",
        "order_count",
        "outbox",
        "received",
        "replies",
        "requests",
        "requests_under_way",
        "sent",
        "shard_count",
        "signer",
        "slots",
        "time",
        "totals",
        "transfers",
        "windows",
    )

    def __init__(self, index: int, market_map: MarketMap, windows: Windows) -> None:
        """Make the state of an empty shard that knows no market yet."""
        self.index = index
        self.shard_count = market_map.shard_count

        # Configuration.
        self.config = ShardConfig(windows=windows) if market_map.markets else None
        self.windows = windows
        self.authority = Authority()
        self.closed_from = NEVER
        """From when on orders are refused."""
        self.open_orders_max = self.in_flight_max = UNBOUNDED
        self.slots = market_map.slots
        """Account slot -> shard."""
        self.market_map = MarketMap.placed([], market_map.shard_count, self.slots)
        """The markets that this shard knows, its own and those of others."""
        self.market_configs: dict[str, MarketConfig] = {}
        self.not_trading: dict[str, MarketStatus] = {}

        # The account's half.
        self.accounts: dict[AccountId, Account] = {}
        self.totals: dict[str, AssetTotals] = {}
        self.order_count = 0
        self.open_order_count = 0
        self.execution_count = 0
        self.in_flight: defaultdict[int, int] = defaultdict(int)
        """Shard -> orders that it was sent and has not answered.

        It follows from the open orders, so no snapshot has it.
        """
        self.cancel_alls: dict[Request, CancelAllRequest] = {}
        self.transfers = Transfers(windows.transfer_ms)

        # The market's half.
        self.markets: dict[str, MarketState] = {}
        """The shard's own."""

        # Requests and their first outcomes.
        self.requests = AnsweredRequests(windows.request_ms)
        self.requests_under_way: dict[Request, None] = {}
        """Commands that wait for another shard; a repetition of one gets the answer when that comes."""
        self.key_expiries: deque[tuple[TimeMs, AccountId]] = deque()
        """When which account got an outcome that it keeps under an idempotency key, oldest first."""

        self.drains: deque[Drain] = deque()
        """Orders that are to be canceled, some with each command."""
        self.received: dict[int, int] = {}
        """Source shard -> the number of its last message that was applied."""
        self.sent: dict[int, int] = {}
        """Target shard -> the number of the last message to it."""
        self.command_count = 0
        self.checksum = 0
        """Of the encodings of all events that were ever produced, up to the last `take` or `StateHashed`."""
        self.time = TimeMs(0)
        """The shard's time, which never goes back."""

        # The entry and the command that are applied.
        self.entered = TimeMs(0)
        """When the entry was appended, by Redis's clock."""
        self.is_founding = False
        """Whether the entry found the shard without a configuration: then what configures it needs no
        signature."""
        self.signer: OperatorKey | None = None
        """Whose signature the command has; None: it has none."""

        # What was produced since the last `take`, in order.
        self.events: list[Event] = []
        self.replies: list[tuple[str, Reply]] = []
        """(reply_to, reply)."""
        self.outbox: list[tuple[int, int, ShardMessage]] = []
        """(target shard, sequence, message)."""
        self.closed: list[OrderState] = []
        """The orders that the events have closed."""

    @property
    def format(self) -> int:
        """The format of the frames and snapshots that the shard writes."""
        return self.config.format if self.config is not None else OLDEST_FORMAT

    def find_open(
        self, account_id: AccountId, market: str, order_id: OrderId, client_order_id: str
    ) -> OrderState | None:
        """Return an open order by one of its ids, or by both; None: there is none that has them."""
        account = self.accounts.get(account_id)
        if account is None:
            return None
        if client_order_id:
            placed = account.client_order_ids.get(client_order_id)
            if placed is None or order_id not in (0, placed.order_id):
                return None
            order_id = placed.order_id
        return account.open_orders.get(market, {}).get(order_id)
