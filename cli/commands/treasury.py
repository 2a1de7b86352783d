"""`exchange treasury`."""

import rich_click as click

from cli.console import console
from cli.operating import operating
from protocol.commands import Deposit, Withdraw, WithdrawFees
from protocol.configuration import Role
from protocol.replies import FundsReply
from protocol.units import AccountId, DecimalError, parse_decimal


class _Amount(click.ParamType[str]):
    """A decimal number; its asset determines the allowed decimals."""

    name = "amount"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            units = parse_decimal(text)
        except DecimalError as error:
            self.fail(str(error), param, ctx)
        if units <= 0:
            self.fail("an amount must be more than 0", param, ctx)
        return text


_ID = click.option(
    "--id",
    "transfer_id",
    required=True,
    help="The transfer's own id, from the ledger it comes from. The same transfer given again moves nothing.",
)


@click.group()
def treasury() -> None:
    """Deposit and withdraw money, by commands signed with the treasury's key.

    Each transfer has its own id, so that it can be repeated if its outcome is unknown.
    """


@treasury.command()
@click.argument("account", type=click.IntRange(min=1))
@click.argument("asset")
@click.argument("amount", type=_Amount())
@_ID
def deposit(account: int, asset: str, amount: str, transfer_id: str) -> None:
    """Credit an account."""
    _move(Deposit, account, asset.upper(), amount, transfer_id)


@treasury.command()
@click.argument("account", type=click.IntRange(min=1))
@click.argument("asset")
@click.argument("amount", type=_Amount())
@_ID
def withdraw(account: int, asset: str, amount: str, transfer_id: str) -> None:
    """Debit an account."""
    _move(Withdraw, account, asset.upper(), amount, transfer_id)


@treasury.command(name="withdraw-fees")
@click.argument("asset")
@click.argument("amount", type=_Amount())
@click.option("--shard", type=click.IntRange(min=0), default=0, show_default=True, help="Which shard's fees.")
@_ID
def withdraw_fees(asset: str, amount: str, shard: int, transfer_id: str) -> None:
    """Take fees out of the exchange. `exchange audit` shows what each shard has earned."""
    asset = asset.upper()
    with operating() as operator:
        units = operator.amount(amount, asset)

        def command(request_id: int, reply_to: str) -> WithdrawFees:
            return WithdrawFees(request_id, reply_to, shard, asset, units, transfer_id)

        if shard not in operator.configs:
            raise click.BadParameter(
                f"there are {len(operator.configs)} shards, from 0 on", param_hint="--shard"
            )
        reply = operator.tell(shard, Role.TREASURY, command, "withdraw fees")
        assert isinstance(reply, FundsReply)
        left = operator.shown(reply.balances[0].available, asset)
    console.print(f"shard {shard} has {left} {asset} of fees left")


def _move(kind: type[Deposit | Withdraw], account: int, asset: str, amount: str, transfer_id: str) -> None:
    with operating() as operator:
        units = operator.amount(amount, asset)

        def command(request_id: int, reply_to: str) -> Deposit | Withdraw:
            return kind(request_id, reply_to, AccountId(account), asset, units, transfer_id)

        reply = operator.tell(operator.shard_of(account), Role.TREASURY, command, kind.__name__.lower())
        assert isinstance(reply, FundsReply)
        (balance,) = reply.balances
        available, held = operator.shown(balance.available, asset), operator.shown(balance.held, asset)
    console.print(f"account {account} has {available} {asset} available, {held} held")
