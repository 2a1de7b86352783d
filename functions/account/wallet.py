"""The wallet endpoints that libraries use (`/sapi`): funds, deposits, withdrawals, and the key's permissions.

The exchange has no networks, no addresses and only the spot wallet; the answers are empty where Binance has
more.
"""

from datetime import UTC, datetime
from fractions import Fraction
from typing import Annotated, Any, Final, NotRequired, TypedDict

from msgspec import Meta

from functions.account.get_account import account_funds, balance_shape
from functions.account.valuation import shown_worth, worth_in
from functions.api.errors import invalid_parameter, mandatory_missing, unavailable
from functions.api.function import (
    ASSET,
    END_TIME,
    START_TIME,
    Function,
    Group,
    Parameter,
    Security,
    limit_parameter,
)
from functions.api.key_permissions import DEFAULT_SCOPES, Scope
from functions.api.market_choice import all_markets, asset_wanted
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, NoRows, Nothing, Time, Zero, one_of
from functions.repositories.api_keys import KeyTerms
from protocol.orders import Balance
from protocol.units import format_decimal

Worth = Annotated[str, Meta(pattern=r"^0$|^[0-9]{1,30}\.[0-9]{8}$")]
Moment = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}$")]
_ZERO: Final = format_decimal(0)
_NETWORK = ""
"""Transfers use no network: operators and the faucet make them."""
_INTERNAL: Final = 1
_SPOT_WALLET: Final = 0
_DEPOSITED, _WITHDRAWN = 1, 6
"""Binance's status codes of completed transfers."""
_DEPOSIT_STATUSES: Final = frozenset({0, 1, 2, 6, 7, 8})
_WITHDRAWAL_STATUSES: Final = frozenset(range(7))
_LIMIT_MAX: Final = 1000
_BTC: Final = "BTC"


class DepositAddressShape(TypedDict):
    """A deposit address: all fields are empty."""

    coin: str
    address: str
    tag: str
    url: str


class DepositShape(TypedDict):
    """A deposit."""

    id: str
    amount: Amount
    coin: str
    network: str
    status: int
    address: str
    addressTag: str
    txId: str
    insertTime: Time
    completeTime: Time
    transferType: int
    confirmTimes: str
    unlockConfirm: int
    walletType: int


class WithdrawalShape(TypedDict):
    """A withdrawal. Times are texts, in UTC."""

    id: str
    amount: Amount
    transactionFee: Zero
    coin: str
    status: int
    address: str
    txId: str
    applyTime: Moment
    network: str
    transferType: int
    withdrawOrderId: str
    info: str
    confirmNo: int
    walletType: int
    txKey: str
    completeTime: Moment


class KeyRestrictionsShape(TypedDict):
    """The permissions of a key."""

    ipRestrict: bool
    createTime: Time
    tradingAuthorityExpirationTime: NotRequired[Time]
    enableReading: bool
    enableSpotAndMarginTrading: bool
    enableWithdrawals: bool
    enableInternalTransfer: bool
    enableMargin: bool
    enableFutures: bool
    permitsUniversalTransfer: bool
    enableVanillaOptions: bool
    enableFixApiTrade: bool
    enableFixReadOnly: bool
    enablePortfolioMarginTrading: bool


class AccountStatusShape(TypedDict):
    """Whether the account may trade."""

    data: Annotated[str, one_of(("Normal", "Locked"))]


class TradingStatusShape(TypedDict):
    """Whether the account may trade with its keys."""

    isLocked: bool
    plannedRecoverTime: Time
    triggerCondition: Nothing
    updateTime: Time


class TradingStatusesShape(TypedDict):
    """The trading status in Binance's envelope."""

    data: TradingStatusShape


class UserAssetShape(TypedDict):
    """The account's funds in one asset."""

    asset: str
    free: Amount
    locked: Amount
    freeze: Zero
    withdrawing: Zero
    ipoable: Zero
    btcValuation: Worth


