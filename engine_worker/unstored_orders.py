"""Closed orders that the database may not have yet, so that no acknowledged order is ever unknown.

A shard's state has open orders only. Whoever asks for another one is sent to the database, which has what the
shard has committed only after a while. Until then the order is here. It is let go of when the ingest says
that its events are stored, which it says after the commit. When more orders wait than fit, the oldest are
dropped, and until the database has those too, the answer for an order that is not here is that it may be one
of them.
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
"""Orders let go of between two batches: some milliseconds."""
_UNINDEXED_MAX: Final = 20_000
"""Orders that a question has to index first: some milliseconds, too.

The database is seldom further behind.
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

    Which entry of the events an order is in is not asked when it is added, but from time to time: `look`
    tells the newest entry, and whatever was added before is in that one at the latest. Every batch adds some
    and few are asked for, so the newest are found by number and name only from when somebody asks.
    """

    def __init__(self, orders_max: int) -> None:
        self._orders_max = orders_max
        self._count = 0
        self._orders: dict[OrderId, OrderState] = {}
        self._newest: dict[_Name, OrderId] = {}
        self._unindexed: deque[OrderState] = deque()
        """The newest ones, which are not in the two above yet, oldest first."""
        self._added: deque[OrderState] = deque()
        """Since the last look, oldest first."""
        self._batches: deque[tuple[StreamId, deque[OrderState]]] = deque()
        """(the newest entry at a look, what was added before it), oldest first."""
        self._stored_to = STREAM_START
        self._lost_to = STREAM_START
        """Up to this entry there may be closed orders that did not fit."""
        self._has_lost_added = False
        """Whether there are such since the last look."""
        self._may_drop = False
        """Whether the database may have some that are still here."""
        self.lost = 0
        """Orders that did not fit."""

    def __len__(self) -> int:
        """How many orders are here; one that was added twice counts twice."""
        return self._count

    @property
    def is_complete(self) -> bool:
        """Whether every closed order is here or in the database."""
        return not self._has_lost_added and self._stored_to >= self._lost_to

    def add(self, closed: Sequence[OrderState]) -> None:
        """Take in orders that were closed by committed events; again changes nothing."""
        self._added += closed
        self._unindexed += closed
        self._count += len(closed)
        while self._count > self._orders_max:
            self._lose_oldest()
        self._index(_UNINDEXED_MAX)

    def _index(self, left: int) -> None:
        """Index the oldest of what is not yet, so that no more than `left` remain."""
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
        """Note the newest entry of the events, and up to which the database has them."""
        if self._added:
            self._batches.append((newest_id, self._added))
            self._added = deque()
        if self._has_lost_added:
            self._lost_to, self._has_lost_added = newest_id, False
        self._stored_to = stored_to
        self._may_drop = True

    def drop_stored(self) -> None:
        """Let go of orders that the database has; of many at once only the first."""
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
        """Let go of the oldest."""
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
