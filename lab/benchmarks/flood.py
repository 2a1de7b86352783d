"""`flood`: orders arrive while something that they need stands still, and memory must stay within its bounds.

The orders take the gateway's own way – what it refuses by, its frames, its repetitions – in this process, or
they come over HTTP.
"""

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final, NamedTuple

import psutil
import psycopg
import redis
import uvloop
from rich.console import Console

from adapters.wiring import opened
from functions.api.errors import STATUS_UNKNOWN, ApiError
from lab.benchmarks import load_generators
from lab.benchmarks.filling import SHARD, make_rich
from lab.benchmarks.garbage import uncollected
from lab.benchmarks.http import Target, signer
from lab.benchmarks.report import Result
from lab.benchmarks.workload import ACCOUNTS, MID_PRICE
from protocol import streams
from protocol.commands import PlaceOrder
from protocol.orders import OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.replies import OrderReply, Refused, Reply
from protocol.stream_id import STREAM_START
from protocol.streams import EventReader
from protocol.units import AccountId, PriceTicks, QuantityLots
from runtime import redis_clients
from runtime.probes import Probes
from runtime.settings import Settings
from stream_log.redis_log import RedisStreamLog

CONTAINER_MB: Final = 512
"""What the container of Redis may use."""
MAXMEMORY_MB: Final = 340
"""Two thirds of it, as deployed."""
LIMITS_MB: Final = {
    "redis": CONTAINER_MB,
    "engine": 1_024,
    "gateway": 512,
    "feeds": 512,
    "ws-edge": 1_024,
    "persist-nudger": 512,
    "persist-worker": 1_024,
}
"""Those of docker-compose.yml, by how a process's name begins."""
TICK_S: Final = 0.01
BEGIN, END = 0.1, 0.8
"""In which part of the time the fault lasts."""
STEP_S: Final = 900
SAMPLE_S: Final = 0.25
CONNECTIONS: Final = 64
LITTLE_MB: Final = 20
"""What Redis is left when it is at its limit."""


class Fault(NamedTuple):
    """A part of the exchange that stands still while the context `during` lasts."""

    name: str
    during: Callable[[Target, redis.Redis], Any]
    may_end: tuple[str, ...] = ()
    """Processes that it ends."""


@contextmanager
def _stopped(target: Target, _client: redis.Redis, kind: str) -> Iterator[None]:
    pids = [
        process.pid
        for process in target.exchange.processes()
        if process.pid and process.name.startswith(kind)
    ]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _cache_lost(target: Target, _client: redis.Redis) -> Iterator[None]:
    """Empty the Redis of what may be lost again and again, and kill it every second time."""
    ended = threading.Event()

    def lose() -> None:
        kills = 0
        while not ended.wait(3):
            kills += 1
            try:
                if kills % 2:
                    with redis_clients.client(target.settings.resolved_cache_url()) as cache:
                        cache.flushall()
                else:
                    os.kill(target.process_id("redis-cache"), signal.SIGKILL)
            except (redis.RedisError, ProcessLookupError):
                continue

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _at_its_limit(_target: Target, client: redis.Redis) -> Iterator[None]:
    used: Any = client.info("memory")["used_memory"]
    client.config_set("maxmemory", used + (LITTLE_MB << 20))
    try:
        yield
    finally:
        client.config_set("maxmemory", MAXMEMORY_MB << 20)


FAULTS: Final = (
    Fault("persist-worker stands still", lambda target, client: _stopped(target, client, "persist-worker")),
    Fault("feeds stand still", lambda target, client: _stopped(target, client, "feeds")),
    Fault("the cache is emptied and killed", _cache_lost, ("redis-cache",)),
    Fault("the log's Redis is at its limit", _at_its_limit),
)


