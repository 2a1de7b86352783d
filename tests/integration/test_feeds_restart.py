"""Feeds on a real Redis, ended between any two steps.

What subscribers hear and what the read models hold has no gap, no double, and no wrong candle.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from typing import Any, NamedTuple, cast

import msgspec
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feeds import store as store_module
from feeds.state import CLOSED_CANDLES_MAX
from feeds.store import FeedsStore
from feeds.worker import FeedsWorker
from protocol import streams
from protocol.codec import FORMAT, decode_events, encode_frame
from protocol.configuration import MarketConfig
from protocol.events import AccountEvent, Event, MarketConfigured, TimePassed, TradeExecuted
from protocol.intervals import INTERVALS
from protocol.market import MarketMap
from protocol.market_data import AccountUpdate, BookTicker, Candle, Ticker
from protocol.orders import Side
from protocol.positions import ShardPosition
from protocol.stream_id import StreamId
from protocol.streams import EVENTS_FIELD, EventReader
from protocol.units import TimeMs
from protocol.violations import MarketsUnknownError
from runtime.redis_clients import ShardServers
from runtime.settings import PREFIX
from stream_log.interface import Fenced, Rewound
from stream_log.redis_log import RedisStreamLog
from tests.support.kept_depth import depth_in
from tests.support.market_log import (
    BTC,
    ETH,
    START_MS,
    MarketFollower,
    MarketLog,
    accepted,
    candles_of,
    deposit,
    frame,
    market_map,
    publish_markets,
    ticker_of,
)
from tests.support.own_servers import OwnRedis

MARKETS = market_map()
SAVE_PERIOD_MS = 700
ACCOUNT = 7


class KilledError(Exception):
    """Stands for the end of the process."""


class Fault:
    """Ends the process at one of its exchanges with Redis: before it is sent, or after Redis has done it."""

    def __init__(self, at: int = -1, *, after: bool = False) -> None:
        self.count = 0
        self._at, self._after = at, after

    def sending(self) -> None:
        self.count += 1
        if self.count == self._at and not self._after:
            raise KilledError

    def received(self) -> None:
        if self.count == self._at and self._after:
            raise KilledError


def connect(url: str, fault: Fault, cache_url: str = "") -> FeedsStore:
    class Connection(redis.Connection):
        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            fault.sending()
            super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

        def read_response(self, *args: Any, **options: Any) -> Any:
            response = super().read_response(*args, **options)
            fault.received()
            return response

    def client(url: str) -> redis.Redis:
        pool = redis.ConnectionPool.from_url(
            url, connection_class=Connection, protocol=2, retry=Retry(NoBackoff(), 0)
        )
        return redis.Redis(connection_pool=pool)

    cache = Servers(client(cache_url)) if cache_url else None
    return FeedsStore(client(url), cache=cast("ShardServers", cache))


class Servers(NamedTuple):
    """As `ShardServers`, of one client."""

    client: redis.Redis

    def of(self, _shard: int) -> redis.Redis:
        return self.client

    def close(self) -> None:
        self.client.close()


class Exchange:
    """Writes what a shard writes, and listens to what the feeds make of it."""

    def __init__(self, url: str, cache_url: str = "") -> None:
        self.redis = redis.Redis.from_url(url)
        self.cache = redis.Redis.from_url(cache_url or url)
        """Where what may be lost is."""
        self.lists_are_lost = False
        """Whether the lists of the newest trades and candles begin later than what happened, and only open
        candles were written again."""
        self._url = url
        self.say(MARKETS)
        self.log = MarketLog()
        self.account_events: list[AccountEvent] = []
        self._heard: list[AccountEvent] = []
        self._followers = {market: MarketFollower(market) for market in (BTC, ETH)}
        self._pubsub = self.cache.pubsub()  # type: ignore[no-untyped-call]
        for pattern in ("pub:*", "account:*"):
            self._pubsub.psubscribe(pattern)
            assert self._pubsub.get_message(timeout=60), "not subscribed"

    def say(self, markets: MarketMap) -> None:
        """Have the shard's leader say that these are its markets."""
        with closing(RedisStreamLog.connect(self._url)) as log:
            publish_markets(log, markets)

    def commit(self, stream_id: str, *events: Event) -> None:
        self.account_events += [event for event in events if isinstance(event, AccountEvent)]
        with self.redis.pipeline() as pipeline:
            pipeline.xadd(streams.events(0), {EVENTS_FIELD: frame(*events)}, id=stream_id)
            pipeline.set(streams.position(0), f"1|{stream_id}")
            pipeline.execute()

    def close(self) -> None:
        self._pubsub.close()
        self.cache.close()
        self.redis.close()

    def check(self, now: int) -> None:
        """Compare everything that was heard and written with the events."""
        while message := self._pubsub.get_message(timeout=0.05):
            channel = message["channel"].decode()
            if channel.startswith("account:"):
                update = msgspec.msgpack.decode(message["data"], type=AccountUpdate)
                assert channel == streams.account(update.account_id)
                self._heard += decode_events(bytes(update.events))  # type: ignore[arg-type]
            elif not channel.startswith("pub:second:"):
                self._followers[channel.split(":")[1]].take(channel, message["data"])
        assert self._heard == self.account_events
        for market, follower in self._followers.items():
            self._check_market(market, follower, now)

    def _check_market(self, market: str, follower: MarketFollower, now: int) -> None:
        trades = self.log.trades.get(market, [])
        bids, asks = self.log.book(Side.BUY, market), self.log.book(Side.SELL, market)
        assert follower.trade_count == len(trades)
        assert follower.sequence == self.log.sequences.get(market, 0)
        assert tuple(sorted(follower.levels[Side.BUY].items(), reverse=True)) == bids
        assert tuple(sorted(follower.levels[Side.SELL].items())) == asks
        listed: Any = self.cache.lrange(streams.trades(0, market), 0, -1)
        assert (
            self.lists_are_lost
            or [msgspec.msgpack.decode(each, type=TradeExecuted) for each in listed] == trades[:-1001:-1]
        )
        if market in self.log.sequences:
            snapshot = depth_in(self.cache, 0, market)
            assert snapshot is not None
            assert (snapshot.sequence, snapshot.bids, snapshot.asks) == (
                self.log.sequences[market],
                bids,
                asks,
            )
            best = self._model(streams.book_ticker(0, market), BookTicker)
            shown = (best.bid_price, best.bid_quantity, best.ask_price, best.ask_quantity)
            assert shown == follower.book_ticker == (*(bids or ((0, 0),))[0], *(asks or ((0, 0),))[0])
        if not trades:
            return
        ticker = self._model(streams.ticker(0, market), Ticker)
        assert ticker == follower.ticker
        # A ticker that time alone does not change is not written again: it says when it was.
        assert all(said.open_time <= now for said in (ticker, *ticker.windows))
        assert untimed(ticker) == untimed(ticker_of(MARKETS.by_symbol[market], trades, now))
        stored: Any = self.cache.hgetall(streams.candles(0, market))
        for interval in INTERVALS:
            candles = candles_of(MARKETS.by_symbol[market], interval, trades, now)
            assert follower.candles(interval) == candles
            if interval.encode() in stored or not self.lists_are_lost or not candles[-1].closed:
                assert msgspec.msgpack.decode(stored[interval.encode()], type=Candle) == candles[-1]
            kept: Any = self.cache.lrange(streams.closed_candles(0, market, interval), 0, -1)
            closed = [candle for candle in candles if candle.closed]
            assert (
                self.lists_are_lost
                or [msgspec.msgpack.decode(each, type=Candle) for each in kept]
                == closed[: -CLOSED_CANDLES_MAX - 1 : -1]
            )

    def _model(self, key: str, kind: type[Any]) -> Any:
        payload = self.cache.get(key)
        assert payload is not None, key
        return msgspec.msgpack.decode(payload, type=kind)  # type: ignore[arg-type]


