"""`door`: the effect on others of attacks by one network on gateway or edge, against ordinary requests.

All on 127.0.0.0/8.
"""

import asyncio
import itertools
import json
import multiprocessing
import os
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import psutil
import uvloop
from websockets.asyncio.client import connect

from lab.benchmarks import load_generators
from lab.benchmarks.http import Target, signer
from lab.benchmarks.report import Result
from lab.benchmarks.subscribers import Subscriber
from runtime.priority import give_way

ATTACKER: Final = itertools.cycle(f"127.0.3.{number}" for number in range(1, 255))
"""Each half's attacker is a separate network, so a ban in one half does not affect the next."""
OTHERS: Final = tuple(f"127.0.2.{number}" for number in range(1, 17))
CAPACITY_S: Final = 4
CAPACITY_CONNECTIONS: Final = 16
LOAD_SHARE: Final = 0.3
CONNECTIONS: Final = 64
ASKS_PER_S: Final = 4.0
"""Of each of the edge's ordinary clients; five messages a second are allowed."""

BOMB: Final = b"a=" + b"%41" * 349_000
STREAMS_EACH: Final = 90
OPENED_AT_ONCE: Final = 50
TRADES_PER_S: Final = 50
"""While the edge is attacked, so that streams have something to say."""
_ORDINARY_STREAMS: Final = ("btcusdt@trade", "btcusdt@bookTicker", "btcusdt@kline_1m")
_ORDER: Final = "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=IOC&quantity=0.001&price=99000.00"

Outcome = Counter[str]
"""What became of what the attacker sent."""


class Sizes(NamedTuple):
    """How large the attacks are.

    The review that found them had as many bombs and bytes of headers, a quarter of the guesses, and four
    times as much of the rest.
    """

    bombs_per_s: int = 4
    unfinished: int = 150
    silent: int = 625
    headers_bytes: int = 20_000_000
    guesses_per_s: int = 20
    sign_ups: int = 15
    """Networks that sign up as fast as they are answered."""
    streams_opened: int = 500
    """Connections, each with STREAMS_EACH streams."""

    def times(self, factor: int) -> "Sizes":
        """Return the sizes multiplied by `factor`."""
        return Sizes(*(size * factor for size in self))


WIDE: Final = {
    "rate_limits_enabled": "false",
    "head_bytes_max": "100000000",
    "form_bytes_max": "10000000",
    "body_bytes_max": "10000000",
    "request_timeout_ms": "3600000",
    "idle_timeout_s": "3600",
    "connections_per_address_max": "20000",
    "ws_connections_per_address_max": "20000",
    "ws_streams_per_address_max": "10000000",
}
"""Settings with which nothing is refused that the door refuses: the control."""


Side = Callable[[Target, str, float], Coroutine[None, None, Outcome]]
"""What the network does: (target, network, seconds)."""


class Attack(NamedTuple):
    """Requests of one network that try to slow down a gateway or an edge for all others."""

    name: str
    run: Side
    ordinary: Side
    """As many ordinary requests: orders, where connections count as requests over the whole time.

    At the edge, connections.
    """
    process: str = "gateway"


def door(target: Target, kinds: Collection[str], sizes: Sizes, pairs: int, seconds: float) -> list[Result]:
    """Measure attacks of these KINDS, in pairs of a period with and one without, which come first in turn."""
    rate = LOAD_SHARE * _capacity(target)
    attacks = _attacks(sizes, rate, seconds)
    # In a process that gives way, the network's own work does not delay what is measured: it stands for
    # machines elsewhere.
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), _stand_for_machines_elsewhere
    ) as attackers:
        return [
            _measure(target, attacks[kind], rate, pairs, seconds, attackers)
            for kind in KINDS
            if kind in kinds
        ]


def _stand_for_machines_elsewhere() -> None:
    os.setsid()
    give_way()


KINDS: Final = ("bombs", "bodies", "silent", "headers", "paths", "guesses", "sign-ups", "streams")


