"""Orders that an operator, or a delisting, cancels: some with each command, so that no command takes long."""

import msgspec

from engine_worker.core.configuration import Configuration
from engine_worker.core.drains import Drain
from engine_worker.core.messages import Messages
from engine_worker.core.replies import Replies
from engine_worker.core.shard_state import ShardState
from protocol.commands import CancelOrders, CancelResting
from protocol.configuration import MarketStatus
from protocol.market import ACCOUNT_SLOTS, SHARD_COUNT_MAX
from protocol.orders import CloseReason, RejectReason
from protocol.replies import Canceling
from protocol.units import OrderId


class OperatorCancels:
    """Begins to cancel the orders of an account or a market, and goes on with each command."""

    __slots__ = ("_configuration", "_messages", "_replies", "_state")

    def __init__(
        self, state: ShardState, messages: Messages, replies: Replies, configuration: Configuration
    ) -> None:
        self._state = state
        self._messages = messages
        self._replies = replies
        self._configuration = configuration

    def cancel_orders(self, command: CancelOrders) -> None:
        """Begin to cancel the orders of an account, or of a market of this shard."""
        state = self._state
        account_id, market = command.account_id, command.market
        if account_id:
            account = state.accounts.get(account_id)
            by_market = account.open_orders if account is not None else {}
            orders = len(by_market.get(market, ())) if market else sum(map(len, by_market.values()))
            last = OrderId(state.order_count * SHARD_COUNT_MAX + state.index)
            drain = Drain(account_id, market, CloseReason.CANCELED_BY_OPERATOR, up_to=last)
        elif market not in state.markets:
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.UNKNOWN_MARKET)
            return
        elif market not in state.not_trading:
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.MARKET_OPEN)
            return
        else:
            orders = len(state.markets[market].book.orders)
            drain = Drain(account_id, market, CloseReason.CANCELED_BY_OPERATOR)
        if orders:
            state.drains.append(drain)
        self._replies.reply(command.reply_to, Canceling(command.request_id, state.time, orders))

    def drain(self) -> None:
        """Cancel some of the orders that are to be canceled; what is left goes on with the next command."""
        state = self._state
        room = state.config.drained_per_command if state.config is not None else 1
        while state.drains and room:
            drain = state.drains.popleft()
            if drain.account_id:
                rest, room = self._drain_account(drain, room)
                if rest is not None:
                    state.drains.appendleft(rest)
                continue
            closed = state.markets[drain.market].drain(room, drain.reason, state.time, state.events)
            room -= len(closed)
            for message in closed:
                self._messages.send(state.slots[message.account_id % ACCOUNT_SLOTS], message)
            if state.markets[drain.market].book.orders:
                state.drains.appendleft(drain)
            elif state.market_configs[drain.market].status is MarketStatus.DELISTING:
                config = state.market_configs[drain.market]
                self._configuration.change_market(
                    msgspec.structs.replace(config, status=MarketStatus.DELISTED, version=config.version + 1)
                )

    def _drain_account(self, drain: Drain, room: int) -> tuple[Drain | None, int]:
        """Return what is left of a drain (None: nothing), and the room that is left."""
        state = self._state
        account = state.accounts.get(drain.account_id)
        by_market = account.open_orders if account is not None else {}
        chosen = [by_market.get(drain.market, {})] if drain.market else list(by_market.values())
        wanted = sorted(
            (
                order
                for orders in chosen
                for order in orders.values()
                if drain.after < order.order_id <= drain.up_to
            ),
            key=lambda order: order.order_id,
        )
        for order in wanted[:room]:
            self._messages.send(
                state.market_map.shards[order.market],
                CancelResting(order.order_id, order.account_id, order.market, 0, "", reason=drain.reason),
            )
        if len(wanted) <= room:
            return None, room - len(wanted)
        return msgspec.structs.replace(drain, after=wanted[room - 1].order_id), 0