@pytest.fixture
def exchange(redis_url: str) -> Iterator[Exchange]:
    exchange = Exchange(redis_url)
    # Something waits in the input, so that the log's time is that of the shard's position.
    exchange.redis.xadd(streams.commands(0), {b"x": b""}, id="9999999999999-0")
    yield exchange
    exchange.close()


def stages(exchange: Exchange) -> Iterator[int]:
    """Write a piece of the log, and give its time.

    Several intervals end on the way, by trades and by time alone.
    """
    log, at = exchange.log, START_MS
    exchange.commit(f"{at}-0", deposit(at, ACCOUNT), log.depth(at, (Side.BUY, 90, 5), (Side.SELL, 110, 5)))
    yield at
    exchange.commit(f"{at}-1", log.trade(at, 100, 2), log.depth(at, (Side.BUY, 91, 5)), accepted(at, ACCOUNT))
    exchange.commit(
        f"{at + 900}-0", log.trade(at + 900, 101, 1, Side.SELL), log.trade(at + 900, 7, 7, market=ETH)
    )
    exchange.commit(f"{at + 900}-1", log.depth(at + 900, (Side.SELL, 7, 2), market=ETH))
    yield at + 900
    at += 1_500
    exchange.commit(f"{at}-0", log.trade(at, 99, 1), log.depth(at, (Side.BUY, 90, 0)), deposit(at, ACCOUNT))
    exchange.redis.xadd(streams.events(0), {b"garbage": b"\xc1"}, id=f"{at}-1")
    exchange.redis.xadd(streams.events(0), {EVENTS_FIELD: b"\xc1"}, id=f"{at}-2")
    yield at
    at += 100_000
    exchange.commit(f"{at}-0")
    yield at
    exchange.commit(
        f"{at + 5}-0", log.trade(at + 5, 102, 3), log.trade(at + 5, 103, 3), deposit(at + 5, ACCOUNT)
    )
    yield at + 5
    at += 86_400_000
    exchange.commit(f"{at}-0", log.depth(at, (Side.SELL, 109, 1), (Side.SELL, 110, 4)))
    yield at


