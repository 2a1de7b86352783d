"""Questions to a shard. Answers change nothing."""

from engine_worker.core import conservation as audit
from engine_worker.core.enums import IN_FLIGHT
from engine_worker.core.shard_state import ShardState
from protocol.orders import RejectReason
from protocol.replies import (
    AuditQuery,
    AuditReply,
    BalancesQuery,
    ConfigQuery,
    ConfigReply,
    FundsReply,
    OpenOrdersQuery,
    OrderQuery,
    OrderReply,
    OrdersReply,
    Query,
    Refused,
    Reply,
    stored_audit_row,
)
from protocol.units import TimeMs


def answer(state: ShardState, query: Query, time: TimeMs) -> tuple[str, Reply]:
    """Return (reply_to, reply). Changes nothing."""
    reply: Reply
    match query:
        case BalancesQuery(request_id, _, account_id):
            account = state.accounts.get(account_id)
            balances = account.balances() if account is not None else ()
            changed_time = account.changed_time if account is not None else TimeMs(0)
            reply = FundsReply(
                request_id, changed_time, balances, account.limits if account is not None else None
            )
        case OrderQuery(request_id, _, account_id, market, order_id, client_order_id):
            order = state.find_open(account_id, market, order_id, client_order_id)
            unknown = Refused(request_id, time, RejectReason.UNKNOWN_ORDER)
            reply = OrderReply(request_id, time, order) if order is not None else unknown
        case OpenOrdersQuery(request_id, _, account_id, market):
            account = state.accounts.get(account_id)
            by_market = account.open_orders if account is not None else {}
            chosen = [by_market.get(market, {})] if market else list(by_market.values())
            orders = [order for each in chosen for order in each.values() if order.status is not IN_FLIGHT]
            orders.sort(key=lambda order: order.order_id)
            reply = OrdersReply(request_id, time, tuple(orders))
        case ConfigQuery(request_id, _):
            configs = tuple(config for _, config in sorted(state.market_configs.items()))
            reply = ConfigReply(request_id, time, state.config, configs)
        case AuditQuery(request_id, _):
            reply = AuditReply(
                request_id,
                time,
                tuple(stored_audit_row(row) for row in audit.books(state)),
                state.open_order_count,
                state.command_count,
                digest=audit.digest(state),
                received=tuple(state.received.items()),
                sent=tuple(state.sent.items()),
            )
    return query.reply_to, reply
