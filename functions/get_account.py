"""GET /api/v3/account: balances and rates."""

import msgspec

from functions.errors import status_unknown
from functions.function import Function, Group, Parameter, Security
from functions.ports import Call, Ports
from functions.rates import basis_points, commission_rate
from protocol.replies import BalancesQuery, FundsReply
from protocol.units import format_decimal


class BalanceShape(msgspec.Struct, gc=False):
    """Funds in one asset."""

    asset: str
    free: str
    locked: str


async def balances(ports: Ports, call: Call, *, omit_zero: bool) -> list[BalanceShape]:
    """Return the account's funds: every asset of the exchange, or only those that are not zero."""
    shards = ports.shards
    reply = await shards.query(
        ports.markets.shard_of_account(call.account_id),
        BalancesQuery(shards.next_request_id(), shards.reply_to, call.account_id),
    )
    if not isinstance(reply, FundsReply):
        raise status_unknown()
    funds = {balance.asset: (balance.available, balance.held) for balance in reply.balances}
    assets = dict.fromkeys((*ports.markets.assets, *funds))
    return [
        BalanceShape(asset, format_decimal(available), format_decimal(held))
        for asset in assets
        for available, held in [funds.get(asset, (0, 0))]
        if available or held or not omit_zero
    ]


async def get_account(ports: Ports, call: Call) -> object:
    """Return the account."""
    omit_zero = call.parameters.boolean("omitZeroBalances", default=False)
    maker = max(market.maker_fee_ppm for market in ports.markets.markets)
    taker = max(market.taker_fee_ppm for market in ports.markets.markets)
    return {
        "makerCommission": basis_points(maker),
        "takerCommission": basis_points(taker),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {
            "maker": commission_rate(maker),
            "taker": commission_rate(taker),
            "buyer": commission_rate(0),
            "seller": commission_rate(0),
        },
        "canTrade": True,
        "canWithdraw": True,
        "canDeposit": True,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": call.now * call.time_scale,
        "accountType": "SPOT",
        "balances": await balances(ports, call, omit_zero=omit_zero),
        "permissions": ["SPOT"],
        "uid": call.account_id,
    }


FUNCTION = Function(
    "GET",
    "/api/v3/account",
    Group.ACCOUNT,
    "Balances and fee rates",
    get_account,
    security=Security.SIGNED,
    weight=20,
    parameters=(Parameter("omitZeroBalances", "Leave out assets without funds.", kind="boolean"),),
)
