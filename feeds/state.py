"""The feeds' state of one shard: frames in, market data out. No I/O and no clock.

There are two kinds of output. Outputs about *events* (trades, depth diffs, the book ticker, account updates,
closed candles) are published with their batch, exactly once. Outputs about a *state* (the base of the depth,
open candles, the ticker) are published when they are due: at once after a pause, at a bounded rate while the
state keeps changing; repeating them after a restart is harmless.

Readers get the depth from a base and the diffs since (protocol/depth.py), so they always have the state after
the last batch.

Time is the log's: it advances with the events and with `advance`, and closed intervals stay closed. `now`
only paces the outputs; it may be any clock that counts milliseconds.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from feeds import fast
from feeds.accounts import AccountFrames
from feeds.candles import Candles, OpenCandle
from feeds.depth import BaseRecord, HalfBook
from feeds.first_fills import FirstFills, Forgiven
from feeds.frames import BUY, Configured, DepthChange, Filled, Trade, decode
from feeds.tickers import Bucket, RollingTicker, kept_from
from feeds.trades import UnmergedTrades
from protocol import depth, streams
from protocol.codec import UnreadItem, encode_frame, raw_events
from protocol.decoding import json_decoder
from protocol.intervals import INTERVALS
from protocol.market import Market
from protocol.market_data import BookTicker, Candle, DepthDiff, DepthSnapshot
from protocol.orders import Side
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import MarketDataKind
from protocol.units import PriceTicks, QuantityLots, Sequence, TimeMs
from protocol.violations import InvariantBroken, UnknownMarketError

if TYPE_CHECKING:
    from feeds.fast._heads import FrameHeads

TRADES_MAX: Final = 1_000
"""Maximum of trades in a market's list."""
DIFFS_MAX: Final = 2_000
"""Maximum of depth diffs in a market's list."""
CLOSED_CANDLES_MAX: Final = 300
"""Maximum of closed candles in a market's list of one interval."""
BASE_PERIOD_MS: Final = 1_000
"""Interval between new bases of a market that keeps changing: earlier releases read only bases."""
BASES_PER_BATCH: Final = 4
"""Maximum of bases that are written in one batch because they are due.

Each takes milliseconds, for which the batch waits.
"""
CANDLE_PERIOD_MS: Final = 250
TICKER_PERIOD_MS: Final = 1_000

_CHUNK_SECONDS: Final = 600
"""A saved ticker window is stored in chunks of ten minutes; a full chunk is written only once."""


class Outputs(msgspec.Struct):
    """Data to write and publish together. Keys and channels are those of protocol/streams.py."""

    values: dict[str, bytes] = msgspec.field(default_factory=dict)
    """Key -> a read model."""
    removed: list[str] = msgspec.field(default_factory=list)
    """Keys to remove before anything is written."""
    trades: dict[str, list[msgspec.Raw]] = msgspec.field(default_factory=dict)
    """Key -> new trades, oldest first, for a list that has the newest first."""
    candles: dict[str, dict[str, bytes]] = msgspec.field(default_factory=dict)
    """Key -> interval -> the newest candle."""
    diffs: dict[str, bytes] = msgspec.field(default_factory=dict)
    """Key -> the batch's depth diff, for a list that has the newest first."""
    closed_candles: dict[str, list[bytes]] = msgspec.field(default_factory=dict)
    """Key -> closed candles, oldest first, for a list that has the newest first."""
    forgiven: dict[str, Forgiven] = msgspec.field(default_factory=dict)
    """Key of a count of unfilled orders -> its reduction."""
    messages: list[tuple[str, bytes]] = msgspec.field(default_factory=list)
    """(channel, payload), in order."""

    def __bool__(self) -> bool:
        return bool(self.values or self.removed or self.trades or self.candles or self.messages)


class SavedState(msgspec.Struct):
    """The data for a restart: `state`, and chunks of the ticker windows.

    A chunk is written once and removed when it is old.
    """

    state: bytes
    chunks: dict[str, bytes] = msgspec.field(default_factory=dict)
    """Name -> bytes, to be stored beside the state."""
    expired: list[str] = msgspec.field(default_factory=list)
    """Names of chunks that are no longer needed."""


