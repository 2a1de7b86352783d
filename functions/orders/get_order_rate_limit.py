"""GET /api/v3/rateLimit/order: the used part of the order limits."""

from functions.account.get_account import account_funds
from functions.api.function import Function, Group, Security
from functions.api.ports import Call, Ports
from functions.api.rate_limits import order_limits
from functions.api.shapes import CountedLimitShape


async def get_order_rate_limit(ports: Ports, call: Call) -> list[CountedLimitShape]:
    """Return the limits, including an operator's for this account, and the counts."""
    funds = await account_funds(ports, call)
    unknown = ports.order_counts.know_orders(call.account_id, call.now)
    if unknown is not None:
        await unknown
    counts = ports.order_counts.order_counts(call.account_id, call.now)
    limits = order_limits(ports.settings, funds.limits)
    return [{**limit, "count": count} for limit, count in zip(limits, counts, strict=True)]


FUNCTION = Function(
    "GET",
    "/api/v3/rateLimit/order",
    Group.ACCOUNT,
    "Order counts",
    get_order_rate_limit,
    security=Security.SIGNED,
    weight=40,
)