def run_to_the_end(exchange: Exchange, url: str, fault: Fault, cache_url: str = "") -> None:
    """Follow the log with a process that `fault` ends once, and with another one after that."""

    def make(fault: Fault) -> FeedsWorker:
        worker = FeedsWorker(connect(url, fault, cache_url), [0], SAVE_PERIOD_MS)
        worker.start()
        worker.restore()
        return worker

    worker: FeedsWorker | None = None
    rounds = itertools.count(1)

    def step() -> None:
        nonlocal worker, fault
        try:
            worker = worker or make(fault)
            worker.step(next(rounds) * 400, 0)
        except KilledError:
            worker, fault = None, Fault()

    for at in stages(exchange):
        # Several times, so that what is due later than the events is written too.
        for _ in range(3):
            step()
        last = at
    while worker is None or next(rounds) < 40:
        step()
    worker.finish(next(rounds) * 400)
    exchange.check(last)
    letters: Any = exchange.redis.xrange(streams.dead_letters(0))
    found = [(fields[b"source"], fields[b"payload"]) for _, fields in letters]
    if cache_url:
        found = list(dict.fromkeys(found))  # a process that ends between two servers repeats a letter
    assert found == [(streams.events(0).encode(), b""), (streams.events(0).encode(), b"\xc1")]
    newest: Any = exchange.redis.xinfo_stream(streams.events(0))["last-generated-id"]
    assert exchange.redis.hget(streams.passed(0), EventReader.FEEDS) == newest


@pytest.mark.parametrize("emptied_after", range(5))
def test_what_may_be_lost_is_written_anew(redis_url: str, own_redis: OwnRedis, emptied_after: int) -> None:
    """Emptied under a process that goes on, after each stage in turn.

    Nobody hears anything twice, for the state was saved.
    """
    cache_url = own_redis.settings.resolved_redis_url()
    with closing(Exchange(redis_url, cache_url)) as exchange:
        exchange.redis.xadd(streams.commands(0), {b"x": b""}, id="9999999999999-0")
        worker = FeedsWorker(FeedsStore.connect(redis_url, cache_url=cache_url), [0], SAVE_PERIOD_MS)
        worker.start()
        worker.restore()
        times, rewound, kept = itertools.count(400, 400), 0, set[bytes]()
        for number, at in enumerate(stages(exchange)):
            for _ in range(4):
                try:
                    worker.step(next(times), 0)
                except Rewound:
                    rewound += 1
                    worker.restore()
            if number == emptied_after:
                worker.finish(next(times))
                kept = set(exchange.cache.scan_iter())
                exchange.cache.flushall()
                exchange.lists_are_lost = True
            last = at
        for _ in range(40):
            worker.step(next(times), 0)
        assert rewound == 1
        exchange.check(last)
        missing = kept - set(exchange.cache.scan_iter())
        assert {key for key in missing if key.split(b":")[0] not in LISTS} == set()
        assert not [key for key in exchange.redis.scan_iter() if key.split(b":")[0] in (*MODELS, *LISTS)]


