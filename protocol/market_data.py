"""Public market data as feeds store and publish it: whole numbers, msgpack.

Read models and channel payloads are one msgpack-encoded struct each; the functions and the edge convert them
to Binance's JSON.
"""

from typing import Final

import msgspec

from protocol.events import TradeExecuted
from protocol.orders import Balance
from protocol.units import AccountId, PriceTicks, QuantityLots, Sequence, TimeMs


class DepthSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """The book of a market: (price, quantity) by level, best first. `sequence` is that of its last change."""

    time: TimeMs
    market: str
    sequence: Sequence
    bids: tuple[tuple[PriceTicks, QuantityLots], ...]
    asks: tuple[tuple[PriceTicks, QuantityLots], ...]


class DepthDiff(msgspec.Struct, frozen=True, array_like=True):
    """Levels that changed since the last diff; quantity 0 removes a level. Follows `first_sequence - 1`."""

    time: TimeMs
    market: str
    first_sequence: Sequence
    last_sequence: Sequence
    bids: tuple[tuple[PriceTicks, QuantityLots], ...]
    asks: tuple[tuple[PriceTicks, QuantityLots], ...]


class BookTicker(msgspec.Struct, frozen=True, array_like=True):
    """Best bid and ask; price and quantity are 0 where a side is empty."""

    time: TimeMs
    market: str
    sequence: Sequence
    bid_price: PriceTicks
    bid_quantity: QuantityLots
    ask_price: PriceTicks
    ask_quantity: QuantityLots


class Candle(msgspec.Struct, frozen=True, array_like=True):
    """Open, high, low, close and sums over the trades of one market in one interval.

    `quote_volume` and `taker_buy_quote` are in quote units; volumes in lots. `close_time` is the last ms of
    the interval.
    """

    market: str
    interval: str
    open_time: TimeMs
    close_time: TimeMs
    open: PriceTicks
    high: PriceTicks
    low: PriceTicks
    close: PriceTicks
    volume: QuantityLots
    quote_volume: int
    trade_count: int
    taker_buy_volume: QuantityLots
    taker_buy_quote: int
    first_trade_id: int
    last_trade_id: int
    closed: bool = False
    """Whether the interval is over: a closed candle is final and is published once."""


TICKER_WINDOWS_MS: Final[dict[str, int]] = {"1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000}
"""The windows of `@ticker_1h`, `@ticker_4h` and `@ticker_1d`: their minimum lengths."""


class WindowTicker(msgspec.Struct, frozen=True, array_like=True):
    """Statistics over the trades from `open_time`, a whole minute, to the `close_time` of its `Ticker`.

    Prices are 0 and ids -1 when there was no trade.
    """

    name: str
    open_time: TimeMs
    open: PriceTicks
    high: PriceTicks
    low: PriceTicks
    last: PriceTicks
    volume: QuantityLots
    quote_volume: int
    first_trade_id: int
    last_trade_id: int
    trade_count: int


class Ticker(msgspec.Struct, frozen=True, array_like=True):
    """Statistics over the trades of exactly 24 h: `open_time` <= time <= `close_time`.

    The window moves in whole seconds: it opens at the start of the second that is 86,399 s before the current
    one. Prices are 0 and ids -1 when there was no trade; `previous_close` is the price of the last trade
    before the window (0: none).
    """

    market: str
    open_time: TimeMs
    close_time: TimeMs
    open: PriceTicks
    high: PriceTicks
    low: PriceTicks
    last: PriceTicks
    last_quantity: QuantityLots
    previous_close: PriceTicks
    volume: QuantityLots
    quote_volume: int
    first_trade_id: int
    last_trade_id: int
    trade_count: int
    windows: tuple[WindowTicker, ...] = ()
    """For each of `TICKER_WINDOWS_MS`; empty when the writer is older than this field."""


class TradeBatch(msgspec.Struct, frozen=True, array_like=True):
    """Trades of one market, oldest first."""

    market: str
    trades: tuple[TradeExecuted, ...]


class AccountUpdate(msgspec.Struct, frozen=True, array_like=True):
    """Raw account events (msgpack, as in `ev:{k}`): all of the account after `after` up to `position`.

    After a crash feeds may publish the same events again, divided differently: a receiver must drop the
    events that it has already processed.
    """

    account_id: AccountId
    position: str
    events: msgspec.Raw
    balances: tuple[Balance, ...] = ()
    """Not used."""
    after: str = ""
    """Empty when the writer is older than this field."""


class RepeatRequest(msgspec.Struct, frozen=True, array_like=True):
    """Which accounts' events an edge may have missed, and asks the feeds of their shard for."""

    request_id: int
    reply_to: str
    """The channel of the answer."""
    accounts: list[tuple[AccountId, str]]
    """(account, the position up to which it was heard)."""


class Repeated(msgspec.Struct, frozen=True, array_like=True):
    """A part of the answer to a `RepeatRequest`: what the accounts have up to `position`."""

    request_id: int
    position: str
    accounts: list[tuple[AccountId, msgspec.Raw]]
    """(account, its events as in an `AccountUpdate`)."""
    is_last: bool
    """Whether `position` is that up to which feeds had published when they were asked, or why it cannot be
    reached is in `problem`."""
    problem: str = ""
    """Why events are missing for good; empty: none are."""