class _MarketState(msgspec.Struct, array_like=True):
    """A market in `SavedState.state`; `buckets` are those that are in no chunk."""

    sequence: Sequence
    changed_time: TimeMs
    bids: dict[PriceTicks, QuantityLots]
    asks: dict[PriceTicks, QuantityLots]
    candles: dict[str, OpenCandle]
    previous_close: int
    buckets: list[Bucket]


MarketState = _MarketState
"""The argument of `ShardFeeds.rebuilt` for each market."""


class _ShardState(msgspec.Struct, array_like=True):
    """`SavedState.state`, as JSON: sums over many trades may exceed msgpack's integers."""

    position: str
    time: int
    markets: dict[str, _MarketState]
    configured: list[Market] = []
    """The definitions of these markets; an earlier release saved none."""


_EMPTY: Final = _MarketState(Sequence(0), TimeMs(0), {}, {}, {}, 0, [])

_decode_state = json_decoder(_ShardState)
_decode_chunk = json_decoder(list[Bucket])
_encode_json = msgspec.json.Encoder().encode


class _Paced:
    """An output that is due a period after the last time, once it has changed."""

    __slots__ = ("_last", "_period_ms", "changed")

    def __init__(self, period_ms: int) -> None:
        self._period_ms = period_ms
        self._last: int | None = None
        self.changed = False

    def wait_ms(self, now: int) -> int:
        """Return the time until it is due; 0: now."""
        return 0 if self._last is None else max(0, self._last + self._period_ms - now)

    def take(self, now: int) -> bool:
        """Return whether it is due; then it counts as written."""
        if not self.changed or self.wait_ms(now):
            return False
        self.note(now)
        return True

    def note(self, now: int) -> None:
        """Record that it is written now."""
        self.changed, self._last = False, now


