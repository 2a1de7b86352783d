"""`attacks`: the effect on others of the most expensive requests, against as many ordinary requests."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import redis
import uvloop

from lab.benchmarks import load_generators
from lab.benchmarks.filling import REPLY_TO, fill, make_rich, position
from lab.benchmarks.http import Target, catch_up, signer
from lab.benchmarks.report import Result
from lab.benchmarks.workload import ACCOUNTS, MID_PRICE
from protocol.commands import CancelAllOrders, Command, PlaceOrder
from protocol.market import MATCHES_MAX
from protocol.orders import OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.streams import EventReader
from protocol.units import AccountId, PriceTicks, QuantityLots
from runtime import redis_clients
from runtime.settings import Settings
from stream_log.redis_log import RedisStreamLog

ORDERS, LEVELS = 60_000, 30_000
LOTS = 1_000
"""Of each resting order: 0.01 BTC."""
ATTACKERS = 4
"""Accounts that attack; the others do not."""
CAPACITY_S = 4
CAPACITY_CONNECTIONS = 16
LOAD_SHARE = 0.3
"""Of what the exchange can do: so much is sent."""
ATTACK_SHARE = 1 / 3
"""Of that, what attackers send."""
CONNECTIONS = 64
SWEPT_PER_S = 1_000
"""Orders that are matched in a second. A sweep needs as many resting orders first."""
BUSY_STATUS, BUSY_CODE = 503, b'"code":-1008'
"""How a request is pushed back."""
SHARD = 0
SETTLE_S = 60

_RESTING: str = "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=IOC&quantity=0.001&price=99000.00"
"""An ordinary order, which leaves nothing behind: nobody sells so low."""


class Attack(NamedTuple):
    """An order that costs a shard work and trades nothing."""

    name: str
    order: str
    status: int
    """What it must be answered: else it is not the attack that it is meant to be."""
    rate: float | None = None
    """How often a second; None: a third of the load."""


def attacks() -> tuple[Attack, ...]:
    """Return all attacks of `exchange bench attacks`."""
    deep = (MID_PRICE + LEVELS // 4) / 100
    top = (MID_PRICE + LEVELS) / 100
    return (
        # 590 BTC are there, for 59 million USDT; the account has 30 million.
        Attack("MARKET orders that the account cannot pay", "side=BUY&type=MARKET&quantity=590", 400),
        # Up to that price 150 BTC are there.
        Attack(
            "FOK orders that cannot be filled",
            f"side=BUY&type=LIMIT&timeInForce=FOK&quantity=290&price={deep:.2f}",
            200,
        ),
        Attack(
            f"sweeps of {MATCHES_MAX:,} orders",
            f"side=BUY&type=LIMIT&timeInForce=IOC&quantity={MATCHES_MAX * LOTS / 100_000}&price={top:.2f}",
            200,
            SWEPT_PER_S / MATCHES_MAX,
        ),
    )


class Half(NamedTuple):
    """What came of one half of a pair."""

    p99_ms: float
    """Of the others' orders that were taken."""
    others_busy: int
    """How many of the others' orders were answered that the exchange is busy."""
    others: int
    attackers_busy: int
    attackers: int


def attack_results(target: Target, pairs: int, seconds: float) -> list[Result]:
    """Measure each attack, in pairs of a time with it and one without, which come first in turn."""
    log = RedisStreamLog.connect(target.settings.resolved_redis_url())
    with redis_clients.client(target.settings.resolved_redis_url()) as client:
        make_rich(target.settings, client, Settings().market_map())
        numbers = itertools.count(1)
        rate = LOAD_SHARE * _capacity(target)
        return [_measure(target, client, log, attack, rate, pairs, seconds, numbers) for attack in attacks()]


def _capacity(target: Target) -> float:
    sign = signer(target)
    placed = load_generators.run(
        target.settings.rest_port,
        CAPACITY_CONNECTIONS,
        CAPACITY_S,
        lambda account, _: sign(account, _RESTING),
    )
    return len(placed.latencies) / placed.seconds