class _Peaks:
    """Looks at the processes until the context ends, and keeps the most memory that each has used (MB)."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.mb: Counter[str] = Counter()

    def __enter__(self) -> "_Peaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            for process in self._target.exchange.processes():
                try:
                    used = psutil.Process(process.pid).memory_info().rss >> 20
                except psutil.NoSuchProcess:
                    continue
                self.mb[process.name] = max(self.mb[process.name], used)


def flood(
    target: Target, orders: int, rate: float, say: Callable[[str], None], *, over_http: bool
) -> list[Result]:
    """Measure memory and answers while orders arrive during each fault in turn; `rate` is per second."""
    send = _send_over_http if over_http else _send
    with redis_clients.client(target.settings.resolved_redis_url()) as client:
        make_rich(target.settings, client, Settings().market_map())
        return [_measure(target, client, fault, orders, rate, send, say) for fault in FAULTS]


def _measure(
    target: Target,
    client: redis.Redis,
    fault: Fault,
    orders: int,
    rate: float,
    send: Callable[[Target, redis.Redis, Fault, int, float], Coroutine[Any, Any, Counter[str]]],
    say: Callable[[str], None],
) -> Result:
    say(f"{fault.name}: {orders:,} orders, {rate:,.0f}/s")
    before, stored = _pids(target), _stored(target)
    with _Peaks(target) as peaks:
        answers = uvloop.run(send(target, client, fault, orders, rate))
        began = time.monotonic()
        _await_step(target, client)
        seconds = time.monotonic() - began
    stored_orders = _stored(target) - stored
    ended = sorted(
        name for name, pid in _pids(target).items() if before[name] != pid and name not in fault.may_end
    )
    audit = target.exchange.command("audit")
    wrong = [
        *(f"{name} ended" for name in ended),
        *(
            f"{name} used {peaks.mb[name]} MB of {limit}"
            for name, limit in _limits(peaks)
            if peaks.mb[name] > limit
        ),
        *(
            []
            # An order without an answer may be stored or not.
            if answers["accepted"] <= stored_orders <= answers["accepted"] + answers["unknown"]
            else [f"{stored_orders:,} are stored"]
        ),
        *([] if audit["ok"] else ["the audit is not clean"]),
    ]
    say(f"  {dict(answers)}; in step after {seconds:.1f} s; {', '.join(wrong) or 'nothing wrong'}")
    way = " over HTTP" if send is _send_over_http else ""
    largest = max(_limits(peaks), key=lambda peak: peaks.mb[peak[0]] / peak[1])
    return Result(
        bench="flood",
        what=f"most memory of the log's Redis: {fault.name}, {orders:,} orders{way}, {rate:,.0f}/s",
        unit="MB",
        runs=[float(peaks.mb["redis"])],
        reference="its limit",
        reference_runs=[float(CONTAINER_MB)],
        notes=(
            f"accepted {answers['accepted']:,}, refused with 503 {answers['refused']:,}, unknown "
            f"{answers['unknown']:,}; nearest to its limit: {largest[0]}, {peaks.mb[largest[0]]} of "
            f"{largest[1]} MB; in step {seconds:.1f} s after the last; "
            + ("; ".join(wrong) or "every accepted order is stored, no process ended, the audit is clean")
        ),
    )


def _limits(peaks: _Peaks) -> list[tuple[str, int]]:
    return [
        (name, limit)
        for name in peaks.mb
        for kind, limit in LIMITS_MB.items()
        if name == kind or (name.startswith(kind) and kind != "redis")
    ]


def _pids(target: Target) -> dict[str, int]:
    return {process.name: process.pid for process in target.exchange.processes()}


def _stored(target: Target) -> int:
    with psycopg.connect(target.settings.resolved_database_url(), autocommit=True) as database:
        row = database.execute("SELECT count(*) FROM orders").fetchone()
        return int(row[0]) if row else 0


def _await_step(target: Target, client: redis.Redis) -> None:
    """Wait until the feeds and the database have everything that the shard has said."""
    deadline = time.monotonic() + STEP_S
    with closing(RedisStreamLog.connect(target.settings.resolved_redis_url())) as log:
        waiting = log.last_id(streams.commands(SHARD))
        while log.position(SHARD).stream_id < waiting:
            _give_up_after(deadline, "engine-0")
        last = log.last_id(streams.events(SHARD))
        for reader in EventReader:
            while log.passed(SHARD).get(reader, STREAM_START) < last:
                _give_up_after(deadline, reader)


def _give_up_after(deadline: float, process: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{process} does not come to the end; see `exchange logs`")
    time.sleep(0.1)


async def _send(target: Target, client: redis.Redis, fault: Fault, orders: int, rate: float) -> Counter[str]:
    """Send the orders at their rate; return what became of them."""
    answers: Counter[str] = Counter()
    loop = asyncio.get_running_loop()

    def note(reply: asyncio.Future[Reply]) -> None:
        error = reply.exception()
        if isinstance(error, ApiError):
            answers["unknown" if error.code == STATUS_UNKNOWN else "refused"] += 1
        elif error is not None:
            raise error
        else:
            answers[_outcome(reply.result())] += 1

    probes = Probes()
    with uncollected(), ExitStack() as during:
        async with opened(target.settings, "flood", probes) as surroundings:
            shards = surroundings.ports.shards
            probes.turned()
            await until(lambda: not probes.why_not_ready())

            def begin() -> None:
                during.enter_context(fault.during(target, client))

            marks = deque([(BEGIN, begin), (END, during.close)])
            began, sent = loop.time(), 0
            while sent < orders:
                # Due by the clock, not by the answers: a slow exchange gets no fewer orders.
                due = min(orders, int((loop.time() - began) * rate))
                for number in range(sent, due):
                    try:
                        order = order_of(
                            shards.next_request_id(), shards.reply_to, number, 1 + number % ACCOUNTS
                        )
                        asyncio.ensure_future(shards.submit(order)).add_done_callback(note)
                    except ApiError as error:
                        if error.status != 503:
                            raise
                        answers["refused"] += 1
                sent = due
                if marks and sent >= marks[0][0] * orders:
                    marks.popleft()[1]()
                await asyncio.sleep(TICK_S)
            await until(lambda: sum(answers.values()) == orders)
    return answers


async def _send_over_http(
    target: Target, client: redis.Redis, fault: Fault, orders: int, rate: float
) -> Counter[str]:
    """Send the orders as clients do, whatever comes back; return what became of them."""
    sign, accounts, seconds = signer(target), len(target.accounts), orders / rate

    def make(_connection: int, number: int) -> bytes:
        kind = "side=SELL&timeInForce=GTC" if number % 2 else "side=BUY&timeInForce=IOC"
        return sign(
            number % accounts, f"symbol=BTCUSDT&{kind}&type=LIMIT&quantity=0.01&price={MID_PRICE / 100:.2f}"
        )

    with ExitStack() as during:

        async def fault_lasts() -> None:
            await asyncio.sleep(BEGIN * seconds)
            during.enter_context(fault.during(target, client))
            await asyncio.sleep((END - BEGIN) * seconds)
            await asyncio.to_thread(during.close)

        lasting = asyncio.create_task(fault_lasts())
        answers = await load_generators.open_loop(target.settings.rest_port, CONNECTIONS, rate, seconds, make)
        await lasting
    return Counter(_outcome_over_http(answer) for answer in answers)


def _outcome_over_http(answer: load_generators.Answered) -> str:
    if answer.status == 200:
        return "accepted"
    code = json.loads(answer.body)["code"]
    if answer.status == 503:
        return "unknown" if code == STATUS_UNKNOWN else "refused"
    return f"{answer.status} {code}"


async def until(is_so: Callable[[], bool]) -> None:
    """Poll every `TICK_S` seconds until `is_so` returns True."""
    while not is_so():  # noqa: ASYNC110 - what it waits for tells nobody
        await asyncio.sleep(TICK_S)


def _outcome(reply: Reply) -> str:
    if isinstance(reply, OrderReply):
        return "accepted"
    return str(reply.reason) if isinstance(reply, Refused) else type(reply).__name__


def order_of(request_id: int, reply_to: str, number: int, account: int) -> PlaceOrder:
    """Return one of an account's orders: every second one takes one that rests."""
    rests = number % 2 == 0
    return PlaceOrder(
        request_id,
        reply_to,
        AccountId(account),
        f"{reply_to[-8:]}-{request_id}",
        "BTCUSDT",
        Side.SELL if rests else Side.BUY,
        OrderType.LIMIT,
        TimeInForce.GTC if rests else TimeInForce.IOC,
        PriceTicks(MID_PRICE),
        QuantityLots(1_000),
        self_trade_prevention=SelfTradePrevention.NONE,
    )


def quiet(text: str) -> None:
    """Print `text` on standard error, so that standard output has only the results."""
    Console(stderr=True).print(text, highlight=False)
