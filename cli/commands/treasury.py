"""`exchange treasury`."""

from collections.abc import Callable

import rich_click as click

from cli.console import console
from cli.operating import operating
from protocol.commands import Deposit, Withdraw, WithdrawFees
from protocol.configuration import Role
from protocol.replies import FundsReply
from protocol.units import AccountId, AssetUnits, DecimalError, format_decimal, parse_decimal


class _Amount(click.ParamType[AssetUnits]):
    name = "amount"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> AssetUnits:
        if isinstance(value, int):
            return AssetUnits(value)
        try:
            units = parse_decimal(str(value))
        except DecimalError as error:
            self.fail(str(error), param, ctx)
        if units <= 0:
            self.fail("an amount must be more than 0", param, ctx)
        return AssetUnits(units)


_ID = click.option(
    "--id",
    "transfer_id",
    required=True,
    help="The transfer's own id, from the ledger it comes from. The same transfer given again moves nothing.",
)


@click.group()
def treasury() -> None:
    """Bring money in and take it out, by commands that the treasury's key signs.

    Each transfer has an id of its own, so that it can be repeated when nobody knows whether it has happened.
    """


@treasury.command()
@click.argument("account", type=click.IntRange(min=1))
@click.argument("asset")
@click.argument("amount", type=_Amount())
@_ID
def deposit(account: int, asset: str, amount: AssetUnits, transfer_id: str) -> None:
    """Credit an account."""

    def command(request_id: int, reply_to: str) -> Deposit:
        return Deposit(request_id, reply_to, AccountId(account), asset.upper(), amount, transfer_id)

    _move(account, command, "deposit")


@treasury.command()
@click.argument("account", type=click.IntRange(min=1))
@click.argument("asset")
@click.argument("amount", type=_Amount())
@_ID
def withdraw(account: int, asset: str, amount: AssetUnits, transfer_id: str) -> None:
    """Debit an account."""

    def command(request_id: int, reply_to: str) -> Withdraw:
        return Withdraw(request_id, reply_to, AccountId(account), asset.upper(), amount, transfer_id)

    _move(account, command, "withdraw")


@treasury.command(name="withdraw-fees")
@click.argument("asset")
@click.argument("amount", type=_Amount())
@click.option("--shard", type=click.IntRange(min=0), default=0, show_default=True, help="Which shard's fees.")
@_ID
def withdraw_fees(asset: str, amount: AssetUnits, shard: int, transfer_id: str) -> None:
    """Take fees out of the exchange. `exchange audit` shows what each shard has earned."""

    def command(request_id: int, reply_to: str) -> WithdrawFees:
        return WithdrawFees(request_id, reply_to, shard, asset.upper(), amount, transfer_id)

    with operating() as operator:
        if shard not in operator.configs:
            raise click.BadParameter(f"there are {len(operator.configs)} shards, from 0 on", param_hint="--shard")
        reply = operator.tell(shard, Role.TREASURY, command, "withdraw fees")
    assert isinstance(reply, FundsReply)
    (left,) = reply.balances
    console.print(f"shard {shard} has {format_decimal(left.available)} {left.asset} of fees left")


def _move(account: int, command: Callable[[int, str], Deposit | Withdraw], what: str) -> None:
    with operating() as operator:
        reply = operator.tell(operator.shard_of(account), Role.TREASURY, command, what)
    assert isinstance(reply, FundsReply)
    (balance,) = reply.balances
    console.print(
        f"account {account} has {format_decimal(balance.available)} {balance.asset} available, "
        f"{format_decimal(balance.held)} held"
    )