class _MarketFeed:
    """One market: its book, candles and ticker, and the changes of the current batch."""

    def __init__(self, shard: int, market: Market, saved: _MarketState, chunks: Iterable[Bucket]) -> None:
        self.market = market
        self.sequence = saved.sequence
        self.changed_time = saved.changed_time
        self.bids = HalfBook(Side.BUY, saved.bids)
        self.asks = HalfBook(Side.SELL, saved.asks)
        self.candles = Candles(market.symbol, saved.candles)
        self.ticker = RollingTicker(market.symbol, saved.previous_close, (*chunks, *saved.buckets))
        self.trades = UnmergedTrades()
        self.trade_frames: list[msgspec.Raw] = []
        self.bid_changes: dict[PriceTicks, QuantityLots] = {}
        self.ask_changes: dict[PriceTicks, QuantityLots] = {}
        self._published_sequence = self.sequence
        self._best = (*self.bids.best(), *self.asks.best())
        self.best_is_lost = False
        """Whether the best prices must be published again although they have not changed."""
        self.diffs_are_lost = False
        """Whether the list of diffs is lost or wrong."""
        self._base = BaseRecord()
        self._base_due = _Paced(BASE_PERIOD_MS)
        self._candles_due = _Paced(CANDLE_PERIOD_MS)
        self._ticker_due = _Paced(TICKER_PERIOD_MS)
        symbol = market.symbol
        self._depth_key = streams.depth(shard, symbol)
        self._diffs_key = streams.depth_diffs(shard, symbol)
        self._book_ticker_key = streams.book_ticker(shard, symbol)
        self._ticker_key = streams.ticker(shard, symbol)
        self._trades_key = streams.trades(shard, symbol)
        self._candles_key = streams.candles(shard, symbol)
        self._closed_candles_keys = {
            interval: streams.closed_candles(shard, symbol, interval) for interval in INTERVALS
        }
        self._channels = {kind: streams.market_data(symbol, kind) for kind in MarketDataKind}

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be published, now or later."""
        return not (
            self.trade_frames
            or self.sequence != self._published_sequence
            or (self.best_is_lost and self.sequence)
            or self.diffs_are_lost
            or self.candles.have_closed
            or self._base_due.changed
            or self._candles_due.changed
            or self._ticker_due.changed
        )

    def advance(self, time: int) -> None:
        """Close candles and age windows at `time`. Within a second nothing changes."""
        self.candles.advance(time)
        if self.ticker.advance(time):
            self._ticker_due.changed = True

    def skip_batch(self) -> None:
        """Drop outputs about events; repeat outputs about a state."""
        self.trade_frames = []
        self.bid_changes, self.ask_changes = {}, {}
        self.candles.take_closed()
        self._published_sequence = self.sequence
        self._best = (*self.bids.best(), *self.asks.best())
        self._base.forget()
        self._base_due.changed = self._candles_due.changed = self._ticker_due.changed = self.sequence > 0

    def wait_ms(self, now: int) -> int | None:
        """Return the time until something is due; None: nothing has changed."""
        waits = [
            due.wait_ms(now) for due in (self._base_due, self._candles_due, self._ticker_due) if due.changed
        ]
        return min(waits, default=None)

    def fold_batch(self, second_min: int) -> None:
        """Merge the batch into candles, ticker and book."""
        if self.trades:
            for second, total in self.trades.take_sums(self.market.quote_per_tick_lot, second_min):
                self.candles.add(second, total)
                self.ticker.add(second, total)
            self._candles_due.changed = self._ticker_due.changed = True
        self.bids.merge(self.bid_changes)
        self.asks.merge(self.ask_changes)

    def collect(self, outputs: Outputs, time: int, now: int, *, may_write_base: bool) -> bool:
        """Add the batch's outputs, and those that are due.

        Return whether a base was written because it was due.
        """
        if self.trade_frames:
            batch = encode_frame((self.market.symbol, self.trade_frames))
            outputs.messages.append((self._channels[MarketDataKind.TRADE], batch))
            outputs.trades[self._trades_key] = self.trade_frames[-TRADES_MAX:]
            self.trade_frames = []
        if self.diffs_are_lost:
            # After a log that has lost its end, the stored diffs may not match this state.
            outputs.removed += [self._diffs_key] if self.sequence else [self._diffs_key, self._depth_key]
            self.diffs_are_lost = False
        if self.sequence != self._published_sequence:
            self._collect_depth(outputs)
        if self.best_is_lost and self.sequence:
            self._say_best(outputs)
        for candle in self.candles.take_closed():
            self._collect_candle(outputs, candle)
        if self._candles_due.take(now):
            for candle in self.candles.current():
                self._collect_candle(outputs, candle)
        if self._ticker_due.take(now):
            payload = encode_frame(self.ticker.ticker(time))
            outputs.values[self._ticker_key] = payload
            outputs.messages.append((self._channels[MarketDataKind.TICKER], payload))
        if self._base_due.changed and self._base.is_used_up(self.bids, self.asks):
            # Not limited like the bases that are merely due: readers cannot compose the book from this one
            # any more, or have too much to read.
            self._base_due.note(now)
            self._collect_base(outputs)
            return False
        if may_write_base and self._base_due.take(now):
            self._collect_base(outputs)
            return True
        return False

    def _collect_base(self, outputs: Outputs) -> None:
        bids, asks = self.bids.top(depth.BASE_LEVELS), self.asks.top(depth.BASE_LEVELS)
        base = DepthSnapshot(self.changed_time, self.market.symbol, self.sequence, bids, asks)
        outputs.values[self._depth_key] = encode_frame(base)
        self._base.note_base(base)

    def _collect_depth(self, outputs: Outputs) -> None:
        symbol, sequence = self.market.symbol, self.sequence
        diff = DepthDiff(
            self.changed_time,
            symbol,
            Sequence(self._published_sequence + 1),
            sequence,
            tuple(self.bid_changes.items()),
            tuple(self.ask_changes.items()),
        )
        payload = encode_frame(diff)
        outputs.messages.append((self._channels[MarketDataKind.DEPTH], payload))
        outputs.diffs[self._diffs_key] = payload
        self._published_sequence = sequence
        self._base.note_diff(diff)
        self._base_due.changed = True
        self.bid_changes, self.ask_changes = {}, {}
        best = (*self.bids.best(), *self.asks.best())
        if best != self._best:
            self._best = best
            self._say_best(outputs)

    def _say_best(self, outputs: Outputs) -> None:
        payload = encode_frame(BookTicker(self.changed_time, self.market.symbol, self.sequence, *self._best))
        outputs.values[self._book_ticker_key] = payload
        outputs.messages.append((self._channels[MarketDataKind.BOOK_TICKER], payload))
        self.best_is_lost = False

    def _collect_candle(self, outputs: Outputs, candle: Candle) -> None:
        payload = encode_frame(candle)
        outputs.messages.append((self._channels[MarketDataKind.CANDLE], payload))
        outputs.candles.setdefault(self._candles_key, {})[candle.interval] = payload
        if candle.closed:
            outputs.closed_candles.setdefault(self._closed_candles_keys[candle.interval], []).append(payload)

    def save(self, time: int, chunks: dict[str, bytes], first_chunk: int) -> _MarketState:
        """Return the state; add complete chunks of the ticker's window from `first_chunk` on to `chunks`."""
        current = time // 1000 // _CHUNK_SECONDS
        unsaved: dict[int, list[Bucket]] = {}
        for bucket in reversed(self.ticker.buckets):
            chunk = bucket[0] // _CHUNK_SECONDS
            if chunk < first_chunk:
                break
            unsaved.setdefault(chunk, []).append(bucket)
        for chunk, buckets in unsaved.items():
            buckets.reverse()
            if chunk < current:
                chunks[_chunk_name(self.market.symbol, chunk)] = _encode_json(buckets)
        return _MarketState(
            self.sequence,
            self.changed_time,
            self.bids.levels,
            self.asks.levels,
            self.candles.open,
            self.ticker.previous_close,
            [bucket for chunk in sorted(unsaved) if chunk >= current for bucket in unsaved[chunk]],
        )


