"""Closed orders that the database may not have yet, so that no acknowledged order is ever unknown.

A shard's state has open orders only. Queries for other orders go to the database, which receives the shard's
commits with a delay. Until then the order is here. It is dropped when the ingest reports, after its commit,
that its events are stored. If there are more orders than fit, the oldest are dropped, and until the database
has those too, the answer for an order that is not here is that it may be one of them.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from protocol.events import Event, OrderClosed, OrderFilled
from protocol.orders import OPEN_STATUSES, OrderState, RejectReason
from protocol.replies import OrderQuery, OrderReply, Refused
from protocol.stream_id import STREAM_START, StreamId
from protocol.units import AccountId, OrderId, TimeMs

_DROPPED_AT_ONCE: Final = 10_000
"""Maximum of orders dropped between two batches: some milliseconds."""
_UNINDEXED_MAX: Final = 20_000
"""Maximum of orders that a query has to index first: some milliseconds, too.

The database rarely lags further behind.
"""

_Name = tuple[AccountId, str, str]
"""(account, market, client order id)."""


def closed_orders(events: Iterable[Event]) -> list[OrderState]:
    """Return the last state of the orders that events have closed."""
    return [
        event.order
        for event in events
        if isinstance(event, OrderClosed | OrderFilled) and event.order.status not in OPEN_STATUSES
    ]


class UnstoredOrders:
    """The last state of closed orders, up to `orders_max` of them, by number and by client order id.

    The event entry of an order is not recorded when it is added, but periodically: `look` passes the newest
    entry, and all orders added before are in that entry at the latest. Every batch adds some and queries are
    rare, so the newest orders are indexed by number and name only when a query comes.
    """

    def __init__(self, orders_max: int) -> None:
        self._orders_max = orders_max
        self._count = 0
        self._orders: dict[OrderId, OrderState] = {}
        self._newest: dict[_Name, OrderId] = {}
        self._unindexed: deque[OrderState] = deque()
        """The newest orders, not in the two indexes above yet, oldest first."""
        self._added: deque[OrderState] = deque()
        """Added since the last look, oldest first."""
        self._batches: deque[tuple[StreamId, deque[OrderState]]] = deque()
        """(the newest entry at a look, the orders added before it), oldest first."""
        self._stored_to = STREAM_START
        self._lost_to = STREAM_START
        """Up to this entry there may be closed orders that did not fit."""
        self._has_lost_added = False
        """Whether there are such orders since the last look."""
        self._may_drop = False
        """Whether the database may have some of the orders here."""
        self.lost = 0
        """Orders that did not fit."""

    def __len__(self) -> int:
        """The number of orders here; an order that was added twice counts twice."""
        return self._count

    @property
    def is_complete(self) -> bool:
        """Whether every closed order is here or in the database."""
        return not self._has_lost_added and self._stored_to >= self._lost_to

    def add(self, closed: Sequence[OrderState]) -> None:
        """Add orders that committed events have closed; repetition changes nothing."""
        self._added += closed
        self._unindexed += closed
        self._count += len(closed)
        while self._count > self._orders_max:
            self._lose_oldest()
        self._index(_UNINDEXED_MAX)

    def _index(self, left: int) -> None:
        """Index the oldest unindexed orders, so that at most `left` remain."""
        unindexed = self._unindexed
        while len(unindexed) > left:
            order = unindexed.popleft()
            name = (order.account_id, order.market, order.client_order_id)
            self._orders[order.order_id] = order
            self._newest[name] = max(order.order_id, self._newest.get(name, order.order_id))

    def _lose_oldest(self) -> None:
        self.lost += 1
        while self._batches:
            newest_id, batch = self._batches[0]
            if batch:
                self._lost_to = max(self._lost_to, newest_id)
                self._drop(batch.popleft())
                return
            self._batches.popleft()
        self._has_lost_added = True
        self._drop(self._added.popleft())

    def look(self, newest_id: StreamId, stored_to: StreamId) -> None:
        """Record the newest event entry, and the entry up to which the database has the events."""
        if self._added:
            self._batches.append((newest_id, self._added))
            self._added = deque()
        if self._has_lost_added:
            self._lost_to, self._has_lost_added = newest_id, False
        self._stored_to = stored_to
        self._may_drop = True

    def drop_stored(self) -> None:
        """Drop orders that the database has; of many, only the first portion."""
        if not self._may_drop:
            return
        left = _DROPPED_AT_ONCE
        while self._batches and self._batches[0][0] <= self._stored_to:
            batch = self._batches[0][1]
            while batch:
                if not left:
                    return
                left -= 1
                self._drop(batch.popleft())
            self._batches.popleft()
        self._may_drop = False

    def _drop(self, order: OrderState) -> None:
        """Drop the oldest."""
        self._count -= 1
        if self._count < len(self._unindexed):
            self._unindexed.popleft()
            return
        name = (order.account_id, order.market, order.client_order_id)
        self._orders.pop(order.order_id, None)
        if self._newest.get(name) == order.order_id:
            del self._newest[name]

    def answer(self, query: OrderQuery, time: TimeMs) -> OrderReply | Refused:
        """Answer a query for an order that is not open."""
        self._index(0)
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
