"""The engine does what the oracle does, after every command of any sequence, on one shard and on three."""

import pytest
from hypothesis import HealthCheck, Phase, event, given, note, settings

from protocol.commands import Command, PlaceOrder
from protocol.orders import OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.units import AccountId, PriceTicks
from tests.properties.markets import MARKETS, market_map
from tests.properties.sequences import ACCOUNTS, commands_of, endowment, seeds
from tests.properties.twins import Twins

SWEEPER = 5
"""An account with enough of everything to trade the books empty, which shows who stood where."""

SEQUENCES = settings(
    max_examples=1_000,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


@pytest.mark.parametrize("shard_count", [1, 3])
@given(seed=seeds)
@SEQUENCES
def test_same_after_every_command(shard_count: int, seed: list[bytes]) -> None:
    run_against_oracle(shard_count, commands_of(seed))


def run_against_oracle(shard_count: int, commands: list[Command]) -> None:
    """Give the commands to engine and oracle, then trade the books empty; fail at the first difference."""
    twins = Twins(market_map(shard_count), (*ACCOUNTS, SWEEPER))
    for command in endowment((*ACCOUNTS, SWEEPER)):
        twins.apply(command)
    trade_count = 0
    for command in [*commands, *sweeps()]:
        note(f"{twins.time + 1}: {command}")
        trade_count += len(twins.apply(command).trades)
    twins.compare_all_orders()
    event("trades: " + ("none" if not trade_count else "few" if trade_count < 5 else "many"))


def sweeps() -> list[PlaceOrder]:
    """Return orders that take whatever rests, from front to back."""
    return [
        PlaceOrder(
            request_id=9_000 + number,
            reply_to="test",
            account_id=AccountId(SWEEPER),
            client_order_id=f"sweep-{market.symbol}-{side.name}-{number}",
            market=market.symbol,
            side=side,
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.IOC,
            price=market.price_max if side is Side.BUY else PriceTicks(1),
            quantity=market.quantity_max,
            self_trade_prevention=SelfTradePrevention.NONE,
        )
        for market in MARKETS
        for side in Side
        for number in range(2)
    ]