class ShardFeeds:
    """The feeds of one shard.

    `apply` frames, `advance` the time, then `take_outputs`: the outputs of one call belong together. `decode`
    creates an object from the result of `save`. It knows the markets passed in, those of its saved state, and
    those configured by events since.
    """

    def __init__(self, shard: int, markets: Iterable[Market]) -> None:
        self._start(shard, markets, _ShardState(str(STREAM_START), 0, {}), {})

    @classmethod
    def decode(
        cls, shard: int, markets: Iterable[Market], state: bytes, chunks: Mapping[str, bytes]
    ) -> "ShardFeeds":
        """Return the feeds that `save` described; `chunks` are all that were stored since.

        Raises:
            msgspec.MsgspecError: the bytes are not a saved state.
        """
        feeds = cls.__new__(cls)
        feeds._start(shard, markets, _decode_state(state), chunks)
        return feeds

    @classmethod
    def rebuilt(
        cls,
        shard: int,
        markets: Iterable[Market],
        position: StreamId,
        time: int,
        states: dict[str, MarketState],
    ) -> "ShardFeeds":
        """Return the feeds after everything up to `position`, assembled from the state of other readers."""
        feeds = cls.__new__(cls)
        feeds._start(shard, markets, _ShardState(str(position), time, states), {})
        return feeds

    def _start(
        self, shard: int, markets: Iterable[Market], saved: _ShardState, chunks: Mapping[str, bytes]
    ) -> None:
        self.shard = shard
        self.position = StreamId.parse(saved.position)
        """The last entry applied."""
        self.unread: list[UnreadItem] = []
        """The undecodable events of that entry."""
        self.time = self._event_time = saved.time
        """The log's time: no later event is older."""
        self._accounts = AccountFrames(self.position)
        self._first_fills = FirstFills(shard)
        self._chunk_names = set(chunks)
        self._first_chunk = max((_chunk_of(name) + 1 for name in chunks), default=0)
        first_second = kept_from(self.time)
        buckets: dict[str, list[Bucket]] = {}
        for name in sorted(chunks, key=_chunk_of):
            recent = [bucket for bucket in _decode_chunk(chunks[name]) if bucket[0] >= first_second]
            buckets.setdefault(_market_of(name), []).extend(recent)
        definitions = {market.symbol: market for market in (*saved.configured, *markets)}
        self._markets = {
            symbol: _MarketFeed(shard, market, saved.markets.get(symbol) or _empty(), buckets.get(symbol, ()))
            for symbol, market in definitions.items()
        }
        for feed in self._markets.values():
            feed.ticker.advance(self.time)
        self._touched: dict[str, _MarketFeed] = {}
        """Markets changed by the batch.

        The cost of a step depends on these and `_speaking`, not on all markets.
        """
        self._speaking: dict[str, _MarketFeed] = {}
        """Markets with something to publish, now or later."""
        self._second = -1
        """The second to which every market was advanced."""
        self._says_second = False
        """Whether a second has begun that was not published."""
        self.undefined = saved.markets.keys() - definitions.keys()
        """Markets of the saved state without a definition: with any, this object must not be used."""

    def know(self, markets: Iterable[Market]) -> None:
        """Add markets. A known market stays unchanged: its grid never changes."""
        for market in markets:
            feed = self._markets.get(market.symbol)
            if feed is not None:
                feed.market = market
            else:
                self._markets[market.symbol] = _MarketFeed(self.shard, market, _empty(), ())

    def apply(self, stream_id: StreamId, frame: bytes, *, are_markets_known: bool = False) -> int:
        """Apply the frame of one entry and return its number of events.

        Nothing is changed if the frame is undecodable.

        An undecodable event is skipped, and is in `unread` until the next call; so is an event of an unknown
        market, if `are_markets_known`.

        Raises:
            msgspec.MsgspecError: it is not an event frame.
            UnknownMarketError: it names a market that these feeds do not know.
            InvariantBroken: a market's sequence has a gap, or goes back.
        """
        if fast.read is not None:
            event_count = self._apply_read(fast.read(frame))
            if event_count is not None:
                self.unread, self.position = [], stream_id
                return event_count
        events, raws, self.unread = decode(frame)
        markets = self._markets
        # Checked before anything is applied: an entry is applied completely or not at all.
        configured = {event.config.market.symbol for event in events if isinstance(event, Configured)}
        if not are_markets_known:
            for event in events:
                if (
                    isinstance(event, (Trade, DepthChange))
                    and event.market not in markets
                    and event.market not in configured
                ):
                    raise UnknownMarketError(f"shard {self.shard} has no market {event.market[:40]!r}")
        for event, raw in zip(events, raws, strict=True):
            if isinstance(event, (Trade, DepthChange)):
                market = markets.get(event.market)
                if market is None:
                    self.unread.append(self._of_no_market(frame, event.market, raw))
                    continue
                # Trades and depth changes of a market share one sequence, so a lost or duplicate event is
                # noticed.
                if event.sequence != market.sequence + 1:
                    raise InvariantBroken(
                        f"shard {self.shard}, entry {stream_id}: sequence of {event.market} goes on with "
                        f"{event.sequence} after {market.sequence}"
                    )
                market.sequence = event.sequence
                market.changed_time = event.time
                self._touched[event.market] = market
                if isinstance(event, Trade):
                    market.trades.objects.append(event)
                    market.trade_frames.append(raw)
                    continue
                for side, price, quantity in event.changes:
                    if side == BUY:
                        market.bid_changes[price] = quantity
                    else:
                        market.ask_changes[price] = quantity
            elif isinstance(event, Configured):
                self.know([event.config.market])
            else:
                self._accounts.add(event, raw)
                if isinstance(event, Filled) and event.is_first_as_maker:
                    self._first_fills.note(event)
        if events:
            self._event_time = max(self._event_time, events[-1].time)
        self.position = stream_id
        return len(events)

    def _apply_read(self, heads: "FrameHeads | None") -> int | None:
        """Apply the result of the compiled reader, and return the number of events.

        None: the frame needs `decode`, and nothing is changed.
        """
        if heads is None:
            return None
        event_count, time, parts, accounts, first_fills = heads
        markets = self._markets
        for part in parts:
            market = markets.get(part.market)
            if market is None or part.first_sequence != market.sequence + 1:
                return None
        for part in parts:
            market = self._touched[part.market] = markets[part.market]
            market.sequence, market.changed_time = part.last_sequence, part.time
            if part.trade_frames:
                market.trades.add_packed(part.trades)
                market.trade_frames += part.trade_frames
            market.bid_changes.update(part.bid_changes)
            market.ask_changes.update(part.ask_changes)
        for account_id, count, events in accounts:
            self._accounts.add_joined(account_id, count, events)
        if first_fills:
            self._first_fills.note_all(first_fills)
        if event_count:
            self._event_time = max(self._event_time, time)
        return event_count

    def _of_no_market(self, frame: bytes, symbol: str, event: msgspec.Raw) -> UnreadItem:
        # The first event with these bytes stands for all of them: they are treated alike.
        payload = bytes(event)
        return UnreadItem(
            raw_events(frame).index(payload), payload, f"shard {self.shard} has no market {symbol[:40]!r}"
        )

    def go_on_from(self, sequences: Mapping[str, int]) -> None:
        """Let the next event of each market follow these sequences, skipping the numbers in between."""
        self._settle()
        for symbol, sequence in sequences.items():
            self._markets[symbol].sequence = Sequence(sequence)
            self._markets[symbol].skip_batch()
        self._look_who_speaks()

    def skip(self, stream_id: StreamId) -> None:
        """Record that an entry has nothing for feeds."""
        self.position = stream_id

    def advance(self, time: int) -> None:
        """Advance the log's time to `time` (ms); no earlier event can follow."""
        self._settle()
        self._event_time = max(self._event_time, time)
        self._settle()

    def _settle(self) -> None:
        """Merge the applied events, and advance every market to their time."""
        second_min, self.time = self.time // 1000, max(self.time, self._event_time)
        for market in self._touched.values():
            market.fold_batch(second_min)
        self._speaking |= self._touched
        self._touched.clear()
        if self.time // 1000 > self._second:
            self._second = self.time // 1000
            self._says_second = self.time > 0
            for market in self._markets.values():
                market.advance(self.time)
            self._look_who_speaks()

    def _look_who_speaks(self) -> None:
        self._speaking = {symbol: market for symbol, market in self._markets.items() if not market.is_quiet}

    def take_outputs(self, now: int) -> Outputs:
        """Return the outputs since the last call, and those that are due at `now` (ms)."""
        self._settle()
        outputs, bases_left = Outputs(), BASES_PER_BATCH
        for market in self._speaking.values():
            bases_left -= market.collect(outputs, self.time, now, may_write_base=bases_left > 0)
        self._speaking = {symbol: market for symbol, market in self._speaking.items() if not market.is_quiet}
        outputs.forgiven = self._first_fills.take()
        for update in self._accounts.take(self.position):
            outputs.messages.append((streams.account(update.account_id), encode_frame(update)))
        if self._says_second:
            # Last: a subscriber that receives it has received all trades and closed candles before that
            # second.
            outputs.messages.append((streams.second(self.shard), encode_frame(self.time)))
            self._says_second = False
        return outputs

    def skip_outputs(self) -> None:
        """Drop the outputs about events, which were published before.

        Outputs about a state are repeated.
        """
        self._settle()
        for market in self._markets.values():
            market.skip_batch()
        self._look_who_speaks()
        self._accounts.take(self.position)
        self._first_fills.take()
        self._says_second = False

    def repeat_all(self) -> None:
        """Repeat outputs about a state that are published only when it changes: the stored ones are lost."""
        for market in self._markets.values():
            market.best_is_lost = market.diffs_are_lost = True
        self._look_who_speaks()

    def wait_ms(self, now: int) -> int | None:
        """Return the time after `now` (ms) until something is due; None: nothing is."""
        waits = [wait for market in self._speaking.values() if (wait := market.wait_ms(now)) is not None]
        return min(waits, default=None)

    def save(self) -> SavedState:
        """Return the state after the last outputs were taken.

        Call it only if these outputs are stored together with it.
        """
        chunks: dict[str, bytes] = {}
        markets = {
            symbol: market.save(self.time, chunks, self._first_chunk)
            for symbol, market in self._markets.items()
        }
        first_second = kept_from(self.time)
        expired = [
            name for name in self._chunk_names if (_chunk_of(name) + 1) * _CHUNK_SECONDS <= first_second
        ]
        self._chunk_names = (self._chunk_names | chunks.keys()).difference(expired)
        self._first_chunk = self.time // 1000 // _CHUNK_SECONDS
        definitions = [market.market for market in self._markets.values()]
        return SavedState(
            _encode_json(_ShardState(str(self.position), self.time, markets, definitions)), chunks, expired
        )


def _empty() -> _MarketState:
    """Return the state of a market in which nothing has happened."""
    return msgspec.structs.replace(_EMPTY, bids={}, asks={}, candles={}, buckets=[])


def _chunk_name(symbol: str, chunk: int) -> str:
    return f"window:{symbol}:{chunk}"


def _chunk_of(name: str) -> int:
    return int(name.rpartition(":")[2])


def _market_of(name: str) -> str:
    return name.removeprefix("window:").rpartition(":")[0]
