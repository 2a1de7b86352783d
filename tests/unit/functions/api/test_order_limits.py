"""What a client is told of the limits on orders: those of everybody, and those that an operator has set."""

import pytest

from functions.api.rate_limits import order_limits, too_many_orders
from protocol.configuration import AccountLimits
from protocol.units import TimeMs
from runtime.settings import Settings

NOW = TimeMs(86_400_000 * 20_000 + 12_345)


def largest(own: AccountLimits | None) -> list[object]:
    return [each["limit"] for each in order_limits(Settings(orders_per_10s=50, orders_per_day=1_000), own)]


def test_the_smaller_limit_counts() -> None:
    assert largest(None) == largest(AccountLimits(3)) == [50, 1_000]
    assert largest(AccountLimits(1, orders_10s_max=7)) == [7, 1_000]
    assert largest(AccountLimits(1, orders_10s_max=70, orders_1d_max=100)) == [50, 100]


@pytest.mark.parametrize(
    ("own", "counts", "text", "seconds"),
    [
        (AccountLimits(1, orders_10s_max=7), (3, 3), "7 orders per 10 SECOND", 8),
        (AccountLimits(1, orders_1d_max=9), (3, 3), "9 orders per 1 DAY", 86_388),
        (AccountLimits(1, orders_10s_max=7, orders_1d_max=9), (3, 9), "9 orders per 1 DAY", 86_388),
        (AccountLimits(1, orders_10s_max=7, orders_1d_max=9), (7, 8), "7 orders per 10 SECOND", 8),
    ],
)
def test_a_refusal_says_which_limit_and_until_when(
    own: AccountLimits, counts: tuple[int, int], text: str, seconds: int
) -> None:
    error = too_many_orders(own, counts, NOW)
    assert (error.code, error.status, error.retry_after_s) == (-1015, 429, seconds)
    assert error.message == f"Too many new orders; current limit is {text}."
