"""`failover`: how long orders are not accepted when the leading engine worker dies or leaves.

It also measures the cost of a snapshot.
"""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import redis
from prometheus_client.parser import text_string_to_metric_families

from cli.local import embedded
from cli.local.free_ports import free_port
from client.signing import signature
from lab.benchmarks.filling import fill, make_rich
from lab.benchmarks.garbage import uncollected
from lab.benchmarks.http import Target
from lab.benchmarks.report import Result
from lab.benchmarks.workload import OPEN_ORDERS_MAX, commands, operations, roomy_markets_file
from protocol import streams
from protocol.codec import decode_replies, encode_commands
from protocol.orders import Side
from protocol.streams import COMMANDS_FIELD
from protocol.units import PriceTicks
from runtime import redis_clients
from runtime.settings import PREFIX, Settings
from stream_log.redis_log import RedisStreamLog

SHARD = 0
ORDER_EVERY_S = 0.02
BEFORE_S, AFTER_S = 0.5, 1.5
"""So long orders are placed before the leader is stopped, and after one has been accepted again."""
OUTAGE_MAX_S = 60
DEADLINE_S = 1_800
PAUSE_RATE = 500
PAUSE_SNAPSHOTS = 3
PAUSE_SNAPSHOT_INTERVAL_S = 30
PAUSE_MS_MAX = 10
"""The target for a pause of matching; other programs on the same cores make some of that length, too."""
CALM_S = 10
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own in there
"""The folder of Redis's log while pauses are measured: a disk's sync time is a separate, larger quantity."""


def failover(target: Target, kills: int, resting: int, lease_ms: int) -> list[Result]:
    """Stop the leader again and again, by each signal, and time how long no order is accepted."""
    log = RedisStreamLog.connect(target.settings.resolved_redis_url())
    with redis_clients.client(target.settings.resolved_redis_url()) as client:
        _fill(target.settings, client, resting)
    results = []
    for number, name in ((signal.SIGKILL, "kill -9"), (signal.SIGTERM, "SIGTERM")):
        outages: list[float] = []
        usual: list[float] = []
        others = 0
        for _ in range(kills):
            pid = _wait_for_standby(log)
            outcome = asyncio.run(_stop_leader(target, pid, number))
            outages.append(outcome.outage_s * 1_000)
            usual.append(outcome.usual_s * 1_000)
            others += outcome.others
        results.append(
            Result(
                bench="failover",
                what=f"{name} of the leader to the next accepted order, lease {lease_ms:,} ms, {resting:,} "
                "resting",
                unit="ms",
                runs=outages,
                reference="an order at other times",
                reference_runs=usual,
                notes=f"p99 {_within(outages, 990):.0f} ms of {kills}; {others} orders answered otherwise "
                "than "
                "accepted",
            )
        )
    return results


