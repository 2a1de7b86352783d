"""The evidence of a run for the verdict: requests, answers, subscribers' messages, and the final state.

Amounts are whole numbers: prices in ticks, quantities in lots, money in units; times in ms.
"""

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import NamedTuple

import msgspec

from lab.chaos.watching import MarketWatch, ReportWatch, StreamWatch
from protocol.market import MarketMap
from protocol.orders import OrderStatus, OrderType, Side, TimeInForce
from protocol.replies import AuditReply


class Outcome(IntEnum):
    """What an answer says about the request."""

    ACKNOWLEDGED = 1
    REFUSED = 2
    """A rule forbids it: nothing was done."""
    DUPLICATE = 3
    """An earlier attempt was carried out, or is being."""
    NOT_DONE = 4
    """It was not sent, or the answer says that nothing was done."""
    UNKNOWN = 5
    """The answer was lost, or says that nobody knows."""


class Unanswered(StrEnum):
    """Why a request has no answer that says what became of it."""

    NOW_NOT = "503, nothing was done"
    NOBODY_KNOWS = "-1007, nobody knows"
    MOVED = "the WebSocket was closed with 1001 before the answer"
    MOVING = "no WebSocket yet after 1001, nothing was sent"
    REFUSED = "nobody accepted a connection, nothing was sent"
    CUT_OFF = "the connection was lost before the answer"
    SILENCE = "no answer in time"


MAY_BE_SENT_AGAIN = frozenset(
    {Unanswered.NOW_NOT, Unanswered.NOBODY_KNOWS, Unanswered.MOVED, Unanswered.MOVING}
)
"""Outcomes that clients must expect while processes are restarted (docs/reference/processes.md)."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What came of one attempt; the order's state where it was acknowledged."""

    outcome: Outcome
    code: int = 0
    order_id: int = 0
    status: int = 0
    cum_quantity: int = 0
    cum_quote: int = 0
    trade_ids: tuple[int, ...] = ()


NOT_DONE = Answer(Outcome.NOT_DONE)
UNKNOWN = Answer(Outcome.UNKNOWN)


class SentOrder(msgspec.Struct, gc=False):
    """One order, every attempt to place it, and every attempt to cancel it."""

    number: int
    account_id: int
    market: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: int
    quantity: int
    quote_quantity: int
    answers: list[Answer] = []
    cancels: list[Answer] = []

    @property
    def acknowledged(self) -> Answer | None:
        """The first acknowledgement."""
        return next((answer for answer in self.answers if answer.outcome is Outcome.ACKNOWLEDGED), None)


CLIENT_ORDER_ID_PREFIX = "chaos-"


def client_order_id(number: int) -> str:
    """Return the client order id of an order."""
    return f"{CLIENT_ORDER_ID_PREFIX}{number}"


class SentDeposit(NamedTuple):
    """A request for a deposit, which is sent once."""

    account_id: int
    asset: str
    amount: int
    outcome: Outcome


class Said(NamedTuple):
    """The status, the error code and the channel of an answer, by which answers are counted."""

    channel: str
    """http or ws."""
    status: int
    code: int | None
    """Of an error; None: there was none in the answer."""
    retry_after: bool


class OrderRow(NamedTuple):
    """An order as the database has it."""

    order_id: int
    account_id: int
    client_order_id: str
    market: str
    side: int
    order_type: int
    price: int
    quantity: int
    status: int
    cum_quantity: int
    cum_quote: int
    accepted_time: int
    updated_time: int


class TradeRow(NamedTuple):
    """A trade as the database has it."""

    time: int
    market: str
    trade_id: int
    sequence: int
    price: int
    quantity: int
    quote: int
    taker_side: int
    maker_order_id: int
    taker_order_id: int
    maker_account_id: int
    taker_account_id: int


