"""`exchange accounts`."""

from collections.abc import Callable

import msgspec
import rich_click as click

from cli.console import CommandError, console, print_json, running_settings
from cli.operating import operating
from cli.verifying import verified
from protocol.commands import CancelOrders, CloseAccount, ConfigureShard, LimitAccount
from protocol.configuration import AccountLimits, Role, ShardConfig
from protocol.replies import Canceling
from protocol.units import AccountId

_ACCOUNT = click.argument("account", type=click.IntRange(min=1))


@click.group()
def accounts() -> None:
    """Freeze, limit, verify and close accounts, and cancel their orders.

    Each subcommand but `verify` is a command signed with the operator's key, and is stored in the log of the
    account's shard.
    """


@accounts.command()
@_ACCOUNT
@click.option("--json", "as_json", is_flag=True, help="Print JSON: account, shard, balances, limits.")
def show(account: int, as_json: bool) -> None:
    """Show an account's funds and what an operator has set for it."""
    with operating() as operator:
        reply, shard = operator.funds(account), operator.shard_of(account)
        balances = [
            {
                "asset": balance.asset,
                "available": operator.shown(balance.available, balance.asset),
                "held": operator.shown(balance.held, balance.asset),
            }
            for balance in reply.balances
        ]
    limits = reply.limits if reply.limits is not None else AccountLimits(1)
    if as_json:
        print_json({"account": account, "shard": shard, "balances": balances, "limits": _named(limits)})
        return
    console.print(
        f"Account {account} is on shard {shard}, and {'frozen' if limits.is_frozen else 'not frozen'}."
    )
    for balance in balances:
        console.print(f"{balance['asset']}: {balance['available']} available, {balance['held']} held")
    for name, most in _named(limits).items():
        if most and name != "is_frozen":
            console.print(f"{name.replace('_', ' ')}: {most}")


@accounts.command()
@_ACCOUNT
def freeze(account: int) -> None:
    """Refuse an account's new orders and withdrawals. Its open orders stay; `cancel-orders` cancels them."""
    _limit(account, lambda limits: msgspec.structs.replace(limits, is_frozen=True))
    console.print(f"account {account} is frozen")


@accounts.command()
@_ACCOUNT
def thaw(account: int) -> None:
    """Let a frozen account place orders and withdraw again."""
    _limit(account, lambda limits: msgspec.structs.replace(limits, is_frozen=False))
    console.print(f"account {account} is not frozen")


@accounts.command()
@_ACCOUNT
@click.option(
    "--open-orders", type=click.IntRange(min=0), help="Open orders in all markets together; 0: no limit."
)
@click.option("--orders-10s", type=click.IntRange(min=0), help="Orders in ten seconds; 0: no separate limit.")
@click.option("--orders-1d", type=click.IntRange(min=0), help="Orders in a day (UTC); 0: no separate limit.")
def limit(account: int, open_orders: int | None, orders_10s: int | None, orders_1d: int | None) -> None:
    """Set an account's limits. What is not named stays as it is."""
    named = {"open_orders_max": open_orders, "orders_10s_max": orders_10s, "orders_1d_max": orders_1d}
    changes = {name: most for name, most in named.items() if most is not None}
    if not changes:
        raise click.UsageError("Name at least one limit.")
    _limit(account, lambda limits: msgspec.structs.replace(limits, **changes))
    console.print(f"account {account}: {', '.join(f'{name} {most}' for name, most in changes.items())}")


@accounts.command(name="limit-all")
@click.option(
    "--open-orders",
    type=click.IntRange(0, 2**31),
    help="Open orders of one account in all markets together; 0: no limit beyond those of its markets.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(0, 2**31),
    help="Orders of each shard's accounts that every other shard may have without having answered them; 0: "
    "no "
    "limit.",
)
def limit_all(open_orders: int | None, in_flight: int | None) -> None:
    """Set what every account, and all of a shard together, may have. What is not named stays as it is.

    Orders that are open stay; `exchangeInfo` tells clients (EXCHANGE_MAX_NUM_ORDERS).
    """
    named = {"open_orders_max": open_orders, "in_flight_max": in_flight}
    changes = {name: most for name, most in named.items() if most is not None}
    if not changes:
        raise click.UsageError("Name at least one limit.")
    with operating() as operator:
        for shard, current in operator.configs.items():
            config = msgspec.structs.replace(current, **changes, version=current.version + 1)

            def command(request_id: int, reply_to: str, config: ShardConfig = config) -> ConfigureShard:
                return ConfigureShard(request_id, reply_to, config)

            operator.tell(shard, Role.OPERATOR, command, "limit the orders")
    if open_orders is not None:
        console.print(f"every account: {open_orders or 'any number of'} open orders in all markets together")
    if in_flight is not None:
        console.print(f"every shard: {in_flight or 'any number of'} orders that another one has not answered")


@accounts.command(name="cancel-orders")
@_ACCOUNT
@click.option("--market", default="", help="In this market only.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def cancel_orders(account: int, market: str, yes: bool) -> None:
    """Cancel every open order of an account. Its owner can place new ones, unless it is frozen before."""
    if not yes:
        click.confirm(
            f"Cancel every open order of account {account}{' in ' + market if market else ''}?", abort=True
        )

    def command(request_id: int, reply_to: str) -> CancelOrders:
        return CancelOrders(request_id, reply_to, AccountId(account), market.upper())

    with operating() as operator:
        reply = operator.tell(
            operator.shard_of(account), Role.OPERATOR, command, f"cancel the orders of {account}"
        )
    assert isinstance(reply, Canceling)
    console.print(f"account {account}: {reply.orders} orders are being canceled")


@accounts.command(name="verify")
@click.argument("who", metavar="ACCOUNT|EMAIL")
def verify_address(who: str) -> None:
    """Mark the address of an account as verified, as if the mail had been answered.

    For programs, which cannot read mails, where EXCHANGE_VERIFICATION_REQUIRED is set. The account's activity
    shows it.
    """
    account = verified(running_settings(), who)
    if account is None:
        raise CommandError(f"There is no account {who}.")
    console.print(f"the address of account {account} is verified")


@accounts.command()
@_ACCOUNT
def close(account: int) -> None:
    """Let the shard forget an account that has no funds and no open orders.

    It comes back with its next deposit.
    """

    def command(request_id: int, reply_to: str) -> CloseAccount:
        return CloseAccount(request_id, reply_to, AccountId(account))

    with operating() as operator:
        operator.tell(operator.shard_of(account), Role.OPERATOR, command, f"close account {account}")
    console.print(f"account {account} is closed")


def _limit(account: int, change: Callable[[AccountLimits], AccountLimits]) -> None:
    with operating() as operator:
        current = operator.funds(account).limits
        limits = (
            AccountLimits(1)
            if current is None
            else msgspec.structs.replace(current, version=current.version + 1)
        )

        def command(request_id: int, reply_to: str) -> LimitAccount:
            return LimitAccount(request_id, reply_to, AccountId(account), change(limits))

        operator.tell(operator.shard_of(account), Role.OPERATOR, command, f"limit account {account}")


def _named(limits: AccountLimits) -> dict[str, int]:
    return {name: getattr(limits, name) for name in limits.__struct_fields__ if name != "version"}
