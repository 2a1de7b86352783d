"""Feeds against the obvious: after every step, restarts included, what they published is what the
events say.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.state import ShardFeeds
from protocol import streams
from protocol.events import Event
from protocol.intervals import INTERVALS
from protocol.orders import Side
from protocol.stream_id import StreamId
from tests.support.kept_depth import KeptDepth
from tests.support.market_log import (
    BTC,
    START_MS,
    MarketFollower,
    MarketLog,
    candles_of,
    frame,
    market_map,
    ticker_of,
)

MARKET = market_map().by_symbol[BTC]

pauses = st.one_of(
    st.just(0),
    st.integers(1, 3_000),
    st.sampled_from([999, 1_000, 60_000, 99_999, 100_000, 3_600_000, 86_399_000, 86_400_000]),
    st.integers(1, 100_000_000),
    st.integers(1, 3_000_000_000),
)
trades = st.tuples(st.just("trade"), st.integers(1, 20), st.integers(1, 50), st.sampled_from(Side))
depths = st.tuples(st.just("depth"), st.sampled_from(Side), st.integers(1, 12), st.sampled_from([0, 0, 3, 4]))
batches = st.lists(st.tuples(pauses, st.one_of(trades, depths)), max_size=8)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("events"), batches),
        st.tuples(st.just("time"), pauses),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=12,
)


@pytest.mark.usefixtures("feed_reader")
@settings(max_examples=250, deadline=None)
@given(steps)
def test_feeds_say_what_the_events_say(plan: list[tuple[str, Any]]) -> None:
    feeds = ShardFeeds(0, market_map().markets)
    log, follower = MarketLog(), MarketFollower()
    kept = KeptDepth()
    chunks: dict[str, bytes] = {}
    time, number, now = START_MS, 0, 0
    for step, content in plan:
        # Far enough for everything that is due to be due.
        now += 10_000
        match step:
            case "events":
                events: list[Event] = []
                for pause, (kind, *fields) in content:
                    time += pause
                    if kind == "trade":
                        events.append(log.trade(time, *fields))
                    else:
                        events.append(log.depth(time, tuple(fields)))
                number += 1
                feeds.apply(StreamId(time, number), frame(*events))
            case "time":
                time += content
                feeds.advance(time)
            case "restart":
                saved = feeds.save()
                chunks = {
                    name: chunk
                    for name, chunk in (chunks | saved.chunks).items()
                    if name not in saved.expired
                }
                feeds = ShardFeeds.decode(0, market_map().markets, saved.state, chunks)
        outputs = feeds.take_outputs(now)
        for channel, payload in outputs.messages:
            if channel != streams.second(0):
                follower.take(channel, payload)
        kept.take(outputs)
        snapshot = kept.book()

        done = log.trades.get(BTC, [])
        bids, asks = log.book(Side.BUY), log.book(Side.SELL)
        assert follower.trade_count == len(done)
        assert follower.sequence == log.sequences.get(BTC, 0)
        assert tuple(sorted(follower.levels[Side.BUY].items(), reverse=True)) == bids
        assert tuple(sorted(follower.levels[Side.SELL].items())) == asks
        assert follower.book_ticker == (*(bids or ((0, 0),))[0], *(asks or ((0, 0),))[0])
        if log.sequences:
            assert snapshot is not None
            assert (snapshot.sequence, snapshot.bids, snapshot.asks) == (log.sequences[BTC], bids, asks)
        if follower.ticker is not None:
            # Published when it changes: times apart, it still holds.
            expected = ticker_of(MARKET, done, feeds.time)
            assert expected == msgspec.structs.replace(
                follower.ticker,
                open_time=expected.open_time,
                close_time=expected.close_time,
                windows=tuple(
                    msgspec.structs.replace(window, open_time=each.open_time)
                    for window, each in zip(follower.ticker.windows, expected.windows, strict=True)
                ),
            )
        else:
            assert not done
        for interval in INTERVALS:
            assert follower.candles(interval) == candles_of(MARKET, interval, done, feeds.time)