class FillRow(NamedTuple):
    """A fill as the database has it."""

    time: int
    account_id: int
    market: str
    order_id: int
    trade_id: int
    side: int
    price: int
    quantity: int
    quote: int
    liquidity: int
    fee: int
    fee_asset: str


class LedgerSum(NamedTuple):
    """The sum over an account's ledger entries of one kind in one asset."""

    account_id: int
    asset: str
    kind: str
    amount: int
    entries: int


class CandleRow(NamedTuple):
    """A candle as the database has it."""

    market: str
    interval: str
    open_time: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int
    trade_count: int
    taker_buy_volume: int
    taker_buy_quote: int
    first_trade_id: int
    last_trade_id: int


class Stored(msgspec.Struct):
    """The contents of the database at the end of a run."""

    orders: Sequence[OrderRow] = ()
    trades: Sequence[TradeRow] = ()
    """By market and id."""
    fills: Sequence[FillRow] = ()
    ledger: Sequence[LedgerSum] = ()
    candles: Sequence[CandleRow] = ()
    dead_events: int = 0


class OpenOrder(NamedTuple):
    """An open order in its shard's memory."""

    order_id: int
    account_id: int
    market: str
    side: int
    price: int
    leaves_quantity: int
    status: int


Levels = dict[str, str]
"""Price -> quantity, as the API writes them."""


class Book(NamedTuple):
    """A market's book by price levels, up to `sequence`."""

    sequence: int
    bids: Levels
    asks: Levels


class Answered(msgspec.Struct):
    """What the exchange answers at the end, when nothing is on its way any more."""

    balances: dict[tuple[int, str], tuple[int, int]] = {}
    """(account, asset) -> available, held."""
    open_orders: list[OpenOrder] = []
    books: dict[str, Book] = {}
    audits: dict[int, AuditReply] = {}
    statuses: dict[str, str] = {}
    """Market -> its status, as its shard has it."""
    frozen: list[int] = []
    """Accounts that are frozen."""
    replayed: int = 0
    """Commands that the replay applied."""
    replay_differences: list[str] = []


class Ending(msgspec.Struct):
    """What has or has not come to its end after the load."""

    stalled: str = ""
    """Why the load was given up; empty: it was not."""
    settled: bool = True
    """Whether everything that was accepted came to its end, the database included."""
    standing_still: list[str] = []
    """What the parts that stopped themselves say."""
    dead_letters: int = 0
    settle_s: float = 0.0


class CatchUp(NamedTuple):
    """The database came back, and what waited was stored: `backlog_ms` of the log's time in `seconds`."""

    backlog_ms: int
    seconds: float

    @property
    def speed(self) -> float:
        """How many times as fast as it had been written."""
        return self.backlog_ms / 1000 / self.seconds if self.seconds else 0.0


class Evidence(msgspec.Struct):
    """All observations of a run, from which the verdict is computed."""

    markets: MarketMap
    accounts: list[int]
    delisted: set[str] = set()
    """Markets that are there no more; they stay in `markets`."""
    orders: list[SentOrder] = []
    deposits: list[SentDeposit] = []
    said: Counter[Said] = msgspec.field(default_factory=Counter)
    unanswered: Counter[tuple[str, Unanswered]] = msgspec.field(default_factory=Counter)
    """(channel, why) -> requests."""
    graceful: bool = False
    """Whether processes were only told to stop, one after the other: then nobody is cut off."""
    stored: Stored = msgspec.field(default_factory=Stored)
    answered: Answered = msgspec.field(default_factory=Answered)
    stream: StreamWatch = msgspec.field(default_factory=StreamWatch)
    market_watches: list[MarketWatch] = []
    report_watches: list[ReportWatch] = []
    operations: dict[str, int] = {}
    """What an operator was to do -> how often it was done."""
    catch_ups: list[CatchUp] = []
    ending: Ending = msgspec.field(default_factory=Ending)


def is_final(status: int) -> bool:
    """Return whether an order of this status has left the book for good."""
    return status >= OrderStatus.FILLED
