"""What the matching path uses most, under names that cost less.

Looking an Enum's member up on its class takes over 100 ns on Python 3.11, a module's name a tenth of that; an
order needs some ten of them. Naming the unit of a computed amount (`AssetUnits(5)`, which is 5) is a call of
50 ns; a trade needs some thirty of them. So what is made of computed amounts is made by the same classes
under names that take plain numbers.
"""

from collections.abc import Callable
from typing import Final

from protocol.commands import MakerFill, TakerFill
from protocol.events import DepthChanged, LevelChange, OrderFilled, TradeExecuted
from protocol.orders import (
    Balance,
    FillReport,
    Liquidity,
    OrderState,
    OrderStatus,
    OrderType,
    Prevented,
    SelfTradePrevention,
    Side,
    TimeInForce,
)

BUY, SELL = Side.BUY, Side.SELL
LIMIT, LIMIT_MAKER, MARKET = OrderType.LIMIT, OrderType.LIMIT_MAKER, OrderType.MARKET
GTC, IOC, FOK = TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK
IN_FLIGHT, NEW, PARTIALLY_FILLED = OrderStatus.IN_FLIGHT, OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED
FILLED, CANCELED = OrderStatus.FILLED, OrderStatus.CANCELED
EXPIRED, EXPIRED_IN_MATCH = OrderStatus.EXPIRED, OrderStatus.EXPIRED_IN_MATCH
MAKER, TAKER = Liquidity.MAKER, Liquidity.TAKER
PREVENT_NOTHING = SelfTradePrevention.NONE
EXPIRE_TAKER, EXPIRE_MAKER = SelfTradePrevention.EXPIRE_TAKER, SelfTradePrevention.EXPIRE_MAKER

make_order: Final[Callable[..., OrderState]] = OrderState
make_balance: Final[Callable[..., Balance]] = Balance
make_order_filled: Final[Callable[..., OrderFilled]] = OrderFilled
make_fill_report: Final[Callable[..., FillReport]] = FillReport
make_prevented: Final[Callable[..., Prevented]] = Prevented
make_trade: Final[Callable[..., TradeExecuted]] = TradeExecuted
make_maker_fill: Final[Callable[..., MakerFill]] = MakerFill
make_taker_fill: Final[Callable[..., TakerFill]] = TakerFill
make_level_change: Final[Callable[..., LevelChange]] = LevelChange
make_depth_changed: Final[Callable[..., DepthChanged]] = DepthChanged
