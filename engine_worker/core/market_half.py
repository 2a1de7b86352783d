"""The market's half of an order: matching and canceling in the book, and messages to the accounts' halves.

Decision: docs/decisions/0001-two-halves-of-an-order.md. The rules of a single market are in matching.py.
"""

from collections.abc import Sequence

from engine_worker.core.matching import MakerMessage, cancel_missed, refused_taker
from engine_worker.core.messages import Messages
from engine_worker.core.shard_state import ShardState
from protocol.commands import CancelResting, MatchOrder
from protocol.market import ACCOUNT_SLOTS
from protocol.market_data import DepthSnapshot
from protocol.orders import RejectReason
from protocol.units import QuantityLots
from protocol.units import Sequence as MarketSequence


class MarketHalf:
    """Handles the messages of the accounts' halves to the markets of this shard."""

    __slots__ = ("_messages", "_state")

    def __init__(self, state: ShardState, messages: Messages) -> None:
        self._state = state
        self._messages = messages

    def match_order(self, order: MatchOrder) -> None:
        """Match an order whose funds are held; tell its account's half, and then those of its makers."""
        state = self._state
        makers: Sequence[MakerMessage] = ()
        market = state.markets.get(order.market)
        if market is None:
            outcome = refused_taker(order, RejectReason.UNKNOWN_MARKET)
        elif order.market in state.not_trading:
            outcome = refused_taker(order, RejectReason.MARKET_CLOSED)
        else:
            outcome, makers = market.match_order(order, state.time, state.events)
        send, slots = self._messages.send, state.slots
        # The taker first: its events tell that the order was accepted, and who trades with himself receives
        # before he pays (`BALANCE_UNITS_MAX`). Other shards get their messages in the same order.
        send(slots[order.account_id % ACCOUNT_SLOTS], outcome)
        for message in makers:
            send(slots[message.account_id % ACCOUNT_SLOTS], message)

    def cancel_resting(self, cancel: CancelResting) -> None:
        """Take an order out of the book, and tell its account's half."""
        state = self._state
        market = state.markets.get(cancel.market)
        message = (
            market.cancel_resting(cancel, state.time, state.events)
            if market is not None
            else cancel_missed(cancel)
        )
        self._messages.send(state.slots[cancel.account_id % ACCOUNT_SLOTS], message)

    def sequence(self, symbol: str) -> MarketSequence:
        """Return the number of a market's last public event; 0 before it is listed."""
        market = self._state.markets.get(symbol)
        return MarketSequence(market.sequence if market is not None else 0)

    def depth(self, symbol: str) -> DepthSnapshot:
        """Return the whole book of one of this shard's markets, by price levels.

        Empty before the market is listed.
        """
        state = self._state
        market = state.markets.get(symbol)
        if market is None:
            return DepthSnapshot(state.time, symbol, MarketSequence(0), (), ())
        bids, asks = (
            tuple((level.price, QuantityLots(level.quantity)) for level in half.in_priority())
            for half in (market.book.bids, market.book.asks)
        )
        return DepthSnapshot(state.time, symbol, MarketSequence(market.sequence), bids, asks)
