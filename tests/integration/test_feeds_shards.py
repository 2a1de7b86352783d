"""Several feeds processes, each with shards of its own: nobody notices when another one is started anew."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import redis

from cli.local.free_ports import free_port
from cli.local.processes import feeds
from protocol import streams
from protocol.orders import Side
from protocol.streams import EVENTS_FIELD, MarketDataKind
from runtime.metrics import read_health
from runtime.settings import PREFIX, Settings
from stream_log.redis_log import RedisStreamLog
from tests.support.eventually import eventually
from tests.support.kept_depth import depth_in
from tests.support.market_log import START_MS, MarketLog, frame, market_map, publish_markets

SHARDS = 3
MARKETS = market_map(SHARDS)
SYMBOLS = [MARKETS.markets_of_shard(shard)[0].symbol for shard in range(SHARDS)]
SUPERSEDED = 3


class Exchange:
    """Shards that say one level after the other, and the feeds processes that `exchange up` would start."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._log = MarketLog()
        self.client = redis.Redis.from_url(url)
        with closing(RedisStreamLog.connect(url)) as log:
            publish_markets(log, MARKETS)
        self.heard = self.client.pubsub()  # type: ignore[no-untyped-call]
        self.heard.subscribe(*(streams.market_data(symbol, MarketDataKind.DEPTH) for symbol in SYMBOLS))
        for _ in SYMBOLS:
            assert self.heard.get_message(timeout=60), "not subscribed"
        self._started: list[subprocess.Popen[bytes]] = []
        self._count = 0

    def start(self, name: str, shards: str, metrics_port: int = 0) -> subprocess.Popen[bytes]:
        """Start a feeds process as another setting of EXCHANGE_FEEDS_SHARDS would."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        own = {
            "REDIS_URL": self._url,
            "DATA_DIR": str(self._folder),
            "SHARD_COUNT": str(SHARDS),
            "PROCESS_NAME": name,
        }
        own |= {"FEEDS_SHARDS": shards, "METRICS_PORT": str(metrics_port)}
        environment = inherited | {PREFIX + setting: value for setting, value in own.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "feeds.main"], env=environment, stderr=subprocess.DEVNULL
        )
        self._started.append(process)
        return process

    def say(self) -> None:
        """Let every shard's market have one level more."""
        self._count += 1
        for shard, symbol in enumerate(SYMBOLS):
            event = self._log.depth(START_MS + self._count, (Side.BUY, self._count, 1), market=symbol)
            self.client.xadd(
                streams.events(shard), {EVENTS_FIELD: frame(event)}, id=f"{START_MS + self._count}-0"
            )

    def followed(self, shards: Sequence[int]) -> bool:
        """Whether all that was said on these shards is in the depth."""
        found = [depth_in(self.client, shard, SYMBOLS[shard]) for shard in shards]
        return all(depth is not None and depth.sequence == self._count for depth in found)

    def messages(self) -> list[str]:
        """The markets of the diffs that were published since the last call, in their order."""
        markets = []
        while message := self.heard.get_message(timeout=0.1):
            markets.append(message["channel"].decode().split(":")[1])
        return markets

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        self.heard.close()
        self.client.close()


@pytest.fixture
def exchange(redis_url: str, tmp_path: Path) -> Iterator[Exchange]:
    with closing(Exchange(redis_url, tmp_path)) as exchange:
        yield exchange


def epochs(exchange: Exchange) -> list[bytes | None]:
    return [exchange.client.hget(streams.feeds_state(shard), "epoch") for shard in range(SHARDS)]  # type: ignore[misc]


def test_each_process_publishes_its_own_shards_and_is_started_anew_alone(exchange: Exchange) -> None:
    specs = feeds(Settings(shard_count=SHARDS, feeds_processes=2))
    shards = {spec.name: spec.environment[f"{PREFIX}FEEDS_SHARDS"] for spec in specs}
    assert shards == {"feeds": "0,2", "feeds-2": "1"}
    ports = {name: free_port() for name in shards}
    first, second = (exchange.start(name, shards[name], ports[name]) for name in shards)
    exchange.say()
    eventually("all shards are followed", lambda: exchange.followed(range(SHARDS)))
    assert sorted(exchange.messages()) == sorted(SYMBOLS)

    # Each says what it is and which shards it has.
    for name, of in shards.items():
        text = metrics(ports[name])
        assert f'process="{name}"' in text
        for shard in range(SHARDS):
            assert (f'feeds_lag_seconds{{shard="{shard}"}}' in text) == (str(shard) in of.split(","))
    pids = {name: process.pid for name, process in zip(shards, (first, second), strict=True)}
    eventually("heartbeats", lambda: {name: pid_of(exchange, name) for name in shards} == pids)

    # One is killed: the other's shards go on, and nothing is taken from it.
    before = epochs(exchange)
    first.kill()
    first.wait()
    for _ in range(5):
        exchange.say()
    eventually("shard 1 goes on", lambda: exchange.followed([1]))
    assert not exchange.followed([0])
    again = exchange.start("feeds", shards["feeds"], ports["feeds"])
    eventually("all shards are followed again", lambda: exchange.followed(range(SHARDS)))
    assert epochs(exchange)[1] == before[1]
    assert epochs(exchange)[0] != before[0]
    # Alerts see by this that a shard changes hands.
    assert f'feeds_epoch{{shard="0"}} {float(epochs(exchange)[0] or 0)}' in metrics(ports["feeds"])
    assert second.poll() is None
    assert again.poll() is None
    # What shard 1 said was published batch by batch; the others caught up.
    assert set(exchange.messages()) == set(SYMBOLS)

    # A new one takes over before the old one ends, as `exchange restart` has it.
    successor = exchange.start("feeds-2", shards["feeds-2"], ports["feeds-2"])
    wait_while_saying(exchange, lambda: second.poll() == SUPERSEDED)
    eventually("all shards are followed after the restart", lambda: exchange.followed(range(SHARDS)))
    assert again.poll() is None
    for process in (again, successor):
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text: bytes = response.read()
    return text.decode()


def wait_while_saying(exchange: Exchange, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        exchange.say()
        time.sleep(0.02)


def pid_of(exchange: Exchange, name: str) -> int:
    health = read_health(exchange.client, name)
    return health.pid if health is not None else 0


def test_control_two_with_the_same_shard_take_it_from_each_other(exchange: Exchange) -> None:
    """So a shard must be in one process's list only: the one that started first ends, its other shards with
    it."""
    first = exchange.start("feeds", "0,1")
    exchange.say()
    eventually("two shards are followed", lambda: exchange.followed([0, 1]))
    second = exchange.start("feeds-2", "1,2")
    wait_while_saying(exchange, lambda: first.poll() == SUPERSEDED)
    eventually("the second goes on", lambda: exchange.followed([1, 2]))
    assert not exchange.followed([0])
    assert second.poll() is None


def test_a_shard_that_there_is_not_is_said_at_the_start(exchange: Exchange) -> None:
    assert exchange.start("feeds", "0,3").wait(20) == 1
