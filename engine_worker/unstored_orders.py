"""Closed orders that the database may not have yet, so that no acknowledged order is ever unknown.

A shard's state has open orders only. Whoever asks for another one is sent to the database, which has what the shard has committed
only after a while. Until then the order is here. It is let go of when the ingest says that its events are stored, which it says after
the commit. When more orders wait than fit, the oldest are dropped, and until the database has those too, the answer for an order that
is not here is that it may be one of them.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from protocol.events import Event, OrderClosed, OrderFilled
from protocol.orders import OrderState, RejectReason
from protocol.replies import OrderQuery, OrderReply, Refused
from protocol.streams import STREAM_START, StreamId, split_stream_id
from protocol.units import AccountId, OrderId, TimeMs

_DROPPED_AT_ONCE: Final = 10_000
"""Orders let go of between two batches: some milliseconds."""

_Name = tuple[AccountId, str, str]
"""(account, market, client order id)."""


class UnstoredOrders:
    """The last state of closed orders, up to `orders_max` of them, by number and by client order id."""

    def __init__(self, orders_max: int) -> None:
        self._orders_max = orders_max
        self._orders: dict[OrderId, OrderState] = {}
        self._newest: dict[_Name, OrderId] = {}
        self._oldest_first: deque[tuple[StreamId, OrderId]] = deque()
        """With the entry of the events that the order was closed by, or a later one."""
        self.stored_to: StreamId = STREAM_START
        """Up to where the database has the shard's events."""
        self._lost_to: StreamId = STREAM_START
        """Up to this entry there may be closed orders that did not fit."""
        self.lost = 0
        """Orders that did not fit."""

    def __len__(self) -> int:
        """How many orders are here."""
        return len(self._orders)

    @property
    def is_complete(self) -> bool:
        """Whether every closed order is here or in the database."""
        return split_stream_id(self.stored_to) >= split_stream_id(self._lost_to)

    def add(self, events: Iterable[Event], stream_id: StreamId) -> None:
        """Take in the orders that were closed by events committed as entry `stream_id`, or before it; again changes nothing."""
        if split_stream_id(stream_id) <= max(split_stream_id(self.stored_to), split_stream_id(self._lost_to)):
            return
        for event in events:
            if isinstance(event, OrderClosed | OrderFilled) and not event.order.status.is_open:
                self._add(event.order, stream_id)

    def _add(self, order: OrderState, stream_id: StreamId) -> None:
        order_id = order.order_id
        if order_id in self._orders:
            return
        self._orders[order_id] = order
        self._oldest_first.append((stream_id, order_id))
        name = (order.account_id, order.market, order.client_order_id)
        self._newest[name] = max(order_id, self._newest.get(name, order_id))
        if len(self._orders) > self._orders_max:
            self._lost_to = max(self._lost_to, self._drop_oldest(), key=split_stream_id)
            self.lost += 1

    def drop_stored(self) -> None:
        """Let go of orders that the database has; of many at once only the first."""
        stored_to = split_stream_id(self.stored_to)
        for _ in range(_DROPPED_AT_ONCE):
            if not self._oldest_first or split_stream_id(self._oldest_first[0][0]) > stored_to:
                return
            self._drop_oldest()

    def _drop_oldest(self) -> StreamId:
        stream_id, order_id = self._oldest_first.popleft()
        order = self._orders.pop(order_id)
        name = (order.account_id, order.market, order.client_order_id)
        if self._newest.get(name) == order_id:
            del self._newest[name]
        return stream_id

    def answer(self, query: OrderQuery, time: TimeMs) -> OrderReply | Refused:
        """Answer a query for an order that is not open."""
        order_id = query.order_id or self._newest.get(
            (query.account_id, query.market, query.client_order_id), OrderId(0)
        )
        order = self._orders.get(order_id)
        if (
            order is not None
            and (order.account_id, order.market) == (query.account_id, query.market)
            and query.client_order_id in ("", order.client_order_id)
        ):
            return OrderReply(query.request_id, time, order)
        reason = RejectReason.UNKNOWN_ORDER if self.is_complete else RejectReason.ORDER_NOT_REMEMBERED
        return Refused(query.request_id, time, reason)