class WalletShape(TypedDict):
    """The value of a wallet."""

    activate: bool
    balance: Amount
    walletName: Annotated[str, one_of(("Spot",))]


class AssetDetailShape(TypedDict):
    """The conditions for depositing and withdrawing an asset."""

    minWithdrawAmount: Amount
    depositStatus: bool
    withdrawFee: int
    withdrawStatus: bool
    depositTip: str


class NoRowsShape(TypedDict):
    """An empty page."""

    rows: NoRows
    total: int


class NoDustShape(TypedDict):
    """Conversions of small balances: none."""

    total: int
    userAssetDribblets: NoRows


async def get_deposit_address(ports: Ports, call: Call) -> DepositAddressShape:
    """Return the deposit address of an asset: empty."""
    coin = asset_wanted(ports, call.parameters, "coin")
    if coin is None:
        raise mandatory_missing("coin")
    return {"coin": coin, "address": "", "tag": "", "url": ""}


async def get_deposits(ports: Ports, call: Call) -> list[DepositShape]:
    """Return the account's deposits, newest first."""
    rows = await _transfers(ports, call, "deposit", "txId", _DEPOSITED, _DEPOSIT_STATUSES)
    return [
        {
            "id": transfer_id,
            "amount": amount,
            "coin": asset,
            "network": _NETWORK,
            "status": _DEPOSITED,
            "address": "",
            "addressTag": "",
            "txId": transfer_id,
            "insertTime": time * call.time_scale,
            "completeTime": time * call.time_scale,
            "transferType": _INTERNAL,
            "confirmTimes": "1/1",
            "unlockConfirm": 1,
            "walletType": _SPOT_WALLET,
        }
        for transfer_id, asset, amount, time in rows
    ]


async def get_withdrawals(ports: Ports, call: Call) -> list[WithdrawalShape]:
    """Return the account's withdrawals, newest first."""
    rows = await _transfers(ports, call, "withdrawal", "withdrawOrderId", _WITHDRAWN, _WITHDRAWAL_STATUSES)
    return [
        {
            "id": transfer_id,
            "amount": amount,
            "transactionFee": "0",
            "coin": asset,
            "status": _WITHDRAWN,
            "address": "",
            "txId": transfer_id,
            "applyTime": _text_of(time),
            "network": _NETWORK,
            "transferType": _INTERNAL,
            "withdrawOrderId": transfer_id,
            "info": "",
            "confirmNo": 1,
            "walletType": _SPOT_WALLET,
            "txKey": "",
            "completeTime": _text_of(time),
        }
        for transfer_id, asset, amount, time in rows
    ]


async def get_key_restrictions(ports: Ports, call: Call) -> KeyRestrictionsShape:
    """Return the permissions of the request's API key."""
    # A ticket is not in the database: it may read and trade, and its creation time is that of its session.
    terms = await ports.api_keys.terms(call.api_key) or KeyTerms(call.now, DEFAULT_SCOPES, False, None)
    shape: KeyRestrictionsShape = {
        "ipRestrict": terms.has_networks,
        "createTime": terms.created_time * call.time_scale,
        "enableReading": Scope.READ in terms.scopes,
        "enableSpotAndMarginTrading": Scope.TRADE in terms.scopes,
        "enableWithdrawals": Scope.WITHDRAW in terms.scopes,
        "enableInternalTransfer": False,
        "enableMargin": False,
        "enableFutures": False,
        "permitsUniversalTransfer": False,
        "enableVanillaOptions": False,
        "enableFixApiTrade": False,
        "enableFixReadOnly": False,
        "enablePortfolioMarginTrading": False,
    }
    if terms.expires_time is not None:
        shape["tradingAuthorityExpirationTime"] = terms.expires_time * call.time_scale
    return shape


async def get_account_status(ports: Ports, call: Call) -> AccountStatusShape:
    """Return whether the account may trade: Normal, or Locked if an operator has frozen it."""
    return {"data": "Locked" if await _is_frozen(ports, call) else "Normal"}


