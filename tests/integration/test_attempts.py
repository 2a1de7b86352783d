"""Attempts that fail make the next ones wait; those that succeed do not add up."""

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from adapters.attempts import OF_ACCOUNT, OF_NETWORK, OF_PAIR, RedisAttempts
from functions.api.errors import ApiError
from functions.users.attempts import Attempt

HERE, THERE = "192.0.2.1", "198.51.100.1"


@pytest.fixture
async def attempts(redis_url: str) -> AsyncIterator[RedisAttempts]:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        yield RedisAttempts(client, enabled=True)


async def waits(attempts: RedisAttempts, attempt: Attempt) -> int:
    """Begin an attempt; return for how long (s) another would have to wait, 0 when this one may be made."""
    try:
        await attempts.begin(attempt)
    except ApiError as error:
        if (error.code, error.status) != (-1003, 429):
            raise
        return error.retry_after_s or 0
    return 0


def by(number: int, address: str = HERE, *, is_known: bool = False) -> Attempt:
    return Attempt(f"person-{number}@example.com", address, is_known)


async def test_many_people_of_one_network_sign_in(attempts: RedisAttempts) -> None:
    for number in range(3 * OF_NETWORK.free):
        assert await waits(attempts, by(number)) == 0
        await attempts.succeeded(by(number))


async def test_who_fails_at_many_accounts_has_to_wait(attempts: RedisAttempts) -> None:
    found = [await waits(attempts, by(number)) for number in range(OF_NETWORK.free + 3)]
    assert found == [0] * (OF_NETWORK.free + 1) + [1, 1]
    assert await waits(attempts, by(1, THERE)) == 0
    assert (
        await waits(attempts, by(2, is_known=True)) == 0
    )  # the owner of that account, behind the same address


async def test_a_success_ends_no_wait_that_failures_brought_about(
    attempts: RedisAttempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever has an account of their own would guess at others' in turn with it."""
    now = [1_000_000_000_000_000_000]
    monkeypatch.setattr("adapters.attempts.time.time_ns", lambda: now[0])
    for number in range(OF_NETWORK.free + 1):
        assert await waits(attempts, by(number)) == 0
    now[0] += 1_000_000_000
    assert await waits(attempts, by(1_000)) == 0
    await attempts.succeeded(by(1_000))
    assert await waits(attempts, by(1_001)) == 2


async def test_an_account_that_many_networks_guess_at_waits_for_newcomers_alone(
    attempts: RedisAttempts,
) -> None:
    for number in range(OF_ACCOUNT.free + 1):
        assert await waits(attempts, by(1, f"203.0.113.{number}")) == 0
    assert await waits(attempts, by(1, "203.0.113.200")) == 1
    assert await waits(attempts, by(1, THERE, is_known=True)) == 0


async def test_waits_grow(attempts: RedisAttempts, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000_000_000_000_000]
    monkeypatch.setattr("adapters.attempts.time.time_ns", lambda: now[0])
    found: list[int] = []
    for _ in range(OF_PAIR.free + 6):
        assert await waits(attempts, by(1, is_known=True)) == 0
        found.append(wait := await waits(attempts, by(1, is_known=True)) if len(found) >= OF_PAIR.free else 0)
        now[0] += wait * 1_000_000_000
    assert found == [0] * OF_PAIR.free + [1, 2, 4, 8, 16, 32]
