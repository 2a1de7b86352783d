from collections.abc import Callable

import msgspec
import pytest

from feeds import state
from feeds.frames import decode
from feeds.state import BASE_PERIOD_MS, BASES_PER_BATCH, Outputs, ShardFeeds
from protocol import streams
from protocol.codec import decode_events, encode_events, encode_frame
from protocol.configuration import MarketConfig
from protocol.depth import BASE_LEVELS
from protocol.events import (
    AccountClosed,
    DepthChanged,
    EntrySkipped,
    Event,
    FeesWithdrawn,
    FundsWithdrawn,
    LevelChange,
    MarketConfigured,
    OrderClosed,
    OrderFilled,
    StateHashed,
)
from protocol.market_data import AccountUpdate, Candle, DepthDiff, DepthSnapshot
from protocol.orders import CloseReason, Liquidity, Side
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import MarketDataKind
from protocol.units import (
    AMOUNT_UNITS_MAX,
    AccountId,
    AssetUnits,
    PriceTicks,
    QuantityLots,
    Sequence,
    TimeMs,
    TradeId,
)
from protocol.violations import InvariantBroken, UnknownMarketError
from tests.support.market_log import BTC, START_MS, MarketLog, accepted, deposit, frame, market_map

FIRST = StreamId(START_MS)
SECOND = StreamId(START_MS, 1)


@pytest.fixture
def feeds() -> ShardFeeds:
    return ShardFeeds(0, market_map().markets)


@pytest.fixture
def log() -> MarketLog:
    return MarketLog()


def heard(outputs: Outputs, channel: str) -> list[bytes]:
    return [payload for name, payload in outputs.messages if name == channel]


def candles(outputs: Outputs, interval: str) -> list[Candle]:
    payloads = heard(outputs, streams.market_data(BTC, MarketDataKind.CANDLE))
    found = [msgspec.msgpack.decode(payload, type=Candle) for payload in payloads]
    return [candle for candle in found if candle.interval == interval]


def test_heads_agree_with_the_protocol(log: MarketLog) -> None:
    order, balances = accepted(START_MS, 7).order, accepted(START_MS, 7).balances
    account_events: list[Event] = [
        deposit(START_MS, 7),
        FundsWithdrawn(TimeMs(START_MS), AccountId(7), "USDT", AssetUnits(1), "out", balances),
        accepted(START_MS, 7),
        OrderFilled(
            TimeMs(START_MS), order, TradeId(1), PriceTicks(1), QuantityLots(1), AssetUnits(1),
            Liquidity.MAKER,
            AssetUnits(0), "BTC", balances,
        ),
        OrderClosed(TimeMs(START_MS), order, CloseReason.EXPIRED, balances),
    ]  # fmt: skip
    trade, change = log.trade(START_MS, 3, 4, Side.SELL), log.depth(START_MS, (Side.BUY, 5, 6))
    heads, raws, unread = decode(frame(trade, change, *account_events))
    assert msgspec.structs.astuple(heads[0]) == (START_MS, BTC, 1, 1, 1, 3, 4, Side.SELL)
    assert msgspec.structs.astuple(heads[1]) == (START_MS, BTC, 2, ((Side.BUY, 5, 6),))
    for head in heads[2:]:
        assert head.time == START_MS
        assert (head.account_id if hasattr(head, "account_id") else head.order.account_id) == 7  # type: ignore[union-attr]
    assert [decode_events(b"\x91" + bytes(raw))[0] for raw in raws] == [trade, change, *account_events]
    assert unread == []


def test_account_gets_its_events_in_order_and_nobody_elses(feeds: ShardFeeds) -> None:
    feeds.apply(FIRST, frame(deposit(1, 7), deposit(2, 8)))
    feeds.apply(SECOND, frame(accepted(3, 7)))
    outputs = feeds.take_outputs(0)
    (payload,) = heard(outputs, streams.account(7))
    update = msgspec.msgpack.decode(payload, type=AccountUpdate)
    assert (update.account_id, update.position) == (7, str(SECOND))
    assert decode_events(bytes(update.events)) == [deposit(1, 7), accepted(3, 7)]
    assert len(heard(outputs, streams.account(8))) == 1
    assert not feeds.take_outputs(0)