async def get_trading_status(ports: Ports, call: Call) -> TradingStatusesShape:
    """Return whether the account may trade with its keys.

    No condition locks an account automatically.
    """
    return {
        "data": {
            "isLocked": await _is_frozen(ports, call),
            "plannedRecoverTime": 0,
            "triggerCondition": Nothing(),
            "updateTime": call.now * call.time_scale,
        }
    }


async def get_user_assets(ports: Ports, call: Call) -> list[UserAssetShape]:
    """Return the account's non-zero assets; `btcValuation` is 0 unless requested."""
    asset = asset_wanted(ports, call.parameters, "asset")
    with_worth = call.parameters.boolean("needBtcValuation", default=False)
    balances = [
        balance
        for balance in (await account_funds(ports, call)).balances
        if balance.available or balance.held
    ]
    prices = await _prices(ports) if with_worth else {}
    shapes: list[UserAssetShape] = []
    for balance in balances:
        if asset not in (None, balance.asset):
            continue
        shape = balance_shape(ports.known_markets, balance)
        worth = worth_in(balance.asset, _amount(ports, balance), _BTC, ports.known_markets, prices)
        shapes.append(
            {
                "asset": shape.asset,
                "free": shape.free,
                "locked": shape.locked,
                "freeze": "0",
                "withdrawing": "0",
                "ipoable": "0",
                "btcValuation": shown_worth(worth) if with_worth else "0",
            }
        )
    return shapes


async def get_wallet_balance(ports: Ports, call: Call) -> list[WalletShape]:
    """Return the value of the account's only wallet in `quoteAsset`, by last prices.

    Assets without a price in that asset count as 0.
    """
    target = asset_wanted(ports, call.parameters, "quoteAsset") or _BTC
    funds, prices = await account_funds(ports, call), await _prices(ports)
    worth = sum(
        (
            worth_in(balance.asset, _amount(ports, balance), target, ports.known_markets, prices)
            for balance in funds.balances
        ),
        Fraction(0),
    )
    return [{"activate": True, "balance": shown_worth(worth), "walletName": "Spot"}]


async def get_asset_details(ports: Ports, call: Call) -> dict[str, AssetDetailShape]:
    """Return the conditions for deposits and withdrawals: no network."""
    all_markets(ports.markets)
    chosen_asset = asset_wanted(ports, call.parameters, "asset")
    return {
        asset: {
            "minWithdrawAmount": _ZERO,
            "depositStatus": False,
            "withdrawFee": 0,
            "withdrawStatus": False,
            "depositTip": "There is no network to deposit by.",
        }
        for asset in ports.markets.assets
        if chosen_asset in (None, asset)
    }


async def get_nothing(_ports: Ports, _call: Call) -> NoRows:
    """Return an empty list."""
    return []


async def get_no_rows(_ports: Ports, _call: Call) -> NoRowsShape:
    """Return an empty page."""
    return {"rows": [], "total": 0}


async def get_no_dust(_ports: Ports, _call: Call) -> NoDustShape:
    """Return the conversions of small balances: none."""
    return {"total": 0, "userAssetDribblets": []}


async def _transfers(
    ports: Ports, call: Call, kind: str, id_name: str, done: int, statuses: frozenset[int]
) -> list[tuple[str, str, str, int]]:
    """Return (id, asset, amount, time) of transfers; all those in the database are completed."""
    parameters, markets = call.parameters, ports.known_markets
    coin = asset_wanted(ports, parameters, "coin")
    status = parameters.integer("status")
    if status is not None and status not in statuses:
        raise invalid_parameter("status")
    start, end = parameters.time_range()
    limit, offset = parameters.limit(_LIMIT_MAX, _LIMIT_MAX), parameters.integer("offset") or 0
    transfer_id = parameters.optional(id_name)
    # After all parameters were checked: a bad one is refused whatever the others are.
    if status not in (None, done):
        return []
    await ports.ingestion.catch_up(ports.markets.shard_of_account(call.account_id))
    transfers = await ports.ledger.transfers(
        call.account_id,
        kind,
        asset=coin,
        transfer_id=transfer_id,
        start=start,
        end=end,
        limit=limit,
        offset=offset,
    )
    if any(transfer.asset not in markets.by_asset for transfer in transfers):
        # the shard that has a market of the asset has not published its configuration yet
        raise unavailable()
    return [
        (
            transfer.transfer_id,
            transfer.asset,
            markets.format_amount(transfer.amount, transfer.asset),
            transfer.time,
        )
        for transfer in transfers
    ]


