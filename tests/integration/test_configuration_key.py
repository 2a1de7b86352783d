"""What a leader says of its configuration in `config:{k}`: always before anything that readers need it
for.
"""

import itertools
from typing import Any

import msgspec
import pytest
import redis

from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import decode_replies, encode_commands
from protocol.commands import ConfigureMarket
from protocol.configuration import MarketConfig, MarketStatus
from protocol.listing import Listing, ShardConfiguration, decode_configuration
from protocol.market import MarketMap
from protocol.replies import Configured
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD
from stream_log.interface import Fenced, StreamLog
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import RedisStreamLog
from tests.support.workers import FAR_US, all_running, market_map, memory_log, run_until_quiet, worker


@pytest.fixture(params=["memory", "redis"])
def log(request: pytest.FixtureRequest) -> StreamLog:
    return (
        memory_log()
        if request.param == "memory"
        else RedisStreamLog.connect(request.getfixturevalue("redis_url"))
    )


_numbers = itertools.count(1)


def said(log: StreamLog, shard: int = 0) -> ShardConfiguration:
    value = log.configuration(shard)
    assert value is not None
    return decode_configuration(value)


def configure(log: StreamLog, config: MarketConfig) -> StreamId:
    frame = encode_commands([ConfigureMarket(next(_numbers), "test", config)], FAR_US)
    return log.append(streams.commands(config.shard), {COMMANDS_FIELD: frame})


def halted(markets: MarketMap, symbol: str) -> MarketConfig:
    return MarketConfig(markets.by_symbol[symbol], markets.shard_of_market(symbol), MarketStatus.HALTED, 2)


@pytest.mark.parametrize("shard_count", [1, 3])
def test_every_shard_says_which_markets_are_its_own(log: StreamLog, shard_count: int) -> None:
    markets = market_map(shard_count)
    workers = all_running(log, markets)
    for each in workers:
        own = {config.market.symbol for config in said(log, each.shard.state.index).markets}
        assert own == {market.symbol for market in markets.markets_of_shard(each.shard.state.index)}
        assert said(log, each.shard.state.index).config == each.shard.state.config
    listing = Listing.of({shard: said(log, shard) for shard in range(shard_count)}, shard_count)
    assert (listing.listed.shards, listing.unknown_shards) == (markets.shards, ())


def test_a_new_shard_says_first_that_nobody_has_configured_it() -> None:
    log = memory_log()
    only = worker(log, 0, market_map(1))
    only.start()
    assert log.configuration(0) is None
    only._write_configuration()
    assert (said(log).config, said(log).markets) == (None, ())


def test_a_change_is_said_before_its_reply() -> None:
    log, markets = memory_log(), market_map(1)
    (only,) = all_running(log, markets)
    stream_id = configure(log, halted(markets, "ETHUSDT"))
    log.published.clear()

    seen: list[bytes | None] = []
    publish = log.publish

    def watched(messages: Any) -> None:
        if any(isinstance(reply, Configured) for _, payload in messages for reply in decode_replies(payload)):
            seen.append(log.configuration(0))
        publish(messages)

    log.publish = watched  # type: ignore[method-assign]
    run_until_quiet([only])
    (value,) = seen
    assert value is not None
    changed = decode_configuration(value)
    assert changed.stream_id == str(stream_id)
    statuses = {config.market.symbol: (config.status, config.version) for config in changed.markets}
    assert statuses["ETHUSDT"] == (MarketStatus.HALTED, 2)
    assert statuses["BTCUSDT"] == (MarketStatus.TRADING, 1)


class FailingLog(MemoryStreamLog):
    """Cannot write a configuration for a while."""

    fails = False
    writes = 0

    def write_configuration(self, *arguments: Any) -> bool:
        if self.fails:
            raise redis.ConnectionError("away")
        self.writes += 1
        return super().write_configuration(*arguments)


def test_a_write_that_failed_is_made_up_for_before_the_next_input() -> None:
    log, markets = FailingLog(lambda: 1_767_225_600_000), market_map(1)
    (only,) = all_running(log, markets)
    log.fails = True
    configure(log, halted(markets, "ETHUSDT"))
    assert only.step(block_ms=1) == 1
    position = only.position
    configure(log, halted(markets, "SOLUSDT"))
    with pytest.raises(redis.ConnectionError):
        only.step(block_ms=1)
    assert only.position == position, "nothing is done before readers can know what it is about"
    log.fails = False
    run_until_quiet([only])
    statuses = {config.market.symbol: config.status for config in said(log).markets}
    assert statuses["ETHUSDT"] is statuses["SOLUSDT"] is MarketStatus.HALTED


def test_nothing_is_written_while_nothing_changes_but_what_was_lost_comes_back() -> None:
    log, markets, now = FailingLog(lambda: 1_767_225_600_000), market_map(1), [0]
    only = Worker(log, 0, markets, batch_entries_max=3, now_ms=lambda: now[0])
    only.start()
    run_until_quiet([only])
    value, writes = log.configuration(0), log.writes
    for _ in range(10):
        only.step(block_ms=1)
    assert log.writes == writes
    log._configurations.clear()
    now[0] += 60_000
    only.step(block_ms=1)
    assert log.configuration(0) == value


def test_whoever_leads_next_says_it_anew_and_who_led_before_no_more(log: StreamLog) -> None:
    markets = market_map(1)
    first = worker(log, 0, markets)
    first.start()
    run_until_quiet([first])
    second = worker(log, 0, markets)
    second.start()
    second.step(block_ms=1)
    before = log.configuration(0)
    first.shard.configuration.set_market(msgspec.structs.replace(halted(markets, "ETHUSDT"), version=9))
    with pytest.raises(Fenced):
        first.step(block_ms=1)
    assert log.configuration(0) == before