def _attacks(sizes: Sizes, rate: float, seconds: float) -> dict[str, Attack]:
    """Return attacks by their KINDS."""

    def orders(per_second: float) -> Side:
        return partial(_ordinary, rate=per_second)

    def connections(names: Sequence[str]) -> Side:
        return partial(_streams, count=sizes.streams_opened, names=names)

    attacks = (
        Attack(
            f"{sizes.bombs_per_s} percent bombs of 1 MB a second",
            partial(_bombs, rate=sizes.bombs_per_s),
            orders(sizes.bombs_per_s),
        ),
        Attack(
            f"{sizes.unfinished} bodies that do not end",
            partial(_unfinished, count=sizes.unfinished),
            orders(sizes.unfinished / seconds),
        ),
        Attack(
            f"{sizes.silent} connections that say nothing",
            partial(_silent, count=sizes.silent),
            orders(sizes.silent / seconds),
        ),
        Attack(
            f"headers of {sizes.headers_bytes // 1_000_000} MB, one after the other",
            partial(_endless_headers, length=sizes.headers_bytes),
            orders(1),
        ),
        Attack("paths that there are not", partial(_paths, rate=rate / 3), orders(rate / 3)),
        Attack(
            f"{sizes.guesses_per_s} guesses of a password a second",
            partial(_guesses, rate=sizes.guesses_per_s),
            orders(sizes.guesses_per_s),
        ),
        Attack(
            f"sign-ups of {sizes.sign_ups} networks, as fast as they are answered",
            partial(_sign_ups, count=sizes.sign_ups),
            orders(sizes.sign_ups),
        ),
        Attack(
            f"{sizes.streams_opened} connections with {STREAMS_EACH} streams",
            connections(_many_streams()),
            connections(_ORDINARY_STREAMS),
            "ws-edge",
        ),
    )
    return dict(zip(KINDS, attacks, strict=True))


def _capacity(target: Target) -> float:
    """Return the orders per second that the exchange answers to one network.

    An order that succeeds weighs nothing.
    """
    sign = signer(target)
    placed = load_generators.run(
        target.settings.rest_port, CAPACITY_CONNECTIONS, CAPACITY_S, lambda account, _: sign(account, _ORDER)
    )
    return len(placed.latencies) / placed.seconds


def _measure(
    target: Target, attack: Attack, rate: float, pairs: int, seconds: float, attackers: Executor
) -> Result:
    attacked: list[float] = []
    usual: list[float] = []
    outcomes: Outcome = Counter()
    refused = 0
    process = psutil.Process(target.process_id(attack.process))
    memory = process.memory_info().rss
    for pair in range(pairs):
        # The order changes from pair to pair, so that what drifts on the machine favors neither half.
        for is_attack in (True, False) if pair % 2 else (False, True):
            p99_ms, kept_out, outcome = uvloop.run(
                _half(target, attack, rate, seconds, attackers, is_attack=is_attack)
            )
            (attacked if is_attack else usual).append(p99_ms)
            refused += kept_out
            if is_attack:
                outcomes += outcome
    ratios = [under_attack / unattacked for under_attack, unattacked in zip(attacked, usual, strict=True)]
    grown = (process.memory_info().rss - memory) / 1e6
    answers_text = ", ".join(f"{count:,} × {outcome}" for outcome, count in outcomes.most_common(4))
    is_edge = attack.process == "ws-edge"
    measured_quantity = "p99 of the others' requests to the edge" if is_edge else "p99 of the others' orders"
    return Result(
        bench="door",
        what=f"{measured_quantity} beside {attack.name}",
        unit="ms",
        runs=attacked,
        reference=f"beside as many ordinary {'connections' if is_edge else 'orders'} of the same network",
        reference_runs=usual,
        notes=f"median of the ratios {statistics.median(ratios):.2f}; refused to others: {refused:,}; "
        f"{attack.process} {grown:+.0f} MB; the attacker got: {answers_text}",
    )


def _run(side: Side, target: Target, network: str, seconds: float) -> Outcome:
    return asyncio.run(side(target, network, seconds))


async def _half(
    target: Target, attack: Attack, rate: float, seconds: float, attackers: Executor, *, is_attack: bool
) -> tuple[float, int, Outcome]:
    """Let a network attack, or send ordinary orders.

    Return the others' p99 (ms), what was refused to them, and what the network got.
    """
    network = next(ATTACKER)
    side = attack.run if is_attack else attack.ordinary
    sent = asyncio.get_running_loop().run_in_executor(attackers, _run, side, target, network, seconds)
    if attack.process == "ws-edge":
        (latencies_ms, refused), outcome, _ = await asyncio.gather(
            _ask_edge(target, seconds), sent, _trade(target, seconds)
        )
    else:
        (latencies_ms, refused), outcome = await asyncio.gather(_order(target, rate, seconds), sent)
    return statistics.quantiles(latencies_ms, n=100)[98], refused, outcome


