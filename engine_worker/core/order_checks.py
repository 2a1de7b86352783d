"""What an order must be for its account to place it, and what it must hold.

These are the checks that need no book; the market's half has those that do (market_state.py).
"""

from engine_worker.core.accounts import Account
from engine_worker.core.enums import BUY, GTC, IOC, LIMIT_MAKER, MARKET, SELL
from protocol.commands import PlaceOrder
from protocol.market import Market
from protocol.orders import RejectReason, are_supported


def reason_to_refuse(
    command: PlaceOrder, market: Market, account: Account | None, open_orders_max: int
) -> RejectReason | None:
    """Return why an account may not place an order, whatever it has; None: it may.

    `open_orders_max` is how many open orders an account may have in all markets.
    """
    order_type, quantity, quote_quantity = command.order_type, command.quantity, command.quote_quantity
    price = command.price
    is_market = order_type is MARKET
    needs_price = True
    if is_market:
        by_one = (quantity > 0 and not quote_quantity) or (quote_quantity > 0 and not quantity)
        fits = by_one and command.time_in_force is IOC
        needs_price = not (command.bound_by_book and (command.side is SELL or quote_quantity))
    else:
        fits = quantity > 0 and not quote_quantity and not command.bound_by_book
        fits = fits and (order_type is not LIMIT_MAKER or command.time_in_force is GTC)
    if not fits or (command.terms is not None and not are_supported(command.terms)):
        return RejectReason.INVALID_COMBINATION
    if account is not None and command.client_order_id in account.client_order_ids:
        return RejectReason.DUPLICATE_CLIENT_ORDER_ID
    if not 1 <= price <= market.price_max if needs_price else price:
        return RejectReason.PRICE_OUT_OF_RANGE
    if quantity and not market.quantity_min <= quantity <= market.quantity_max:
        return RejectReason.QUANTITY_OUT_OF_RANGE
    notional = quote_quantity if is_market else price * quantity * market.quote_per_tick_lot
    if notional < market.notional_min and not (is_market and quantity):
        return RejectReason.NOTIONAL_TOO_SMALL
    if account is not None:
        open_here = account.open_orders.get(command.market)
        if open_here is not None and len(open_here) >= market.open_orders_max:
            return RejectReason.TOO_MANY_OPEN_ORDERS
        if len(account.client_order_ids) >= open_orders_max:
            return RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL
    return None


def hold_for(command: PlaceOrder, market: Market, account: Account) -> int:
    """Return what a valid order must hold; 0 when that is not available."""
    is_buy = command.side is BUY
    funds = account.funds.get(market.quote if is_buy else market.base)
    if funds is None:
        return 0
    available = funds.available
    if command.order_type is not MARKET:
        grid = command.price * market.quote_per_tick_lot if is_buy else market.base_per_lot
        needed = command.quantity * grid
    elif command.quote_quantity:
        if is_buy:
            needed = command.quote_quantity
        elif command.bound_by_book:
            # What it has to sell is known when its market has been asked. Until then nobody else may sell
            # it.
            needed = min(available // market.base_per_lot, market.quantity_max) * market.base_per_lot
        else:
            lots = -(-command.quote_quantity // (command.price * market.quote_per_tick_lot))
            needed = min(available // market.base_per_lot, lots) * market.base_per_lot
    elif is_buy:
        needed = min(available, command.price * command.quantity * market.quote_per_tick_lot)
    else:
        needed = command.quantity * market.base_per_lot
    return needed if needed <= available else 0
