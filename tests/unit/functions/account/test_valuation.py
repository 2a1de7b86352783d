"""What funds are worth in another asset."""

from fractions import Fraction

import pytest

from functions.account.valuation import shown_worth, worth_in
from tests.support.market_log import market_map

MARKETS = market_map()
PRICES = {"BTCUSDT": 5_000_000, "ETHUSDT": 250_000, "SOLUSDT": 0}
"""50,000 and 2,500 USDT; SOL was never traded."""


@pytest.mark.parametrize(
    ("asset", "target", "worth"),
    [
        ("BTC", "BTC", 2),
        ("BTC", "USDT", 100_000),
        ("USDT", "BTC", Fraction(2, 50_000)),
        ("ETH", "BTC", Fraction(1, 10)),
        ("BTC", "ETH", 40),
        ("SOL", "BTC", 0),
        ("SOL", "USDT", 0),
    ],
)
def test_two_of_an_asset(asset: str, target: str, worth: Fraction) -> None:
    assert worth_in(asset, Fraction(2), target, MARKETS, PRICES) == worth


def test_a_worth_is_rounded_down() -> None:
    assert shown_worth(Fraction(2, 3)) == "0.66666666"
