"""`share`: the effect on others when one account sends ten times its share to a busy shard.

As in `flood`, orders take the gateway's path in this process: its windows, its turns, its frames.
"""

import asyncio
import statistics
from collections import Counter
from typing import Final, NamedTuple

import uvloop

from adapters.wiring import opened
from functions.api.errors import ApiError
from functions.api.ports import Shards
from lab.benchmarks.filling import make_rich
from lab.benchmarks.flood import TICK_S, order_of, until
from lab.benchmarks.http import Target
from lab.benchmarks.report import Result
from protocol.replies import Refused, Reply
from runtime import redis_clients
from runtime.probes import Probes
from runtime.settings import Settings

ACCOUNTS: Final = 20
HEAVY: Final = 1
"""The account that sends most."""
LOAD_SHARE: Final = 0.8
"""What all accounts send together when each sends its share, of what the shard can do."""
TIMES: Final = 10
CAPACITY_S: Final = 4.0
CAPACITY_IN_FLIGHT: Final = 2_000


class Half(NamedTuple):
    """What the others got: accepted orders a second, and their p99 (ms)."""

    accepted: float
    p99_ms: float
    heavy: Counter[str]
    """What became of the heavy account's orders."""


def share(target: Target, pairs: int, seconds: float) -> list[Result]:
    """Measure pairs of times with and without an account that sends too much."""
    with redis_clients.client(target.settings.resolved_redis_url()) as client:
        make_rich(target.settings, client, Settings().market_map())
    capacity = uvloop.run(_capacity(target))
    rate = LOAD_SHARE * capacity / ACCOUNTS
    with_heavy: list[Half] = []
    without: list[Half] = []
    for pair in range(pairs):
        # The order changes from pair to pair, so that what drifts on the machine favors neither half.
        for times in (TIMES, 1) if pair % 2 else (1, TIMES):
            half = uvloop.run(_half(target, rate, times, seconds))
            (without if times == 1 else with_heavy).append(half)
    heavy = sum((half.heavy for half in with_heavy), Counter[str]())
    notes = (
        "of the heavy account's orders "
        f"{', '.join(f'{count:,} {outcome}' for outcome, count in heavy.most_common())}"
    )
    offered = rate * (ACCOUNTS - 1 + TIMES)
    load = (
        f"one of {ACCOUNTS} accounts sends {TIMES} x its share: {offered:,.0f} orders/s to a shard that does "
        f"{capacity:,.0f}"
    )
    return [
        Result(
            bench="share",
            what=f"the others' accepted orders; {load}",
            unit="orders/s",
            runs=[half.accepted for half in with_heavy],
            reference="without it",
            reference_runs=[half.accepted for half in without],
            notes=notes,
        ),
        Result(
            bench="share",
            what=f"p99 of the others' orders; {load}",
            unit="ms",
            runs=[half.p99_ms for half in with_heavy],
            reference="without it",
            reference_runs=[half.p99_ms for half in without],
        ),
    ]


async def _capacity(target: Target) -> float:
    """Return the orders per second that the shard answers when as many wait as it takes well."""
    answered = 0
    loop = asyncio.get_running_loop()
    async with opened(target.settings, "share", probes := Probes()) as surroundings:
        probes.turned()
        await until(lambda: not probes.why_not_ready())
        shards, began, sent = surroundings.ports.shards, loop.time(), 0

        def note(_reply: object) -> None:
            nonlocal answered
            answered += 1

        while loop.time() - began < CAPACITY_S:
            while sent - answered < CAPACITY_IN_FLIGHT:
                _submit(shards, sent, 1 + sent % ACCOUNTS).add_done_callback(note)
                sent += 1
            await asyncio.sleep(0)
        took_s = loop.time() - began
        rate = answered / took_s
        await until(lambda: answered == sent)
        return rate


async def _half(target: Target, rate: float, times: int, seconds: float) -> Half:
    """Let every account send `rate` orders a second, and the heavy one `times` as many."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    heavy: Counter[str] = Counter()
    under_way = accepted = 0

    async with opened(target.settings, "share", probes := Probes()) as surroundings:
        probes.turned()
        await until(lambda: not probes.why_not_ready())
        shards = surroundings.ports.shards

        def send(number: int, account: int) -> None:
            nonlocal under_way
            sent_s = loop.time()

            def note(reply: asyncio.Future[Reply]) -> None:
                nonlocal under_way, accepted
                under_way -= 1
                outcome = _outcome(reply)
                if account == HEAVY:
                    heavy[outcome] += 1
                else:
                    accepted += outcome == "accepted"
                    latencies.append(loop.time() - sent_s)

            try:
                reply = _submit(shards, number, account)
            except ApiError:
                if account == HEAVY:
                    heavy["refused"] += 1
                return
            under_way += 1
            reply.add_done_callback(note)

        began, sent = loop.time(), Counter[int]()
        while (now_s := loop.time() - began) < seconds:
            for account in range(1, ACCOUNTS + 1):
                due = int(now_s * rate * (times if account == HEAVY else 1))
                for number in range(sent[account], due):
                    send(number, account)
                sent[account] = due
            await asyncio.sleep(TICK_S / 2)
        await until(lambda: not under_way)
    return Half(
        accepted / seconds, statistics.quantiles([latency * 1_000 for latency in latencies], n=100)[98], heavy
    )


def _submit(shards: Shards, number: int, account: int) -> "asyncio.Future[Reply]":
    order = order_of(shards.next_request_id(), shards.reply_to, number, account)
    return asyncio.ensure_future(shards.submit(order))


def _outcome(reply: "asyncio.Future[Reply]") -> str:
    error = reply.exception()
    if error is None:
        answer = reply.result()
        return str(answer.reason) if isinstance(answer, Refused) else "accepted"
    if not isinstance(error, ApiError):
        raise error
    return "refused" if error.code == -1008 else "unknown"
