"""POST /api/v1/faucet: credit one's own account, on a development installation."""

import secrets
from typing import Annotated

import msgspec

from functions.account.get_account import BalanceShape, balance_shape, balances
from functions.account.transfers import happened_long_ago
from functions.api.errors import ApiError, refusal, status_unknown, too_precise, unavailable
from functions.api.function import Function, Group, Security
from functions.api.idempotency import idempotency_key_of, name_of_key
from functions.api.json_body import read_body
from functions.api.ports import Call, Ports
from functions.users.verification import check_verified
from protocol.commands import Deposit
from protocol.replies import FundsReply, Refused
from protocol.units import AssetUnits, DecimalError, TooManyDecimalsError, parse_decimal


class FundsRequest(msgspec.Struct, frozen=True):
    """The asset and the amount, a decimal string."""

    asset: str
    amount: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": r"^[0-9]{1,20}(\.[0-9]{1,20})?$"})]


async def request_funds(ports: Ports, call: Call) -> BalanceShape:
    """Credit the account and return its funds in the asset."""
    if not ports.settings.has_faucet():
        raise ApiError(-1020, "This operation is not supported.", 403)
    await check_verified(ports, call)
    body = read_body(call.body, FundsRequest)
    markets = ports.markets
    if body.asset not in markets.assets:
        if markets.unknown_shards:
            raise unavailable()  # an unknown shard may have a market of the asset
        raise ApiError(-1130, "Data sent for parameter 'asset' is not valid.")
    amount = _amount(body.amount, markets.by_asset[body.asset].scale, ports.settings.faucet_amount_max)
    key = idempotency_key_of(call)
    name = name_of_key(key, body.asset, str(amount)) if key else secrets.token_hex(16)
    transfer_id = f"faucet-{name}"
    # Before the deposit is enqueued: a shard remembers transfers for a time only, the ledger for ever. A
    # repetition after that time would credit the account twice.
    if key and await happened_long_ago(
        ports, call.account_id, "deposit", transfer_id, body.asset, amount, call.now
    ):
        return next(
            balance for balance in await balances(ports, call, omit_zero=False) if balance.asset == body.asset
        )
    shards = ports.shards
    reply = await shards.submit(
        Deposit(
            shards.next_request_id(),
            shards.reply_to,
            call.account_id,
            body.asset,
            amount,
            transfer_id,
            key,
        )
    )
    match reply:
        case FundsReply(balances=(balance, *_)):
            return balance_shape(ports.known_markets, balance)
        case Refused():
            raise refusal(reply.reason)
        case _:
            raise status_unknown()


def _amount(text: str, scale: int, most: int) -> AssetUnits:
    try:
        amount = parse_decimal(text, scale)
    except TooManyDecimalsError as error:
        raise too_precise("amount") from error
    except DecimalError as error:
        raise ApiError(-1130, "Data sent for parameter 'amount' is not valid.") from error
    if not 0 < amount <= most * 10**scale:
        raise ApiError(-1130, "Data sent for parameter 'amount' is not valid.")
    return AssetUnits(amount)


FUNCTION = Function(
    "POST",
    "/api/v1/faucet",
    Group.USERS,
    "Credit yourself (development)",
    request_funds,
    security=Security.SESSION,
    body=FundsRequest,
    takes_idempotency_key=True,
)
