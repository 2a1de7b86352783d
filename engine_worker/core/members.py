"""Enum members under names of their own.

Looking a member up on its Enum class takes over 100 ns on Python 3.11, a module's name a tenth of that; the matching path compares
some ten of them per order.
"""

from protocol.orders import Liquidity, OrderStatus, OrderType, SelfTradePrevention, Side, TimeInForce

BUY, SELL = Side.BUY, Side.SELL
LIMIT, LIMIT_MAKER, MARKET = OrderType.LIMIT, OrderType.LIMIT_MAKER, OrderType.MARKET
GTC, IOC, FOK = TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK
IN_FLIGHT, NEW, PARTIALLY_FILLED = OrderStatus.IN_FLIGHT, OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED
FILLED, CANCELED = OrderStatus.FILLED, OrderStatus.CANCELED
EXPIRED, EXPIRED_IN_MATCH = OrderStatus.EXPIRED, OrderStatus.EXPIRED_IN_MATCH
MAKER, TAKER = Liquidity.MAKER, Liquidity.TAKER
PREVENT_NOTHING = SelfTradePrevention.NONE
EXPIRE_TAKER, EXPIRE_MAKER = SelfTradePrevention.EXPIRE_TAKER, SelfTradePrevention.EXPIRE_MAKER
