"""Counting in windows, shared between processes."""

import pytest

from functions.errors import ApiError
from protocol.units import AccountId, TimeMs
from runtime.settings import Settings
from serving.rate_limits import ORDERS_10S, REFUSALS, WEIGHT, Bucket, RateLimits, Windows, bucket, seconds_left

NOW = TimeMs(1_795_400_000_000)
ME = AccountId(1001)


def limits(**settings: int) -> RateLimits:
    return RateLimits(Settings(**settings))  # type: ignore[arg-type]


def test_what_was_added_while_an_exchange_was_under_way_is_kept() -> None:
    windows, weight = Windows(), Bucket(WEIGHT, "1.2.3.4", 7)
    windows.add(weight, 5)
    sent = windows.unsent()
    windows.add(weight, 2)
    windows.exchanged(sent, {weight: 100})
    assert windows.used(weight) == 102
    assert windows.unsent() == {weight: 2}


def test_windows_that_are_over_are_forgotten() -> None:
    windows = Windows()
    old, new = bucket(WEIGHT, "a", TimeMs(NOW - 60_000)), bucket(WEIGHT, "a", NOW)
    windows.add(old, 1)
    windows.add(new, 1)
    windows.forget_before(NOW)
    assert (windows.used(old), windows.used(new)) == (0, 1)


def test_weight_is_refused_with_429_until_the_minute_is_over() -> None:
    some = limits(request_weight_per_minute=10)
    assert some.charge("a", 10, NOW) == 10
    with pytest.raises(ApiError) as refusal:
        some.charge("a", 1, NOW)
    assert (refusal.value.code, refusal.value.status) == (-1003, 429)
    assert refusal.value.retry_after_s == seconds_left(WEIGHT, NOW)
    assert some.charge("b", 1, NOW) == 1
    assert some.charge("a", 1, TimeMs(NOW + 60_000)) == 1


def test_going_on_after_429_bans() -> None:
    some = limits(request_weight_per_minute=1)
    some.charge("a", 1, NOW)
    for _ in range(600):
        with pytest.raises(ApiError) as refusal:
            some.charge("a", 1, NOW)
        assert refusal.value.status == 429
    with pytest.raises(ApiError) as refusal:
        some.charge("a", 1, NOW)
    assert (refusal.value.code, refusal.value.status) == (-1003, 418)
    assert refusal.value.retry_after_s == seconds_left(REFUSALS, NOW)
    assert some.charge("a", 1, TimeMs(NOW + 120_000)) == 1


def test_order_counts() -> None:
    some = limits(orders_per_10s=2, orders_per_day=3)
    some.count_order(ME, NOW)
    some.count_order(ME, NOW)
    with pytest.raises(ApiError) as refusal:
        some.count_order(ME, NOW)
    assert (refusal.value.code, refusal.value.status) == (-1015, 429)
    assert refusal.value.message == "Too many new orders; current limit is 2 orders per 10 SECOND."
    assert refusal.value.retry_after_s == seconds_left(ORDERS_10S, NOW)
    later = TimeMs(NOW + 10_000)
    some.count_order(ME, later)
    with pytest.raises(ApiError, match="3 orders per 1 DAY"):
        some.count_order(ME, later)
    assert some.order_counts(ME, later) == (1, 3)


def test_a_forgiven_order_does_not_count_and_gives_no_credit() -> None:
    some = limits()
    some.count_order(ME, NOW)
    some.forgive_order(ME, NOW)
    some.forgive_order(ME, NOW)
    assert some.order_counts(ME, NOW) == (0, 0)


def test_switched_off() -> None:
    some = RateLimits(Settings(rate_limits_enabled=False, request_weight_per_minute=1, orders_per_10s=1))
    for _ in range(5):
        some.charge("a", 100, NOW)
        some.count_order(ME, NOW)
