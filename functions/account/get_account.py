"""GET /api/v3/account: balances and rates."""

from typing import Final

import msgspec

from functions.account.fees import basis_points, commission_rate
from functions.api.errors import status_unknown, unavailable
from functions.api.function import Function, Group, Parameter, Security
from functions.api.market_choice import all_markets
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, Time
from protocol.market import MarketMap
from protocol.orders import Balance
from protocol.replies import BalancesQuery, FundsReply
from protocol.units import AssetUnits

_NOTHING: Final = AssetUnits(0)


class BalanceShape(msgspec.Struct, gc=False):
    """Funds in one asset."""

    asset: str
    free: Amount
    locked: Amount


class RatesShape(msgspec.Struct):
    """Fees as fractions."""

    maker: Amount
    taker: Amount
    buyer: Amount
    seller: Amount


class AccountShape(msgspec.Struct, rename="camel"):
    """An account."""

    maker_commission: int
    taker_commission: int
    buyer_commission: int
    seller_commission: int
    commission_rates: RatesShape
    can_trade: bool
    can_withdraw: bool
    can_deposit: bool
    brokered: bool
    require_self_trade_prevention: bool
    prevent_sor: bool
    update_time: Time
    account_type: str
    balances: list[BalanceShape]
    permissions: list[str]
    uid: int


async def balances(ports: Ports, call: Call, *, omit_zero: bool) -> list[BalanceShape]:
    """Return the account's funds: every asset of the exchange, or only those that are not zero."""
    return _shown(ports, await account_funds(ports, call), omit_zero=omit_zero)


async def account_funds(ports: Ports, call: Call) -> FundsReply:
    """Return the account's funds and limits from its shard."""
    shards = ports.shards
    reply = await shards.query(
        ports.markets.shard_of_account(call.account_id),
        BalancesQuery(shards.next_request_id(), shards.reply_to, call.account_id),
    )
    if not isinstance(reply, FundsReply):
        raise status_unknown()
    return reply


def _shown(ports: Ports, reply: FundsReply, *, omit_zero: bool) -> list[BalanceShape]:
    by_asset = (
        {} if omit_zero else {asset: Balance(asset, _NOTHING, _NOTHING) for asset in ports.markets.assets}
    )
    by_asset |= {balance.asset: balance for balance in reply.balances}
    return [
        balance_shape(ports.known_markets, balance)
        for balance in by_asset.values()
        if balance.available or balance.held or not omit_zero
    ]


def balance_shape(markets: MarketMap, balance: Balance) -> BalanceShape:
    """Return funds in one asset, including one whose markets are all delisted.

    Raises:
        ApiError: 503; the shard that has a market of the asset has not published its configuration yet.
    """
    asset = balance.asset
    if asset not in markets.by_asset:
        raise unavailable()
    return BalanceShape(
        asset, markets.format_amount(balance.available, asset), markets.format_amount(balance.held, asset)
    )


async def get_account(ports: Ports, call: Call) -> AccountShape:
    """Return the account."""
    omit_zero = call.parameters.boolean("omitZeroBalances", default=False)
    markets = all_markets(ports.markets)
    funds = await account_funds(ports, call)
    is_frozen = funds.limits is not None and funds.limits.is_frozen
    # Each market has its own fees, and the answer has one pair: the highest, so that no order costs more than
    # it says.
    maker = max((market.maker_fee_ppm for market in markets), default=0)
    taker = max((market.taker_fee_ppm for market in markets), default=0)
    return AccountShape(
        maker_commission=basis_points(maker),
        taker_commission=basis_points(taker),
        buyer_commission=0,
        seller_commission=0,
        commission_rates=RatesShape(
            commission_rate(maker), commission_rate(taker), commission_rate(0), commission_rate(0)
        ),
        can_trade=not is_frozen,
        can_withdraw=not is_frozen,
        can_deposit=True,
        brokered=False,
        require_self_trade_prevention=False,
        prevent_sor=False,
        update_time=funds.time * call.time_scale,
        account_type="SPOT",
        balances=_shown(ports, funds, omit_zero=omit_zero),
        permissions=["SPOT"],
        uid=call.account_id,
    )


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