MODELS = (b"depth", b"book_ticker", b"ticker", b"candles")
LISTS = (b"trades", b"depth_diffs", b"closed_candles")
"""What was in these is in the database, or needed only by who has heard a part."""


def test_a_log_that_is_back_before_what_was_said_is_followed_from_the_saved_state(
    redis_url: str, own_redis: OwnRedis
) -> None:
    """As after a failover without replicas: the log has lost its end, and the other Redis has not."""
    cache_url = own_redis.settings.resolved_redis_url()
    with closing(Exchange(redis_url, cache_url)) as exchange:
        exchange.redis.xadd(streams.commands(0), {b"x": b""}, id="9999999999999-0")
        log = exchange.log
        worker = FeedsWorker(FeedsStore.connect(redis_url, cache_url=cache_url), [0], SAVE_PERIOD_MS)
        worker.start()
        worker.restore()
        exchange.commit(f"{START_MS}-0", log.trade(START_MS, 100, 2))
        worker.step(0, 0)  # saved: nothing was before
        kept = exchange.redis.dump(streams.events(0))
        exchange.commit(f"{START_MS}-1", log.trade(START_MS, 101, 2))
        worker.step(100, 0)
        assert isinstance(kept, bytes)
        exchange.redis.restore(streams.events(0), 0, kept, replace=True)
        again = FeedsWorker(FeedsStore.connect(redis_url, cache_url=cache_url), [0], SAVE_PERIOD_MS)
        again.start()
        again.restore()
        del log.trades[BTC][1]
        log.sequences[BTC] -= 1
        exchange.commit(f"{START_MS}-2", log.trade(START_MS, 102, 3))
        again.step(5_000, 0)
        again.step(9_000, 0)
        assert exchange._model(streams.ticker(0, BTC), Ticker) == ticker_of(
            MARKETS.by_symbol[BTC], log.trades[BTC], START_MS
        )


