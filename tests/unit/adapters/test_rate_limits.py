"""Counting in windows, shared between processes."""

from itertools import pairwise

import pytest

from adapters.rate_limits import (
    CONNECTIONS,
    ORDERS_10S,
    RAW_REQUESTS,
    REFUSALS_BEFORE_BAN,
    WEIGHT,
    RateLimits,
    seconds_left,
)
from functions.api.errors import ApiError
from protocol.units import AccountId, TimeMs
from runtime.settings import Settings

NOW = TimeMs(1_795_400_000_000)
ME = AccountId(1001)


def limits(**settings: int) -> RateLimits:
    """Return the limits of a process that shares them with nobody: it decides all by itself."""
    return RateLimits(Settings(**settings))  # type: ignore[arg-type]


def charge(some: RateLimits, address: str, weight: int, now: int = NOW) -> int:
    """Charge, and return what the network has used."""
    assert some.charge(address, weight, TimeMs(now)) is None
    return some.weight_used(address, TimeMs(now))


def correct(some: RateLimits, address: str, more: int) -> int:
    assert some.correct(address, more, NOW) is None
    return some.weight_used(address, NOW)


def test_weight_is_refused_with_429_until_the_minute_is_over() -> None:
    some = limits(request_weight_per_minute=10)
    assert charge(some, "a", 10, NOW) == 10
    with pytest.raises(ApiError) as refusal:
        some.charge("a", 1, NOW)
    assert (refusal.value.code, refusal.value.status) == (-1003, 429)
    assert refusal.value.retry_after_s == seconds_left(WEIGHT, NOW)
    assert charge(some, "b", 1, NOW) == 1
    assert charge(some, "a", 1, NOW + 60_000) == 1


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
    assert refusal.value.retry_after_s == 120
    assert refusal.value.message.startswith(
        f"Way too much request weight used; IP banned until {NOW + 120_000}."
    )
    with pytest.raises(ApiError) as refusal:
        some.charge("a", 1, TimeMs(NOW + 119_999))
    assert (refusal.value.status, refusal.value.retry_after_s) == (418, 1)
    assert charge(some, "a", 1, NOW + 120_000) == 1


def ban(some: RateLimits, address: str, now: int) -> int:
    """Go on until banned, from a time on; return for how many seconds."""
    for _ in range(2 * REFUSALS_BEFORE_BAN):
        try:
            some.charge(address, 10, TimeMs(now))
        except ApiError as error:
            if error.status == 418:
                return error.retry_after_s or 0
    raise AssertionError("not banned")


def test_bans_grow_from_two_minutes_to_three_days_and_are_forgiven() -> None:
    """From 2 minutes to 3 days for repeat offenders: Binance's rest-api.md."""
    some, now, seconds = limits(request_weight_per_minute=1), int(NOW), []
    for _ in range(8):
        seconds.append(ban(some, "a", now))
        now += seconds[-1] * 1000
    assert seconds[0] == 120
    assert seconds == sorted(seconds)
    assert all(later > earlier or later == 3 * 86_400 for earlier, later in pairwise(seconds))
    assert seconds[-1] == 3 * 86_400
    assert ban(some, "a", now + 3 * 86_400_000) == 120, "whoever kept the limits for three days begins anew"


def test_addresses_of_one_ipv6_network_share_its_limits() -> None:
    some = limits(request_weight_per_minute=10)
    assert charge(some, "2001:db8:0:1::1", 6, NOW) == 6
    assert charge(some, "2001:db8:0:1:ffff::2", 4, NOW) == 10
    with pytest.raises(ApiError):
        some.charge("2001:db8:0:1::3", 1, NOW)
    assert charge(some, "2001:db8:0:2::1", 1, NOW) == 1


def test_the_networks_of_a_48_share_ten_times_as_much() -> None:
    some = limits(request_weight_per_minute=10)
    for network in range(10):
        some.charge(f"2001:db8:0:{network:x}::1", 10, NOW)
    with pytest.raises(ApiError) as refusal:
        some.charge("2001:db8:0:aa::1", 1, NOW)
    assert refusal.value.status == 429
    assert charge(some, "2001:db8:1::1", 1, NOW) == 1


def test_raw_requests_are_limited_whatever_they_weigh() -> None:
    some = limits(raw_requests_per_5m=3)
    for _ in range(3):
        some.charge("a", 0, NOW)
    with pytest.raises(ApiError) as refusal:
        some.charge("a", 0, NOW)
    assert (refusal.value.code, refusal.value.status) == (-1003, 429)
    assert "3 requests per 5 MINUTE" in refusal.value.message
    assert refusal.value.retry_after_s == seconds_left(RAW_REQUESTS, NOW)
    some.charge("a", 0, TimeMs(NOW + 300_000))


def test_connections_are_limited() -> None:
    some = limits(ws_connections_per_5m=2)
    some.count_connection("a", NOW)
    some.count_connection("a", NOW)
    with pytest.raises(ApiError) as refusal:
        some.count_connection("a", NOW)
    assert (refusal.value.code, refusal.value.status) == (-1034, 429)
    assert refusal.value.retry_after_s == seconds_left(CONNECTIONS, NOW)


def test_a_charge_is_corrected() -> None:
    some = limits(request_weight_per_minute=10)
    assert charge(some, "a", 1, NOW) == 1
    assert correct(some, "a", 9) == 10
    with pytest.raises(ApiError) as refusal:
        some.charge("a", 1, NOW)
    assert refusal.value.status == 429
    assert correct(some, "a", -1) == 10, "to take back is never refused"


def test_windows_are_dropped_whole() -> None:
    """Whatever number of owners there is: the step looks at windows only."""
    some = limits()
    for owner in range(10_000):
        some.charge(str(owner), 1, NOW)
    shares = some._lanes[WEIGHT].shares
    some._lanes[WEIGHT].turn(TimeMs(NOW + 60_000))
    assert len(shares) == 10_000  # as it was, and let go
    assert not some._lanes[WEIGHT].shares
    assert some.weight_used("1", TimeMs(NOW + 60_000)) == 0


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