def _within(values: list[float], per_mille: int) -> float:
    """Return the value that `per_mille` of a thousand do not exceed; of few values, the largest."""
    return sorted(values)[min(len(values) - 1, len(values) * per_mille // 1_000)]


def _wait_for_standby(log: RedisStreamLog) -> int:
    """Wait until the shard has a leader and a standby in step, and return the leader's process id."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        leader = log.lease(SHARD).leader
        others = [
            standby for standby in log.standbys(SHARD) if leader is not None and standby.pid != leader.pid
        ]
        if leader is not None and any(standby.behind_ms == 0 and _runs(standby.pid) for standby in others):
            return leader.pid
        time.sleep(0.05)
    raise TimeoutError("no standby has come; `exchange logs engine-0` may say why")


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class _Outcome(msgspec.Struct):
    outage_s: float
    usual_s: float
    others: int


async def _stop_leader(target: Target, pid: int, number: signal.Signals) -> _Outcome:
    """Place an order every few milliseconds, whatever the outcome of earlier ones, and stop the leader."""
    accepted: list[tuple[float, float]] = []
    others = 0
    stopped_at = 0.0

    async def place() -> None:
        nonlocal others
        sent = time.perf_counter()
        if await _place_order(target):
            accepted.append((sent, time.perf_counter()))
        else:
            others += 1

    began = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()
    while True:
        now = time.perf_counter()
        if not stopped_at and now - began >= BEFORE_S:
            stopped_at = now
            os.kill(pid, number)
        after = [answered for sent, answered in accepted if stopped_at and sent > stopped_at]
        if after and now - min(after) >= AFTER_S:
            break
        if now - began > OUTAGE_MAX_S:
            raise TimeoutError(f"no order was accepted within {OUTAGE_MAX_S} s; see the exchange's logs")
        tasks.add(asyncio.create_task(place()))
        await asyncio.sleep(ORDER_EVERY_S)
    first = min(after)
    await asyncio.gather(*tasks)
    usual = statistics.median(answered - sent for sent, answered in accepted if answered < stopped_at)
    if number is signal.SIGKILL:
        return _Outcome(first - stopped_at, usual, others)
    # The leader may well accept a few more before it leaves: what counts is the longest time without.
    times = sorted(answered for _, answered in accepted if answered > stopped_at - usual)
    return _Outcome(max(later - earlier for earlier, later in pairwise(times)), usual, others)


async def _place_order(target: Target) -> bool:
    """Place a resting order on a separate connection; return whether it was accepted."""
    key, secret = target.accounts[0]
    query = (
        "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.001&price=99000.00&newOrderRespType=ACK"
        f"&recvWindow=60000&timestamp={int(time.time() * 1_000)}"
    ).encode()
    port = target.settings.rest_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST /api/v3/order?"
            + query
            + f"&signature={signature(secret, query)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"X-MBX-APIKEY: {key}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        return b" 200 " in await reader.readline()
    finally:
        writer.close()


def _fill(settings: Settings, client: redis.Redis, resting: int) -> None:
    """Put resting orders into the book through the shard's input, and wait until all is committed."""
    if not resting:
        return
    markets = Settings().market_map()
    steps, _ = operations(0, resting)
    # Far from each other, so that the orders placed while measuring rest between them and none of them
    # trades.
    filling = [
        step._replace(price=PriceTicks(step.price + (-1_000_000 if step.side is Side.BUY else 1_000_000)))
        for step in steps
    ]
    make_rich(settings, client, markets)
    fill(client, commands(filling, markets.markets[0]))


def pauses(resting: int) -> list[Result]:
    """Measure how long matching stands still while snapshots are taken, with a standby and without."""
    return [_pause(resting, standbys) for standbys in (1, 0)]


def _pause(resting: int, standbys: int) -> Result:
    with _workers(standbys) as (settings, client, pids, metrics_ports):
        log = RedisStreamLog.connect(settings.resolved_redis_url())
        _fill(settings, client, resting)
        if standbys:
            _wait_for_standby(log)
        leader = log.lease(SHARD).leader
        assert leader is not None
        stop = threading.Event()
        busy: list[tuple[float, bool]] = []

        def watch() -> None:
            while not stop.wait(0.01):
                children = [Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in pids]
                busy.append((time.perf_counter(), any(children)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with uncollected():
                answer_times = _order_steadily(client, busy)
        finally:
            stop.set()
            watcher.join()
        forks_ms = [_fork_ms(port) for port in metrics_ports]
        gaps_ms = _gaps_ms(answer_times, busy)
        leads = pids.index(leader.pid)
        who = "the standby" if standbys else "the leader"
        fork = f"the leader was in fork() for {forks_ms[leads]:.1f} ms"
        return Result(
            bench="snapshot-pause",
            what=f"longest time between two answers while {who} saves {resting:,} resting orders, "
            f"{PAUSE_RATE} orders/s",
            unit="ms",
            runs=[max(gaps_ms[True])],
            reference="the same while nobody saves",
            reference_runs=[max(gaps_ms[False])],
            notes="; ".join(
                (
                    fork + (f", the standby for {max(forks_ms):.1f} ms" if standbys else ""),
                    f"99.9 % within {_within(gaps_ms[True], 999):.1f} ms while it saves, "
                    f"{_within(gaps_ms[False], 999):.1f} ms otherwise",
                    f"over {PAUSE_MS_MAX} ms: {_long_ones(gaps_ms[True])} while it saves, "
                    f"{_long_ones(gaps_ms[False])} otherwise",
                )
            ),
        )


def _gaps_ms(answer_times: list[float], busy: list[tuple[float, bool]]) -> dict[bool, list[float]]:
    """Return the times between answers: under True while a snapshot is written, under False while none is.

    A gap counts as one with a snapshot if one was written at any moment of it.
    """
    gaps_ms: dict[bool, list[float]] = {True: [], False: []}
    during = iter(busy)
    moment, writing = next(during)
    for earlier, later in pairwise(answer_times):
        snapshot = writing
        while moment < later:
            moment, writing = next(during, (float("inf"), False))
            snapshot |= writing
        gaps_ms[snapshot].append((later - earlier) * 1_000)
    return gaps_ms


def _long_ones(gaps_ms: list[float]) -> str:
    """Say how many times between two answers are longer than the target."""
    return f"{sum(gap > PAUSE_MS_MAX for gap in gaps_ms):,} of {len(gaps_ms):,}"


def _order_steadily(client: redis.Redis, busy: list[tuple[float, bool]]) -> list[float]:
    """Place orders at a fixed rate until enough snapshots have been saved meanwhile.

    Return when each was answered.
    """
    listener = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    listener.subscribe(streams.replies("pause"))
    market = Settings().market_map().markets[0]
    steps, _ = operations(0, 1_000)
    # Below every sell order: all rest, so the book only grows.
    far = [step._replace(price=PriceTicks(step.price - 2_000_000), side=Side.BUY) for step in steps]
    placed = list(commands(far, market))
    stop = threading.Event()

    def send() -> None:
        began, number = time.perf_counter(), 0
        with redis_clients.client(_url_of(client)) as own:
            while not stop.is_set():
                number += 1
                command = placed[number % len(placed)]
                fresh = msgspec.structs.replace(
                    command,
                    request_id=number,
                    reply_to="pause",
                    client_order_id=f"p{number}",
                )
                own.xadd(
                    streams.commands(SHARD),
                    {COMMANDS_FIELD: encode_commands([fresh], time.time_ns() // 1_000)},
                )
                time.sleep(max(0.0, began + number / PAUSE_RATE - time.perf_counter()))

    sender = threading.Thread(target=send)
    sender.start()
    answer_times: list[float] = []
    deadline = time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < deadline:
            message = listener.get_message(timeout=1)
            if message is not None:
                answer_times += [time.perf_counter()] * len(decode_replies(message["data"]))
            ended = (
                sum(before and not now for (_, before), (_, now) in pairwise(list(busy[::10]))) if busy else 0
            )
            if ended >= PAUSE_SNAPSHOTS and len(answer_times) > CALM_S * PAUSE_RATE and not busy[-1][1]:
                return answer_times
    finally:
        stop.set()
        sender.join()
        listener.close()
    raise TimeoutError("no snapshot was saved; see the worker's log")


def _url_of(client: redis.Redis) -> str:
    kwargs = client.connection_pool.connection_kwargs
    return f"redis://:{kwargs['password']}@{kwargs['host']}:{kwargs['port']}/{kwargs['db']}"


def _fork_ms(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    for family in text_string_to_metric_families(text):
        if family.name == "engine_snapshot_fork_seconds" and family.samples:  # none: it has never forked
            return float(family.samples[0].value) * 1_000
    return 0.0


@contextmanager
def _workers(standbys: int) -> Iterator[tuple[Settings, redis.Redis, list[int], list[int]]]:
    """Run a Redis as `exchange up` does, with one engine worker on it and its standbys.

    Yield also their process ids and metrics ports.
    """
    where = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="exchange-bench-", dir=where) as folder:
        settings = Settings(data_dir=Path(folder), redis_port=free_port())
        embedded.make_data_dir(settings)
        own = {
            "DATA_DIR": folder,
            "REDIS_PORT": str(settings.redis_port),
            "MARKETS_FILE": str(roomy_markets_file(Path(folder))),
            "OPEN_ORDERS_MAX": str(OPEN_ORDERS_MAX),
            "LOG_LEVEL": "warning",
            "SNAPSHOT_INTERVAL_S": str(PAUSE_SNAPSHOT_INTERVAL_S),
            "LOST_TAIL_CHECK_ENABLED": "false",  # there is no database to compare with
        }
        running = [subprocess.Popen(embedded.redis_command(settings).arguments, stdout=subprocess.DEVNULL)]
        ports: list[int] = []
        try:
            while not embedded.redis_ready(settings):
                time.sleep(0.02)
            for number in range(standbys + 1):
                ports.append(free_port())
                named = own | {"ENGINE": f"engine-{number}", "METRICS_PORT": str(ports[-1])}
                environment = {**os.environ, **{f"{PREFIX}{name}": value for name, value in named.items()}}
                running.append(
                    subprocess.Popen([sys.executable, "-m", "engine_worker.main"], env=environment)
                )
            with redis_clients.client(settings.resolved_redis_url()) as client:
                yield settings, client, [worker.pid for worker in running[1:]], ports
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait(DEADLINE_S)