@pytest.mark.parametrize("removed", [True, False], ids=["diffs removed", "control: they stay"])
def test_depth_after_a_lost_end_of_the_log_is_not_made_of_what_was_lost(
    redis_url: str, own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    if not removed:
        monkeypatch.setattr("feeds.state.Outputs.removed", property(lambda _: [], lambda *_: None))
    cache_url = own_redis.settings.resolved_redis_url()
    with closing(Exchange(redis_url, cache_url)) as exchange:
        exchange.redis.xadd(streams.commands(0), {b"x": b""}, id="9999999999999-0")
        log = exchange.log
        worker = FeedsWorker(FeedsStore.connect(redis_url, cache_url=cache_url), [0], SAVE_PERIOD_MS)
        worker.start()
        worker.restore()
        exchange.commit(f"{START_MS}-0", log.depth(START_MS, (Side.BUY, 90, 1)))
        worker.step(0, 0)  # saved: nothing was before
        kept = exchange.redis.dump(streams.events(0))
        exchange.commit(f"{START_MS}-1", MarketLog.depth(lost := deepcopy(log), START_MS, (Side.BUY, 95, 1)))
        worker.step(100, 0)
        book = depth_in(exchange.cache, 0)
        assert book is not None
        assert book.bids == lost.book(Side.BUY)
        assert isinstance(kept, bytes)
        exchange.redis.restore(streams.events(0), 0, kept, replace=True)
        again = FeedsWorker(FeedsStore.connect(redis_url, cache_url=cache_url), [0], SAVE_PERIOD_MS)
        again.start()
        again.restore()
        again.step(5_000, 0)
        book = depth_in(exchange.cache, 0)
        assert book is not None
        assert (book.bids == log.book(Side.BUY)) == removed


def test_what_was_said_since_the_state_was_saved_is_said_again(redis_url: str, own_redis: OwnRedis) -> None:
    cache_url = own_redis.settings.resolved_redis_url()
    with closing(Exchange(redis_url, cache_url)) as exchange:
        exchange.redis.xadd(streams.commands(0), {b"x": b""}, id="9999999999999-0")
        log = exchange.log
        worker = FeedsWorker(FeedsStore.connect(redis_url, cache_url=cache_url), [0], SAVE_PERIOD_MS)
        worker.start()
        worker.restore()
        exchange.commit(f"{START_MS}-0", log.depth(START_MS, (Side.BUY, 90, 5), (Side.SELL, 110, 5)))
        worker.step(0, 0)
        exchange.commit(f"{START_MS}-1", log.trade(START_MS, 100, 2))
        worker.step(100, 0)  # not saved: that is due every 700 ms
        exchange.cache.flushall()
        again = FeedsWorker(FeedsStore.connect(redis_url, cache_url=cache_url), [0], SAVE_PERIOD_MS)
        again.start()
        again.restore()
        again.step(200, 0)
        listed: Any = exchange.cache.lrange(streams.trades(0, BTC), 0, -1)
        assert [msgspec.msgpack.decode(each, type=TradeExecuted) for each in listed] == log.trades[BTC]
        assert exchange._model(streams.ticker(0, BTC), Ticker) == ticker_of(
            MARKETS.by_symbol[BTC], log.trades[BTC], START_MS
        )
        exchange.commit(f"{START_MS}-2", log.trade(START_MS, 101, 2))
        with pytest.raises(Fenced, match="has taken over"):
            worker.step(300, 0)


@pytest.mark.parametrize("roles", ["one Redis", "two"])
def test_ended_at_every_point(redis_url: str, own_redis: OwnRedis, roles: str) -> None:
    cache_url = own_redis.settings.resolved_redis_url() if roles == "two" else ""

    def new_exchange() -> Exchange:
        for url in (redis_url, cache_url or redis_url):
            with redis.Redis.from_url(url) as client:
                client.flushall()
        exchange = Exchange(redis_url, cache_url)
        # Something waits in the input, so that the log's time is that of the shard's position.
        exchange.redis.xadd(streams.commands(0), {b"x": b""}, id="9999999999999-0")
        return exchange

    fault = Fault()
    with closing(new_exchange()) as exchange:
        run_to_the_end(exchange, redis_url, fault, cache_url)
    points = fault.count
    assert points > 30
    for after in (False, True):
        for at in range(1, points + 1):
            with closing(new_exchange()) as exchange:
                run_to_the_end(exchange, redis_url, Fault(at, after=after), cache_url)


def wake_after_take_over(exchange: Exchange, url: str) -> None:
    """Two processes, the first of which slept while the second took over."""
    sleeper, successor = (FeedsWorker(FeedsStore.connect(url), [0], SAVE_PERIOD_MS) for _ in range(2))
    written = stages(exchange)
    next(written)
    sleeper.start()
    sleeper.restore()
    sleeper.step(1_000, 0)
    last = list(written)[-1]
    successor.start()
    successor.restore()
    successor.step(1_000, 0)
    with pytest.raises(Fenced, match="has taken over"):
        sleeper.step(2_000, 0)
    successor.step(9_000, 0)
    exchange.check(last)


def test_a_process_that_was_replaced_says_so_also_where_the_log_was_trimmed(
    exchange: Exchange, redis_url: str
) -> None:
    # Found by simulation: what looks like a gap in the log to one that slept is what its successor has saved.
    sleeper, successor = (FeedsWorker(FeedsStore.connect(redis_url), [0], SAVE_PERIOD_MS) for _ in range(2))
    sleeper.start()
    sleeper.restore()
    last = list(stages(exchange))[-1]
    successor.start()
    successor.restore()
    successor.step(1_000, 0)
    exchange.redis.xtrim(streams.events(0), maxlen=1, approximate=False)
    with pytest.raises(Fenced, match="has taken over"):
        sleeper.step(2_000, 0)
    with pytest.raises(Fenced, match="has taken over"):
        sleeper.restore()
    successor.step(9_000, 0)
    exchange.check(last)


def test_a_process_that_was_replaced_publishes_nothing(exchange: Exchange, redis_url: str) -> None:
    wake_after_take_over(exchange, redis_url)


def without_compare(script: str) -> str:
    lines = script.splitlines()
    return "\n".join(line for line in lines if "return 0" not in line)


def test_control_without_the_compare_it_publishes_again(
    exchange: Exchange, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_COMMIT", without_compare(store_module._COMMIT))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        wake_after_take_over(exchange, redis_url)
    # Both have published the same.
    with pytest.raises(AssertionError):
        exchange.check(START_MS)


def test_lost_answer_is_not_repeated(exchange: Exchange, redis_url: str) -> None:
    """The commit was done but its answer lost: the process loads what is there, and goes on."""
    worker = FeedsWorker(FeedsStore.connect(redis_url), [0], SAVE_PERIOD_MS)
    worker.start()
    worker.restore()
    for number, at in enumerate(stages(exchange)):
        worker.step(1_000 * number, 0)
        worker.restore()
        last = at
    worker.step(60_000, 0)
    exchange.check(last)


def test_the_shards_time_alone_closes_candles(exchange: Exchange, redis_url: str) -> None:
    """Nobody's clock does: nothing is over before the shard says so, however late it is."""
    worker = FeedsWorker(FeedsStore.connect(redis_url), [0], SAVE_PERIOD_MS)
    worker.start()
    worker.restore()
    for _ in stages(exchange):
        pass
    worker.step(0, 0)
    reached = published(exchange)
    worker.step(5_000, 0)
    exchange.check(reached)
    position: Any = exchange.redis.get(streams.position(0))
    after = StreamId(ShardPosition.parse(position).stream_id.ms + 1)
    passed = TimePassed(TimeMs(reached + 3_600_000))
    exchange.commit(str(after), passed)
    worker.step(6_000, 0)
    worker.step(12_000, 0)
    exchange.check(reached + 3_600_000)


def test_killed_for_real(exchange: Exchange, redis_url: str) -> None:
    exchange.redis.delete(streams.commands(0))
    environment = {**os.environ, f"{PREFIX}REDIS_URL": redis_url, f"{PREFIX}FEEDS_SAVE_PERIOD_MS": "50"}

    def run() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "feeds.main"], env=environment, stderr=subprocess.DEVNULL
        )

    def write() -> int:
        stream_id: Any = exchange.redis.xadd(streams.commands(0), {b"x": b""})
        at = int(stream_id.split(b"-")[0])
        trade = exchange.log.trade(at, 100 + at % 7, 1 + at % 5)
        level = exchange.log.depth(at, (Side.BUY, 90 + at % 9, at % 4))
        exchange.commit(stream_id.decode(), trade, level, deposit(at, ACCOUNT))
        return at

    for _ in range(4):
        process = run()
        try:
            written = write()
            wait_until(lambda: published(exchange) >= written, write)  # noqa: B023 - called before it changes
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for _ in range(20):
            write()
    process = run()
    last = write()
    tick = last + 1
    exchange.commit(f"{tick}-0", TimePassed(TimeMs(last + 2_000)))
    # The ticker may be a second behind the last trade.
    wait_until(lambda: published(exchange) >= last and everything_is_said(exchange))
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    exchange.check(int(exchange.redis.hget(streams.feeds_state(0), "published_time") or 0))
    newest: Any = exchange.redis.xinfo_stream(streams.events(0))
    assert exchange.redis.hget(streams.feeds_state(0), "state_id") == newest["last-generated-id"]
    assert exchange.redis.hget(streams.passed(0), EventReader.FEEDS) == newest["last-generated-id"]