async def _orders(
    target: Target, networks: Sequence[str], rate: float, seconds: float
) -> list[load_generators.Answered]:
    """Send ordinary orders of these networks."""
    sign = signer(target)
    return await load_generators.open_loop(
        target.settings.rest_port,
        # Each is used about once a second: the gateway closes those that say nothing.
        min(CONNECTIONS, max(1, int(rate))),
        rate,
        seconds,
        lambda _connection, number: sign(number, _ORDER),
        networks,
    )


async def _order(target: Target, rate: float, seconds: float) -> tuple[list[float], int]:
    """Send ordinary orders of many networks.

    Return how long each took, from when it was due (ms), and how many were refused.
    """
    answers = await _orders(target, OTHERS, rate, seconds)
    return [(answer.done - answer.due) * 1_000 for answer in answers], sum(
        answer.status != 200 for answer in answers
    )


async def _trade(target: Target, seconds: float) -> None:
    """Let others trade: every order of an odd number rests, and the next one takes it."""
    sign = signer(target)

    def make(_connection: int, number: int) -> bytes:
        kind = "side=SELL&timeInForce=GTC" if number % 2 else "side=BUY&timeInForce=IOC"
        return sign(number, f"symbol=BTCUSDT&{kind}&type=LIMIT&quantity=0.001&price=100000.00")

    await load_generators.open_loop(target.settings.rest_port, 1, TRADES_PER_S, seconds, make, OTHERS)


async def _ask_edge(target: Target, seconds: float) -> tuple[list[float], int]:
    """Let one client of each of the other networks ask for the time.

    Return how long each answer took, from when it was due (ms), and how many were refusals.
    """
    latencies: list[float] = []
    refused = 0
    url = f"{target.settings.ws_url()}/ws-api/v3"

    async def ask(address: str) -> None:
        nonlocal refused
        async with connect(url, proxy=None, local_addr=(address, 0)) as client:
            began = time.perf_counter()
            for number in range(int(seconds * ASKS_PER_S)):
                due = began + number / ASKS_PER_S
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await client.send(json.dumps({"id": number, "method": "time"}))
                refused += json.loads(await client.recv())["status"] != 200
                latencies.append((time.perf_counter() - due) * 1_000)

    await asyncio.gather(*map(ask, OTHERS))
    return latencies, refused


async def _ordinary(target: Target, network: str, seconds: float, *, rate: float) -> Outcome:
    return Counter(str(answer.status) for answer in await _orders(target, (network,), rate, seconds))


# Attacks on the gateway


async def _bombs(target: Target, network: str, seconds: float, *, rate: int) -> Outcome:
    request = _post("/api/v3/order", BOMB, "application/x-www-form-urlencoded")
    return await _again_and_again(target, network, seconds, rate, lambda: request)


async def _guesses(target: Target, network: str, seconds: float, *, rate: int) -> Outcome:
    def guess() -> bytes:
        body = {"email": "bench0@example.com", "password": secrets.token_hex(8)}
        return _post("/api/v1/signin", json.dumps(body).encode(), "application/json")

    return await _again_and_again(target, network, seconds, rate, guess)


async def _again_and_again(
    target: Target, network: str, seconds: float, rate: float, make: Callable[[], bytes]
) -> Outcome:
    """Send requests at a rate, each on a separate connection, and return the outcomes."""
    began = time.perf_counter()
    outcome: Outcome = Counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.create_task(_send(target, network, make(), outcome, seconds))
    return outcome


async def _sign_ups(target: Target, network: str, seconds: float, *, count: int) -> Outcome:
    outcome: Outcome = Counter()
    ends = time.perf_counter() + seconds

    async def sign_up(address: str) -> None:
        while time.perf_counter() < ends:
            body = {"email": f"{secrets.token_hex(8)}@example.com", "password": secrets.token_hex(12)}
            request = _post("/api/v1/signup", json.dumps(body).encode(), "application/json")
            await _send(target, address, request, outcome, seconds)

    last = network.rpartition(".")[2]
    await asyncio.gather(*(sign_up(f"127.1.{last}.{number}") for number in range(1, count + 1)))
    return outcome


async def _paths(target: Target, network: str, seconds: float, *, rate: float) -> Outcome:
    request = b"GET /api/v3/nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    outcome: Outcome = Counter()
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", target.settings.rest_port, local_addr=(network, 0)
            )
            # A refusal may end the connection; then there is a new one.
            while time.perf_counter() < began + seconds:
                await asyncio.sleep(max(0.0, began + outcome.total() / rate - time.perf_counter()))
                writer.write(request)
                outcome[await _status(reader)] += 1
            writer.close()
    return outcome


