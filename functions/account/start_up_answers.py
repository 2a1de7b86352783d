"""Endpoints that clients call at start-up besides the spot API; most lists are empty here."""

from collections.abc import Sequence
from typing import Annotated, Final, NotRequired, TypedDict

from msgspec import Meta

from functions.account.fees import commission_rate
from functions.account.get_account import balances
from functions.api.function import OPTIONAL_SYMBOL, Function, Group, Handler, Security
from functions.api.market_choice import all_markets
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, NoRows, Time, one_of
from protocol.market import Market
from protocol.units import format_decimal


class CoinShape(TypedDict):
    """An asset, and the account's funds in it."""

    coin: str
    name: str
    depositAllEnable: bool
    withdrawAllEnable: bool
    free: Amount
    locked: Amount
    freeze: Amount
    withdrawing: Amount
    ipoing: Amount
    ipoable: Amount
    storage: Amount
    isLegalMoney: bool
    trading: bool
    networkList: NoRows


class TradeFeeShape(TypedDict):
    """Fee rates of a market."""

    symbol: str
    makerCommission: Amount
    takerCommission: Amount


class SystemStatusShape(TypedDict):
    """Whether the exchange accepts orders."""

    status: Annotated[int, Meta(ge=0, le=1)]
    msg: Annotated[str, one_of(("normal", "system_maintenance"))]
    maintenanceFrom: NotRequired[Time]


class NoMarketsShape(TypedDict):
    """An empty list of markets."""

    symbols: NoRows


async def get_assets(ports: Ports, call: Call) -> list[CoinShape]:
    """Return the assets of the exchange, without deposit and withdrawal networks, and the account's funds."""
    all_markets(ports.markets)
    zero = format_decimal(0)
    return [
        {
            "coin": balance.asset,
            "name": balance.asset,
            "depositAllEnable": True,
            "withdrawAllEnable": True,
            "free": balance.free,
            "locked": balance.locked,
            "freeze": zero,
            "withdrawing": zero,
            "ipoing": zero,
            "ipoable": zero,
            "storage": zero,
            "isLegalMoney": False,
            "trading": True,
            "networkList": [],
        }
        for balance in await balances(ports, call, omit_zero=False)
    ]


def trade_fees(markets: Sequence[Market]) -> list[TradeFeeShape]:
    """Return the fee rates of each market."""
    return [
        {
            "symbol": market.symbol,
            "makerCommission": commission_rate(market.maker_fee_ppm),
            "takerCommission": commission_rate(market.taker_fee_ppm),
        }
        for market in markets
    ]


async def get_trade_fees(ports: Ports, call: Call) -> list[TradeFeeShape]:
    """Return the fee rates of the market `symbol`, or of all markets."""
    market = call.parameters.optional_market(ports.markets)
    return trade_fees(all_markets(ports.markets) if market is None else [market])


async def get_system_status(ports: Ports, call: Call) -> SystemStatusShape:
    """Return whether the exchange accepts orders (status 0) or is under maintenance (1).

    `maintenanceFrom` (not in Binance's API) is present when maintenance was announced or has begun.
    """
    since = ports.listing().maintenance_from
    if not since:
        return {"status": 0, "msg": "normal"}
    has_begun = call.now >= since
    return {
        "status": int(has_begun),
        "msg": "system_maintenance" if has_begun else "normal",
        "maintenanceFrom": since * call.time_scale,
    }


async def get_no_list(_ports: Ports, _call: Call) -> NoRows:
    """Return an empty list."""
    return []


async def get_no_markets(_ports: Ports, _call: Call) -> NoMarketsShape:
    """Return an empty list of markets."""
    return NoMarketsShape(symbols=[])


def _function(path: str, summary: str, handle: Handler) -> Function:
    return Function("GET", path, Group.MARKET_DATA, summary, handle, lenient=True, needs_nothing=True)


FUNCTIONS: Final = (
    Function(
        "GET",
        "/sapi/v1/capital/config/getall",
        Group.ACCOUNT,
        "Assets",
        get_assets,
        security=Security.SIGNED,
        lenient=True,
    ),
    Function(
        "GET",
        "/sapi/v1/asset/tradeFee",
        Group.ACCOUNT,
        "Fee rates",
        get_trade_fees,
        security=Security.SIGNED,
        parameters=(OPTIONAL_SYMBOL,),
        lenient=True,
    ),
    _function("/sapi/v1/margin/allPairs", "Margin pairs: none", get_no_list),
    _function("/sapi/v1/margin/isolated/allPairs", "Isolated margin pairs: none", get_no_list),
    _function("/sapi/v1/spot/delist-schedule", "Markets about to close: none", get_no_list),
    Function("GET", "/sapi/v1/system/status", Group.MARKET_DATA, "Status", get_system_status, lenient=True),
    _function("/fapi/v1/exchangeInfo", "Futures markets: none", get_no_markets),
    _function("/dapi/v1/exchangeInfo", "Delivery markets: none", get_no_markets),
)