def untimed(ticker: Ticker) -> Ticker:
    """The ticker, without the times that it was made at."""
    windows = tuple(msgspec.structs.replace(window, open_time=TimeMs(0)) for window in ticker.windows)
    return msgspec.structs.replace(ticker, open_time=TimeMs(0), close_time=TimeMs(0), windows=windows)


def published(exchange: Exchange) -> int:
    return int(exchange.redis.hget(streams.feeds_state(0), "published_time") or 0)


def everything_is_said(exchange: Exchange) -> bool:
    """Whether the read models that may be late have the last trade, and its second is over."""
    ticker: Any = exchange.redis.get(streams.ticker(0, BTC))
    candle: Any = exchange.redis.hget(streams.candles(0, BTC), "1s")
    count = len(exchange.log.trades[BTC])
    return (
        msgspec.msgpack.decode(ticker, type=Ticker).last_trade_id == count
        and msgspec.msgpack.decode(candle, type=Candle).closed
        and msgspec.msgpack.decode(candle, type=Candle).last_trade_id == count
    )


def wait_until(condition: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        meanwhile()
        time.sleep(0.002)


def test_a_market_is_followed_from_when_it_is_listed_on(exchange: Exchange, redis_url: str) -> None:
    """Its first entry may be read before its shard's leader has said that it has it.

    And a saved state knows it.
    """
    exchange.say(MarketMap.placed([], 1))
    worker = FeedsWorker(FeedsStore.connect(redis_url), [0], SAVE_PERIOD_MS)
    worker.start()
    worker.restore()
    for number, market in enumerate(MARKETS.markets):
        exchange.commit(
            f"{START_MS - 10 + number}-0", MarketConfigured(TimeMs(START_MS), MarketConfig(market, 0))
        )
    for number, at in enumerate(stages(exchange)):
        worker.step(1_000 * number, 0)
        last = at
    worker.finish(50_000)
    again = FeedsWorker(FeedsStore.connect(redis_url), [0], SAVE_PERIOD_MS)
    again.start()
    again.restore()
    again.step(60_000, 0)
    exchange.check(last)


def test_what_cannot_be_understood_yet_waits_for_the_leader(
    exchange: Exchange, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade: the market was listed in a log, or a saved state, that does not tell which
    it is.
    """
    monkeypatch.setattr("feeds.worker._HELD_S", 0)
    exchange.redis.delete(streams.configuration(0))
    worker = FeedsWorker(FeedsStore.connect(redis_url), [0], SAVE_PERIOD_MS)
    worker.start()
    worker.restore()
    first, *_ = [*stages(exchange)][:1]
    for now in (0, 1_000):
        worker.step(now, 0)
    assert exchange.redis.hget(streams.feeds_state(0), "published_id") is None
    exchange.say(MARKETS)
    worker.step(2_000, 0)
    worker.finish(3_000)
    published_id: Any = exchange.redis.hget(streams.feeds_state(0), "published_id")
    assert int(published_id.split(b"-")[0]) > first

    position, time, markets, _ = msgspec.json.decode(
        exchange.redis.hget(streams.feeds_state(0), "state") or b""
    )
    earlier = msgspec.json.encode([position, time, markets])
    exchange.redis.hset(streams.feeds_state(0), "state", earlier)
    exchange.redis.delete(streams.configuration(0))
    again = FeedsWorker(FeedsStore.connect(redis_url), [0], SAVE_PERIOD_MS)
    again.start()
    with pytest.raises(MarketsUnknownError, match="BTCUSDT"):
        again.restore()
    exchange.say(MARKETS)
    again.restore()
    again.step(60_000, 0)
    exchange.check(published(exchange))


def test_events_of_a_later_release_wait_for_it(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passing them over would leave a gap in every stream, and end feeds at the next event."""
    monkeypatch.setattr("feeds.worker._HELD_S", 0)
    exchange = Exchange(redis_url)

    def happens(number: int) -> list[Event]:
        trade = exchange.log.trade(START_MS + number, 5, 5)
        return [trade, exchange.log.depth(START_MS + number, (Side.BUY, 90 + number, 4))]

    worker = FeedsWorker(connect(redis_url, Fault()), [0], SAVE_PERIOD_MS)
    worker.start()
    worker.restore()
    try:
        exchange.commit("5-0", *happens(0))
        worker.step(0, 0)
        new = encode_frame((FORMAT + 1, START_MS * 1_000, happens(1)))
        exchange.redis.xadd(streams.events(0), {EVENTS_FIELD: new}, id="6-0")
        exchange.commit("7-0", *happens(2))
        for now in (1, 2, 3):
            worker.step(now, 0)
        assert exchange.redis.hget(streams.feeds_state(0), "published_id") == b"5-0"
        assert not exchange.redis.exists(streams.dead_letters(0))
        monkeypatch.setattr("protocol.codec.FORMAT", FORMAT + 1)
        worker.step(1_000, 0)
        worker.step(2_000, 0)
        exchange.check(START_MS + 2)
    finally:
        exchange.close()
