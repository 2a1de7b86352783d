"""A process that works under limits, told by lines what to do.

Usage: `python -m tests.support.limited_process REDIS_URL NOW_MS SHARES SETTING=VALUE…`.

charge ADDRESS WEIGHT TIMES   request TIMES, 16 at a time, until refused 20 times; answers both counts
order ACCOUNT TIMES           the same for orders
forgive ACCOUNT               take one back
used ADDRESS                  answers the weight that the address has used
orders ACCOUNT                answers the account's counts
"""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import redis.asyncio
import structlog

from adapters.limit_exchange import LimitExchange
from adapters.rate_limits import RateLimits, Undecided
from functions.api.errors import ApiError
from protocol.units import AccountId, TimeMs
from runtime.settings import load_settings

_AT_ONCE: Final = 16
_REFUSALS: Final = 20


async def _attempt(times: int, what: Callable[[], Undecided | None]) -> str:
    admitted = refused = left = 0
    left = times

    async def one_after_another() -> None:
        nonlocal admitted, refused, left
        while left > 0 and refused < _REFUSALS:
            left -= 1
            try:
                undecided = what()
                if undecided is not None:
                    await undecided
            except ApiError:
                refused += 1
            else:
                admitted += 1
            await asyncio.sleep(0)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(_AT_ONCE)))
    return f"{admitted} {refused} {time.perf_counter() - began:.3f}"


async def _run(url: str, now: TimeMs, shares: bool, settings: dict[str, str]) -> None:
    loaded = load_settings({f"EXCHANGE_{name}": value for name, value in settings.items()})
    log = redis.asyncio.Redis.from_url(url)
    limits = RateLimits(loaded)
    exchange = LimitExchange(limits, url, loaded.shard_count, log, lambda: now)
    if shares:
        await exchange.start()
    _say("ready")
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        _say(await _do(limits, now, line))
    await exchange.close()
    await log.aclose()


def _say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def _do(limits: RateLimits, now: TimeMs, words: list[str]) -> Any:
    match words:
        case ["charge", address, weight, times]:
            return await _attempt(int(times), lambda: limits.charge(address, int(weight), now))
        case ["order", account, times]:
            return await _attempt(int(times), lambda: limits.count_order(AccountId(int(account)), now))
        case ["forgive", account]:
            return limits.forgive_order(AccountId(int(account)), now)
        case ["used", address]:
            return limits.weight_used(address, now)
        case ["orders", account]:
            unknown = limits.know_orders(AccountId(int(account)), now)
            if unknown is not None:
                await unknown
            return "{} {}".format(*limits.order_counts(AccountId(int(account)), now))
    raise ValueError(words)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    url, now_ms, shares, *pairs = sys.argv[1:]
    asyncio.run(_run(url, TimeMs(int(now_ms)), shares == "shared", dict(pair.split("=") for pair in pairs)))