async def _unfinished(target: Target, network: str, seconds: float, *, count: int) -> Outcome:
    """Send bodies of the longest accepted length, a MiB at most, without their last byte."""
    length = min(target.settings.form_bytes_max, 2**20)
    head = f"POST /api/v3/order HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
    return await _held(target, network, seconds, count, head.encode() + b"a" * (length - 1))


async def _silent(target: Target, network: str, seconds: float, *, count: int) -> Outcome:
    return await _held(target, network, seconds, count, b"")


async def _held(target: Target, network: str, seconds: float, count: int, beginning: bytes) -> Outcome:
    """Hold connections that begin with so much and say no more; return what became of them."""
    outcome: Outcome = Counter()

    async def hold() -> None:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", target.settings.rest_port, local_addr=(network, 0)
            )
            writer.write(beginning)
            async with asyncio.timeout(seconds):
                response = await reader.read()
            outcome[response.split(b" ", 2)[1].decode() if response else "closed"] += 1
            writer.close()
        except TimeoutError:
            outcome["still open"] += 1
            writer.transport.abort()
        except OSError:
            outcome["closed"] += 1

    await asyncio.gather(*(hold() for _ in range(count)))
    return outcome


async def _endless_headers(target: Target, network: str, seconds: float, *, length: int) -> Outcome:
    """Send in turn one header of this length, and as many as have it together."""
    head = b"GET /api/v3/ping HTTP/1.1\r\n"
    requests = itertools.cycle([head + b"a: " + b"b" * length, head + b"a: b\r\n" * (length // 6)])
    return await _again_and_again(target, network, seconds, 1, lambda: next(requests))


async def _send(target: Target, network: str, request: bytes, outcome: Outcome, seconds: float) -> None:
    """Send a request on a separate connection, and record its status."""
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", target.settings.rest_port, local_addr=(network, 0)
        )
        try:
            writer.write(request)
            async with asyncio.timeout(seconds):
                outcome[await _status(reader)] += 1
        finally:
            writer.close()
    except TimeoutError:
        outcome["no answer"] += 1
    except (OSError, asyncio.IncompleteReadError):
        outcome["closed"] += 1


async def _status(reader: asyncio.StreamReader) -> str:
    """Read one answer, and return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length or 0))
    return head[9:12].decode()


def _post(path: str, body: bytes, kind: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: "
        f"{len(body)}\r\n\r\n"
    )
    return head.encode() + body


# Attacks on the edge


def _many_streams() -> list[str]:
    symbols = ("btcusdt", "ethusdt", "solusdt")
    kinds = (
        "trade",
        "aggTrade",
        "bookTicker",
        "depth@100ms",
        "depth",
        "depth20@100ms",
        "ticker",
        "miniTicker",
    )
    names = [f"{symbol}@{kind}" for kind in kinds for symbol in symbols]
    names += [
        f"{symbol}@kline_{interval}" for interval in ("1s", "1m", "5m", "1h", "1d") for symbol in symbols
    ]
    return names + [f"nothing{number}@trade" for number in range(STREAMS_EACH - len(names))]


async def _streams(
    target: Target, network: str, seconds: float, *, count: int, names: Sequence[str]
) -> Outcome:
    """Open connections with these streams each, listen, and leave all at once halfway."""
    outcome: Outcome = Counter()
    loop = asyncio.get_running_loop()
    path = f"/stream?streams={'/'.join(names)}"
    opened: list[Subscriber] = []
    slots = asyncio.Semaphore(OPENED_AT_ONCE)

    async def listen() -> None:
        async with slots:
            with suppress(OSError):
                _, subscriber = await loop.create_connection(
                    lambda: Subscriber(path), "127.0.0.1", target.settings.ws_port, local_addr=(network, 0)
                )
                opened.append(subscriber)
                with suppress(Exception):
                    await asyncio.wait_for(subscriber.opened, seconds)
                    outcome["accepted"] += 1
                    return
            outcome["refused"] += 1

    began = time.perf_counter()
    await asyncio.gather(*(listen() for _ in range(count)))
    await asyncio.sleep(max(0.0, began + seconds / 2 - time.perf_counter()))
    for subscriber in opened:
        subscriber.transport.abort()
    await asyncio.sleep(max(0.0, began + seconds - time.perf_counter()))
    return outcome