def test_an_accounts_portions_say_where_they_begin_and_end(feeds: ShardFeeds) -> None:
    def portions(of: ShardFeeds) -> list[tuple[StreamId, StreamId]]:
        payloads = heard(of.take_outputs(0), streams.account(7))
        updates = [msgspec.msgpack.decode(payload, type=AccountUpdate) for payload in payloads]
        return [(StreamId.parse(update.after), StreamId.parse(update.position)) for update in updates]

    third = StreamId(START_MS, 2)
    feeds.apply(FIRST, frame(deposit(1, 7)))
    assert portions(feeds) == [(STREAM_START, FIRST)]
    saved = feeds.save()
    feeds.apply(SECOND, frame(deposit(2, 8)))
    assert portions(feeds) == []
    feeds.apply(third, frame(deposit(3, 7)))
    assert portions(feeds) == [(SECOND, third)]
    # Started again: what had left before is passed over.
    again = ShardFeeds.decode(0, market_map().markets, saved.state, saved.chunks)
    again.apply(SECOND, frame(deposit(2, 8)))
    again.skip_outputs()
    again.apply(third, frame(deposit(3, 7)))
    assert portions(again) == [(SECOND, third)]


@pytest.mark.parametrize("sequence", [1, 3])
def test_a_gap_or_a_repeat_stops_the_feeds(feeds: ShardFeeds, log: MarketLog, sequence: int) -> None:
    feeds.apply(FIRST, frame(log.depth(START_MS, (Side.BUY, 5, 6))))
    wrong = DepthChanged(TimeMs(START_MS), BTC, Sequence(sequence), ())
    with pytest.raises(InvariantBroken, match=f"{BTC} goes on with {sequence} after 1"):
        feeds.apply(SECOND, frame(wrong))


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b'{"a": 1}', b"\x91", b"\x90\x90"])
def test_what_is_no_frame_changes_nothing(feeds: ShardFeeds, garbage: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        feeds.apply(FIRST, garbage)
    assert not feeds.take_outputs(0)


@pytest.mark.parametrize(
    "unknown", [b"\x01", b"\x92\x63\x01", b"\x91\x01", b"\x92\x0b\xa1\xff", b"\x91" * 5_000 + b"\xc0"]
)
def test_an_event_that_is_not_understood_does_not_take_a_trade_with_it(
    feeds: ShardFeeds, log: MarketLog, unknown: bytes
) -> None:
    trade, change = (
        encode_frame(event) for event in (log.trade(START_MS, 5, 5), log.depth(START_MS, (Side.BUY, 5, 6)))
    )
    for stamped in (False, True):
        items = b"\x93" + trade + unknown + change
        fresh = ShardFeeds(0, market_map().markets)
        fresh.apply(FIRST, encode_events(items, START_MS * 1_000) if stamped else items)
        assert [(item.number, item.payload) for item in fresh.unread] == [(1, unknown)]
        assert list(fresh.take_outputs(0).trades.values()) == [[msgspec.Raw(trade)]]
    feeds.apply(FIRST, items)
    feeds.apply(SECOND, b"\x90")
    assert feeds.unread == []


def test_an_event_of_an_unknown_market_is_passed_over_alone(feeds: ShardFeeds, log: MarketLog) -> None:
    strange = log.depth(START_MS, (Side.BUY, 1, 1), market="DOGEUSDT")
    feeds.apply(FIRST, frame(log.trade(START_MS, 5, 5), strange), are_markets_known=True)
    assert [(item.number, item.payload) for item in feeds.unread] == [(1, encode_frame(strange))]
    assert "DOGEUSDT" in feeds.unread[0].reason
    assert len(feeds.take_outputs(0).trades) == 1
    assert feeds.position == FIRST


def test_a_batch_is_one_diff_with_the_last_quantities(feeds: ShardFeeds, log: MarketLog) -> None:
    feeds.apply(FIRST, frame(log.depth(START_MS, (Side.BUY, 90, 1), (Side.SELL, 110, 1))))
    feeds.apply(
        SECOND, frame(log.depth(START_MS, (Side.BUY, 90, 7)), log.depth(START_MS, (Side.SELL, 110, 0)))
    )
    (payload,) = heard(feeds.take_outputs(0), streams.market_data(BTC, MarketDataKind.DEPTH))
    assert msgspec.msgpack.decode(payload, type=DepthDiff) == DepthDiff(
        TimeMs(START_MS), BTC, Sequence(1), Sequence(3),
        ((PriceTicks(90), QuantityLots(7)),), ((PriceTicks(110), QuantityLots(0)),),
    )  # fmt: skip


def test_a_base_of_the_depth_is_written_at_once_then_at_a_bounded_rate_and_never_forgotten(
    feeds: ShardFeeds, log: MarketLog
) -> None:
    def written(now: int) -> int | None:
        value = feeds.take_outputs(now).values.get(streams.depth(0, BTC))
        return None if value is None else msgspec.msgpack.decode(value, type=DepthSnapshot).sequence

    feeds.apply(FIRST, frame(log.depth(START_MS, (Side.BUY, 90, 1))))
    assert written(0) == 1
    feeds.apply(SECOND, frame(log.depth(START_MS, (Side.BUY, 91, 1))))
    assert written(1) is None
    assert feeds.wait_ms(1) == BASE_PERIOD_MS - 1
    assert written(BASE_PERIOD_MS) == 2
    assert feeds.wait_ms(BASE_PERIOD_MS) is None


def test_bases_of_many_markets_are_not_written_all_at_once() -> None:
    template, count = market_map().by_symbol[BTC], 3 * BASES_PER_BATCH
    markets = [msgspec.structs.replace(template, symbol=f"M{number}USDT") for number in range(count)]
    feeds, log = ShardFeeds(0, markets), MarketLog()

    def bases(now: int) -> int:
        return sum(key.startswith("depth:") for key in feeds.take_outputs(now).values)

    for entry in (FIRST, SECOND):
        changes = [log.depth(START_MS, (Side.BUY, 90, 1), market=market.symbol) for market in markets]
        feeds.apply(entry, frame(*changes))
        if entry is FIRST:
            assert bases(0) == count, "without them readers would have nothing"
    assert bases(1) == 0
    for _ in range(3):
        assert feeds.wait_ms(BASE_PERIOD_MS) == 0
        assert bases(BASE_PERIOD_MS) == BASES_PER_BATCH
    assert feeds.wait_ms(BASE_PERIOD_MS) is None


def test_final_candle_is_said_once_although_the_open_one_waits(feeds: ShardFeeds, log: MarketLog) -> None:
    feeds.apply(FIRST, frame(log.trade(START_MS, 5, 1)))
    assert [candle.closed for candle in candles(feeds.take_outputs(0), "1s")] == [False]
    feeds.apply(SECOND, frame(log.trade(START_MS + 1, 6, 1)))
    assert candles(feeds.take_outputs(1), "1s") == []
    feeds.advance(START_MS + 1_000)
    (final,) = candles(feeds.take_outputs(2), "1s")
    assert (final.closed, final.close, final.trade_count) == (True, 6, 2)
    feeds.advance(START_MS + 2_000)
    assert candles(feeds.take_outputs(10_000), "1s") == []


def test_what_is_closed_stays_closed_when_a_trade_comes_late(feeds: ShardFeeds, log: MarketLog) -> None:
    feeds.apply(FIRST, frame(log.trade(START_MS, 5, 1)))
    feeds.advance(START_MS + 1_000)
    feeds.take_outputs(0)
    feeds.apply(SECOND, frame(log.trade(START_MS + 999, 6, 1)))
    (late,) = candles(feeds.take_outputs(1_000), "1s")
    assert (late.open_time, late.trade_count, late.closed) == (START_MS + 1_000, 1, False)


def test_sums_beyond_64_bits_are_capped_and_survive_a_restart(feeds: ShardFeeds, log: MarketLog) -> None:
    most = AMOUNT_UNITS_MAX // 2**24
    feeds.apply(FIRST, frame(*(log.trade(START_MS, 2**24, most) for _ in range(40))))
    assert candles(feeds.take_outputs(0), "1d")[0].quote_volume == AMOUNT_UNITS_MAX
    saved = feeds.save()
    again = ShardFeeds.decode(0, market_map().markets, saved.state, saved.chunks)
    assert again.save().state == saved.state


def test_levels_beyond_the_bound_are_in_the_book_but_not_in_the_read_model(feeds: ShardFeeds) -> None:
    changes = tuple(LevelChange(Side.SELL, PriceTicks(price), QuantityLots(1)) for price in range(1, 6_001))
    feeds.apply(FIRST, frame(DepthChanged(TimeMs(START_MS), BTC, Sequence(1), changes)))
    snapshot = msgspec.msgpack.decode(feeds.take_outputs(0).values[streams.depth(0, BTC)], type=DepthSnapshot)
    assert [price for price, _ in snapshot.asks] == list(range(1, BASE_LEVELS + 1))


@pytest.mark.parametrize(
    "event",
    [
        StateHashed(TimeMs(5_000), 10_000, "00"),
        FeesWithdrawn(TimeMs(5_000), "BTC", AssetUnits(1), "f"),
        AccountClosed(TimeMs(5_000), AccountId(7)),
        EntrySkipped(TimeMs(5_000), "1-0", "ada", "why"),
    ],
)
def test_what_is_nobodys_news(event: Event) -> None:
    feeds = ShardFeeds(0, market_map(1).markets)
    assert feeds.apply(StreamId(5000), frame(event)) == 1
    assert feeds.position == StreamId(5000)
    assert feeds.take_outputs(0).messages == [(streams.second(0), msgspec.msgpack.encode(5_000))]


def test_the_time_is_said_once_a_second_after_what_came_before_it(feeds: ShardFeeds, log: MarketLog) -> None:
    feeds.apply(FIRST, frame(log.trade(START_MS, 100, 1)))
    assert [channel for channel, _ in feeds.take_outputs(0).messages][-1] == streams.second(0)
    feeds.advance(START_MS + 999)
    assert heard(feeds.take_outputs(0), streams.second(0)) == []
    feeds.advance(START_MS + 3_500)
    outputs = feeds.take_outputs(0)
    closed = msgspec.msgpack.decode(outputs.messages[0][1], type=Candle)
    assert (closed.interval, closed.closed) == ("1s", True)
    assert outputs.messages[-1] == (streams.second(0), msgspec.msgpack.encode(START_MS + 3_500))
    # A start says nothing of what was said before.
    feeds.advance(START_MS + 5_000)
    feeds.skip_outputs()
    assert heard(feeds.take_outputs(0), streams.second(0)) == []


LISTED = MarketConfigured(TimeMs(START_MS), MarketConfig(market_map().by_symbol[BTC], 0))


def test_a_market_is_known_from_the_event_that_lists_it(log: MarketLog) -> None:
    feeds = ShardFeeds(0, ())
    with pytest.raises(UnknownMarketError):
        feeds.apply(FIRST, frame(MarketLog().trade(START_MS, 100, 5)))
    feeds.apply(FIRST, frame(LISTED, log.trade(START_MS, 100, 5), log.depth(START_MS, (Side.BUY, 99, 7))))
    feeds.apply(SECOND, frame(log.trade(START_MS + 1, 101, 5)))
    outputs = feeds.take_outputs(0)
    assert outputs.trades[streams.trades(0, BTC)]
    assert heard(outputs, streams.market_data(BTC, MarketDataKind.DEPTH))
    assert outputs.values.keys() == {
        key(0, BTC) for key in (streams.depth, streams.book_ticker, streams.ticker)
    }
    # 100 and 101 ticks x 5 lots each: 1,005 tick-lots of quote.
    (candle,) = candles(outputs, "1d")
    assert (candle.volume, candle.quote_volume) == (
        10,
        1_005 * market_map().by_symbol[BTC].quote_per_tick_lot,
    )


def test_a_saved_state_knows_its_markets(log: MarketLog) -> None:
    feeds = ShardFeeds(0, ())
    feeds.apply(FIRST, frame(LISTED, log.trade(START_MS, 100, 5)))
    feeds.take_outputs(0)
    saved = feeds.save()
    again = ShardFeeds.decode(0, (), saved.state, saved.chunks)
    assert not again.undefined
    again.apply(SECOND, frame(log.trade(START_MS + 1, 101, 5)))
    assert again.take_outputs(0).trades[streams.trades(0, BTC)]


def test_a_state_of_an_earlier_release_names_markets_without_defining_them(log: MarketLog) -> None:
    feeds = ShardFeeds(0, market_map().markets)
    feeds.apply(FIRST, frame(log.trade(START_MS, 100, 5)))
    feeds.take_outputs(0)
    position, time, markets, _ = msgspec.json.decode(feeds.save().state)
    state = msgspec.json.encode([position, time, markets])
    assert ShardFeeds.decode(0, (), state, {}).undefined == market_map().by_symbol.keys()
    assert not ShardFeeds.decode(0, market_map().markets, state, {}).undefined


def test_another_configuration_of_a_market_changes_nothing_that_feeds_know(log: MarketLog) -> None:
    feeds = ShardFeeds(0, market_map().markets)
    feeds.apply(FIRST, frame(log.depth(START_MS, (Side.BUY, 99, 7))))
    feeds.apply(SECOND, frame(LISTED, log.depth(START_MS, (Side.BUY, 98, 1))))
    value = feeds.take_outputs(0).values[streams.depth(0, BTC)]
    assert msgspec.msgpack.decode(value, type=DepthSnapshot).bids == ((99, 7), (98, 1))


def test_a_step_looks_at_the_markets_that_it_is_about(
    log: MarketLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand: or each batch would cost some milliseconds, whatever it tells."""
    (market, *_) = market_map().markets
    quiet = [
        msgspec.structs.replace(market, symbol=f"A{number}USDT", base=f"A{number}") for number in range(1_000)
    ]
    feeds = ShardFeeds(0, [market, *quiet])
    feeds.apply(FIRST, frame(log.trade(START_MS, 3, 4, Side.SELL)))
    feeds.take_outputs(0)  # the first step brings all to its time
    looks: list[str] = []
    for name in ("collect", "fold_batch", "advance", "wait_ms"):
        real = getattr(state._MarketFeed, name)

        def seen(
            self: state._MarketFeed, *args: object, real: Callable[..., object] = real, **named: object
        ) -> object:
            looks.append(self.market.symbol)
            return real(self, *args, **named)

        monkeypatch.setattr(state._MarketFeed, name, seen)
    feeds.apply(SECOND, frame(log.trade(START_MS + 1, 3, 4, Side.SELL)))
    assert heard(feeds.take_outputs(1), streams.market_data(BTC, MarketDataKind.TRADE))
    feeds.wait_ms(1)
    assert set(looks) == {BTC}
    assert len(looks) <= 6
    # A second's end concerns every market: its candle may be over, its ticker's window moves.
    feeds.advance(START_MS + 1_000)
    assert len(set(looks)) == 1_001