async def _is_frozen(ports: Ports, call: Call) -> bool:
    limits = (await account_funds(ports, call)).limits
    return limits is not None and limits.is_frozen


async def _prices(ports: Ports) -> dict[str, int]:
    symbols = [market.symbol for market in ports.markets.markets]
    tickers = await ports.read_models.tickers(symbols)
    return {
        symbol: (ticker.last or ticker.previous_close) if ticker else 0
        for symbol, ticker in zip(symbols, tickers, strict=True)
    }


def _amount(ports: Ports, balance: Balance) -> Fraction:
    """Return the total balance, in whole units of the asset."""
    markets = ports.known_markets
    if balance.asset not in markets.by_asset:
        raise unavailable()
    return Fraction(balance.available + balance.held, 10 ** markets.by_asset[balance.asset].scale)


def _text_of(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _function(path: str, summary: str, handle: Any, *parameters: Parameter, method: str = "GET") -> Function:
    return Function(
        method,
        path,
        Group.ACCOUNT,
        summary,
        handle,
        security=Security.SIGNED,
        parameters=parameters,
        lenient=True,
    )


_COIN: Final = ASSET._replace(name="coin")
_PAGE: Final = (START_TIME, END_TIME, Parameter("offset", "How many to leave out.", kind="integer"))
_STATUS: Final = Parameter("status", "Binance's number; here everything is done at once.", kind="integer")

FUNCTIONS: Final = (
    _function(
        "/sapi/v1/capital/deposit/address",
        "Deposit address: none",
        get_deposit_address,
        _COIN._replace(required=True),
    ),
    _function(
        "/sapi/v1/capital/deposit/hisrec",
        "Deposits",
        get_deposits,
        _COIN,
        _STATUS,
        *_PAGE,
        limit_parameter(_LIMIT_MAX, _LIMIT_MAX),
        Parameter("txId", "The transfer's id."),
    ),
    _function(
        "/sapi/v1/capital/withdraw/history",
        "Withdrawals",
        get_withdrawals,
        _COIN,
        _STATUS,
        *_PAGE,
        limit_parameter(_LIMIT_MAX, _LIMIT_MAX),
        Parameter("withdrawOrderId", "The transfer's id."),
    ),
    _function("/sapi/v1/account/apiRestrictions", "What the API key may do", get_key_restrictions),
    _function("/sapi/v1/account/status", "Whether the account may trade", get_account_status),
    _function(
        "/sapi/v1/account/apiTradingStatus", "Whether the account may trade by its keys", get_trading_status
    ),
    _function(
        "/sapi/v3/asset/getUserAsset",
        "Assets of which the account has something",
        get_user_assets,
        ASSET,
        Parameter("needBtcValuation", "Whether to value them in BTC.", kind="boolean"),
        method="POST",
    ),
    _function(
        "/sapi/v1/asset/assetDetail", "How assets are deposited and withdrawn", get_asset_details, ASSET
    ),
    _function(
        "/sapi/v1/asset/wallet/balance",
        "What the wallet is worth",
        get_wallet_balance,
        ASSET._replace(name="quoteAsset", description="Asset to value it in; BTC by default."),
    ),
    _function("/sapi/v1/asset/get-funding-asset", "Funding wallet: none", get_nothing, method="POST"),
    _function("/sapi/v1/asset/assetDividend", "Dividends: none", get_no_rows),
    _function("/sapi/v1/asset/transfer", "Transfers between wallets: none", get_no_rows),
    _function("/sapi/v1/asset/dribblet", "Converted small funds: none", get_no_dust),
)