def _measure(
    target: Target,
    client: redis.Redis,
    log: RedisStreamLog,
    attack: Attack,
    rate: float,
    pairs: int,
    seconds: float,
    numbers: Iterator[int],
) -> Result:
    epoch = log.position(SHARD).epoch
    attacked: list[Half] = []
    usual: list[Half] = []
    is_whole = False
    for pair in range(pairs):
        for is_attack in (True, False) if pair % 2 else (False, True):
            if not is_whole:
                fill(client, _book(numbers))
                _settle(target, client, log)
            # What is refused leaves the book as it was.
            is_whole = attack.rate is None or not is_attack
            half = uvloop.run(_half(target, attack, rate, seconds, is_attack=is_attack))
            (attacked if is_attack else usual).append(half)
    ratios = [beside.p99_ms / without.p99_ms for beside, without in zip(attacked, usual, strict=True)]
    takeovers = log.position(SHARD).epoch - epoch
    return Result(
        bench="attacks",
        what=f"p99 of the others' orders beside {attack.name}; {ORDERS:,} orders on {LEVELS:,} levels, "
        f"{rate:.0f} requests/s",
        unit="ms",
        runs=[half.p99_ms for half in attacked],
        reference="beside ordinary orders of the same accounts",
        reference_runs=[half.p99_ms for half in usual],
        notes=f"median of the ratios {statistics.median(ratios):.2f}; takeovers: {takeovers}; "
        f"answered 503: {_busy(attacked)}, without attacks {_busy(usual)}",
    )


def _busy(halves: list[Half]) -> str:
    """Return how many requests found the exchange busy."""
    others, all_others, attackers, all_attackers = (
        sum(counts) for counts in zip(*(half[1:] for half in halves), strict=True)
    )
    return (
        f"{others:,} of {all_others:,} of the others', {attackers:,} of {all_attackers:,} of the attackers'"
    )


def _settle(target: Target, client: redis.Redis, log: RedisStreamLog) -> None:
    """Wait until nobody works on what the book was filled with any more."""
    end = position(client)
    catch_up(target.settings)
    deadline = time.monotonic() + SETTLE_S
    while log.passed(SHARD)[EventReader.FEEDS] < end:
        if time.monotonic() > deadline:
            raise TimeoutError("the feeds do not keep up; see `exchange logs feeds`")
        time.sleep(0.05)


def _book(numbers: Iterator[int]) -> Iterator[Command]:
    """Yield what makes the book that is attacked, whatever it was before."""
    for account in range(1, ACCOUNTS + 1):
        yield CancelAllOrders(next(numbers), REPLY_TO, AccountId(account), "BTCUSDT")
    for order in range(ORDERS):
        number = next(numbers)
        yield PlaceOrder(
            number,
            REPLY_TO,
            AccountId(1 + order % ACCOUNTS),
            f"a{number}",
            "BTCUSDT",
            Side.SELL,
            OrderType.LIMIT,
            TimeInForce.GTC,
            PriceTicks(MID_PRICE + 1 + order % LEVELS),
            QuantityLots(LOTS),
            self_trade_prevention=SelfTradePrevention.NONE,
        )


async def _half(target: Target, attack: Attack, rate: float, seconds: float, *, is_attack: bool) -> Half:
    """Measure the others while attackers send their attacks, or ordinary orders instead.

    Raises:
        RuntimeError: an answer is neither the expected one nor that the exchange is busy.
    """
    sign, port = signer(target), target.settings.rest_port
    attack_rate = attack.rate or rate * ATTACK_SHARE
    attackers, others = range(ATTACKERS), range(ATTACKERS, len(target.accounts))

    def maker(accounts: range, order: str) -> Callable[[int, int], bytes]:
        return lambda _connection, number: sign(accounts[number % len(accounts)], order)

    order = f"symbol=BTCUSDT&{attack.order}" if is_attack else _RESTING
    answers, sent = await asyncio.gather(
        load_generators.open_loop(
            port, CONNECTIONS, rate - rate * ATTACK_SHARE, seconds, maker(others, _RESTING)
        ),
        load_generators.open_loop(port, CONNECTIONS, attack_rate, seconds, maker(attackers, order)),
    )
    expected = attack.status if is_attack else 200
    accepted = [answer for answer in answers if answer.status == 200]
    others_busy = _count_busy(answers, 200, "an ordinary order")
    return Half(
        statistics.quantiles([(answer.done - answer.due) * 1_000 for answer in accepted], n=100)[98],
        others_busy,
        len(answers),
        _count_busy(sent, expected, attack.name),
        len(sent),
    )


def _count_busy(answers: list[load_generators.Answered], expected: int, name: str) -> int:
    """Return how many were not taken since the exchange is busy; the others have the `expected` status."""
    busy = 0
    for answer in answers:
        if answer.status == BUSY_STATUS and BUSY_CODE in answer.body:
            busy += 1
        elif answer.status != expected:
            raise RuntimeError(f"{name}: {answer.status} {answer.body.decode()[-200:]}")
    return busy
