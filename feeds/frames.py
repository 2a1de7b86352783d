"""The part of an event frame that feeds decode: leading fields, and every event's own bytes.

The structs here are the heads of those in protocol/events.py, with the same tags; msgspec skips the remaining
fields. This halves the cost of decoding, and the bytes are passed on unchanged (to the trades list, to the
accounts).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from protocol.codec import UnreadItem, event_items, raw_events
from protocol.configuration import MarketConfig
from protocol.decoding import msgpack_decoder
from protocol.units import AccountId, OrderId, PriceTicks, QuantityLots, Sequence, TimeMs, TradeId

BUY: Final = 1
"""`Side.BUY`; sides are decoded as plain ints, which is cheaper."""
MAKER: Final = 1
"""`Liquidity.MAKER`, likewise."""


class Trade(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The head of a `TradeExecuted`."""

    time: TimeMs
    market: str
    sequence: Sequence
    trade_id: TradeId
    aggregate_id: int
    price: PriceTicks
    quantity: QuantityLots
    taker_side: int


class DepthChange(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """A `DepthChanged`; changes are (side, price, quantity)."""

    time: TimeMs
    market: str
    sequence: Sequence
    changes: tuple[tuple[int, PriceTicks, QuantityLots], ...]


class Deposit(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """The head of a `FundsDeposited`."""

    time: TimeMs
    account_id: AccountId


class Withdrawal(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """The head of a `FundsWithdrawn`."""

    time: TimeMs
    account_id: AccountId


class Release(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """The head of a `FundsReleased`."""

    time: TimeMs
    account_id: AccountId


class OrderHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The head of an `OrderState`."""

    order_id: OrderId
    account_id: AccountId


class Accepted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """The head of an `OrderAccepted`."""

    time: TimeMs
    order: OrderHead


class FilledOrder(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The head of an `OrderState`, up to its time of acceptance. Irrelevant fields are not decoded."""

    order_id: OrderId
    account_id: AccountId
    client_order_id: msgspec.Raw
    market: msgspec.Raw
    side: msgspec.Raw
    order_type: msgspec.Raw
    time_in_force: msgspec.Raw
    price: msgspec.Raw
    quantity: msgspec.Raw
    quote_quantity: msgspec.Raw
    self_trade_prevention: msgspec.Raw
    status: msgspec.Raw
    cum_quantity: QuantityLots
    cum_quote: msgspec.Raw
    held: msgspec.Raw
    accepted_time: TimeMs


class Filled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """The head of an `OrderFilled`."""

    time: TimeMs
    order: FilledOrder
    trade_id: msgspec.Raw
    price: msgspec.Raw
    quantity: QuantityLots
    quote: msgspec.Raw
    liquidity: int

    @property
    def is_first_as_maker(self) -> bool:
        """Whether the order has rested, and this is its first fill."""
        return self.liquidity == MAKER and self.order.cum_quantity == self.quantity


class Closed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """The head of an `OrderClosed`."""

    time: TimeMs
    order: OrderHead


class FeeWithdrawal(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """The head of a `FeesWithdrawn`, which is not published."""

    time: TimeMs


class Closure(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """The head of an `AccountClosed`, which is not published."""

    time: TimeMs


class StateHash(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """The head of a `StateHashed`, which is not published."""

    time: TimeMs


class Passed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """A `TimePassed`."""

    time: TimeMs


class Configured(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """A `MarketConfigured`."""

    time: TimeMs
    config: MarketConfig


class Skip(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=26):
    """The head of an `EntrySkipped`, which is not published."""

    time: TimeMs


class ShardConfiguration(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """The head of a `ShardConfigured`, which is not published."""

    time: TimeMs


class Limits(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=25):
    """The head of an `AccountLimited`, which is not published."""

    time: TimeMs


class Prevention(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """The head of a `MatchPrevented`, which is not published yet."""

    time: TimeMs


HeadOfOrder = Accepted | Filled | Closed
ShardHead = StateHash | Passed | FeeWithdrawal | Closure | Skip | ShardConfiguration | Limits | Prevention
HeadOfFunds = Deposit | Withdrawal | Release
EventHead = ShardHead | Configured | Trade | DepthChange | HeadOfFunds | HeadOfOrder

_heads = msgpack_decoder(list[EventHead])
_raws = msgpack_decoder(list[msgspec.Raw])
_head: Callable[[bytes], EventHead] = msgpack_decoder(EventHead)  # type: ignore[arg-type]  # a union is a type to msgspec


def account_of(event: EventHead) -> AccountId | None:
    """Return whose event it is, and on whose stream it is told; None: nobody's alone."""
    if isinstance(event, HeadOfOrder):
        return event.order.account_id
    return event.account_id if isinstance(event, HeadOfFunds) else None


class Read(NamedTuple):
    """The decodable part of an event frame."""

    heads: list[EventHead]
    raws: list[msgspec.Raw]
    """The bytes of each event."""
    unread: list[UnreadItem]


def decode(frame: bytes) -> Read:
    """Return the heads of a frame's events and the bytes of each.

    An undecodable event does not discard the others.

    Raises:
        msgspec.MsgspecError: the bytes are not an event frame.
        LaterFormatError: a later release wrote it.
    """
    try:
        items = event_items(frame)
        return Read(_heads(items), _raws(items), [])
    except msgspec.MsgspecError:
        return _decode_each(raw_events(frame))


def _decode_each(events: list[bytes]) -> Read:
    read = Read([], [], [])
    for number, event in enumerate(events):
        try:
            read.heads.append(_head(event))
        except msgspec.MsgspecError as error:
            read.unread.append(UnreadItem(number, event, str(error)))
        else:
            read.raws.append(msgspec.Raw(event))
    return read
