"""The real `FeedsWorker` on a store in memory, the logic of `feeds.main`, and a subscriber to everything."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from typing_extensions import override

from feeds.state import DIFFS_MAX, TRADES_MAX, Outputs, SavedState
from feeds.store import FeedsStore, Mark, Saved, markets_of
from feeds.worker import FeedsWorker
from lab.simulation.next_release import Program, Running
from lab.simulation.process import Process, Surroundings
from lab.simulation.schedule import Action
from lab.simulation.witness import Books, Witness, require
from protocol import streams
from protocol.codec import LaterFormatError, decode_readable_events, format_of
from protocol.depth import book_after, diffs_after
from protocol.events import Event, ShardEvent, TradeExecuted
from protocol.intervals import INTERVALS, interval_bounds
from protocol.market import Market, MarketMap
from protocol.market_data import (
    AccountUpdate,
    BookTicker,
    Candle,
    DepthDiff,
    DepthSnapshot,
    Ticker,
    TradeBatch,
)
from protocol.orders import Side
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD, EventReader, MarketDataKind
from stream_log.interface import DeadLetter, Fenced, Rewound
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import Unreachable

SAVE_PERIOD_MS = 60
"""Short, so that a run sees many saved states and as many restarts from them."""


class FeedsHash:
    """`feeds:{k}`, and the keys that the feeds write beside it, of one shard."""

    def __init__(self) -> None:
        self.epoch = 0
        self.mark = Mark(STREAM_START, 0)
        self.state = b""
        self.saved_id = STREAM_START
        """The entry that the state belongs to."""
        self.chunks: dict[str, bytes] = {}
        self.values: dict[str, bytes] = {}
        self.trades: dict[str, list[bytes]] = {}
        self.candles: dict[str, dict[str, bytes]] = {}
        self.diffs: dict[str, list[bytes]] = {}


class MemoryFeedsStore(FeedsStore):
    """`FeedsStore` in memory; a commit is all or nothing, as the script is. For one process."""

    def __init__(
        self,
        log: MemoryStreamLog,
        hashes: Mapping[int, FeedsHash],
        process: Process,
        subscriber: "Subscriber",
    ) -> None:
        self._memory = log
        self._hashes = hashes
        self._process = process
        self._subscriber = subscriber
        self._own_epochs: dict[int, int] = {}

    @override
    def take_over(self, shard: int) -> int:

        def raise_epoch() -> None:
            feeds_hash = self._hashes[shard]
            feeds_hash.epoch += 1
            self._own_epochs[shard] = feeds_hash.epoch
            if EventReader.FEEDS not in self._memory.passed(shard):
                self._memory.mark_passed(shard, EventReader.FEEDS, STREAM_START)

        self._process.write("take_over", raise_epoch)
        return self._own_epochs[shard]

    @override
    def load(self, shard: int) -> Saved:
        feeds_hash = self._process.call("load", lambda: self._hashes[shard])
        if feeds_hash.epoch != self._own_epochs[shard]:
            raise Fenced(f"another feeds process has taken over shard {shard}")
        return Saved(
            feeds_hash.mark.stream_id, feeds_hash.mark.time, feeds_hash.state, dict(feeds_hash.chunks)
        )

    @override
    def markets(self, shard: int) -> list[Market] | None:
        return markets_of(self._process.call("configuration", lambda: self._memory.configuration(shard)))

    @override
    def read(
        self, after: Mapping[int, StreamId], count: int, block_ms: int
    ) -> list[tuple[int, StreamId, bytes]]:
        shards = {streams.events(shard): shard for shard in after}
        wanted = {name: after[shard] for name, shard in shards.items()}
        entries = self._process.call("read", lambda: self._memory.read(wanted, count, block_ms))
        return [
            (shards[entry.stream], entry.stream_id, entry.fields.get(EVENTS_FIELD, b"")) for entry in entries
        ]

    def next_entry(self, shard: int) -> list[tuple[int, StreamId, bytes]]:
        """Return the entry behind the mark, if there is one; without faults."""
        entries = self._memory.read({streams.events(shard): self._hashes[shard].mark.stream_id}, 1, 0)
        return [(shard, entry.stream_id, entry.fields.get(EVENTS_FIELD, b"")) for entry in entries]

    @override
    def commit(
        self,
        shard: int,
        expected: Mark,
        following: Mark,
        outputs: Outputs,
        dead_letters: Sequence[DeadLetter] = (),
        saved: SavedState | None = None,
    ) -> None:

        def write() -> bool:
            feeds_hash = self._hashes[shard]
            if (feeds_hash.epoch, feeds_hash.mark) != (self._own_epochs[shard], expected):
                return False
            self._write(shard, feeds_hash, following, outputs, saved)
            for letter in dead_letters:
                self._memory.append(streams.dead_letters(shard), letter.fields())
            return True

        if not self._process.write("commit", write):
            if self._hashes[shard].epoch == self._own_epochs[shard]:
                raise Rewound(f"shard {shard}: not all that was published is there any more")
            raise Fenced(f"another feeds process has taken over shard {shard}")

    def _write(
        self, shard: int, feeds_hash: FeedsHash, following: Mark, outputs: Outputs, saved: SavedState | None
    ) -> None:
        feeds_hash.mark = following
        for key in outputs.removed:
            feeds_hash.values.pop(key, None)
            feeds_hash.diffs.pop(key, None)
        feeds_hash.values.update(outputs.values)
        for key, diff in outputs.diffs.items():
            feeds_hash.diffs[key] = [diff, *feeds_hash.diffs.get(key, [])][:DIFFS_MAX]
        for key, trades in outputs.trades.items():
            newest = [bytes(trade) for trade in reversed(trades)]
            feeds_hash.trades[key] = [*newest, *feeds_hash.trades.get(key, [])][:TRADES_MAX]
        for key, candles in outputs.candles.items():
            feeds_hash.candles.setdefault(key, {}).update(candles)
        if saved is not None:
            feeds_hash.state, feeds_hash.saved_id = saved.state, following.stream_id
            feeds_hash.chunks.update(saved.chunks)
            for name in saved.expired:
                feeds_hash.chunks.pop(name, None)
            self._memory.mark_passed(shard, EventReader.FEEDS, following.stream_id)
        with Running(self._process.surroundings.program):
            for channel, payload in outputs.messages:
                self._subscriber.hear(channel, payload)

    @override
    def close(self) -> None:
        pass


class FeedsProcess(Process):
    """A feeds process, as `feeds.main` runs it."""

    kind = "feeds"

    def __init__(self, surroundings: Surroundings, store: "FeedsStores", name: str) -> None:
        super().__init__(surroundings, name)
        self._store = MemoryFeedsStore(store.log, store.hashes, self, store.subscriber)
        self._market_map = store.market_map
        self._worker: FeedsWorker | None = None
        self._is_restored = False

    @property
    def is_up(self) -> bool:
        """Whether it runs; it may have been superseded without knowing."""
        return self._worker is not None

    def step(self, action: Action) -> None:
        """Start when it is down, restore after an error, otherwise follow the log."""
        now = self.surroundings.now
        try:
            if self._worker is None:
                worker = FeedsWorker(self._store, range(self._market_map.shard_count), SAVE_PERIOD_MS)
                worker.start()
                self._worker = worker
                self.surroundings.inject("start (feeds)")
            if not self._is_restored:
                self._worker.restore()
                self._is_restored = True
            self._worker.step(now, 0)
        except (*Unreachable, Rewound):
            self._is_restored = False
        except Fenced:
            self.surroundings.inject("superseded (feeds)")
            self.end()
        except LaterFormatError:
            self.surroundings.inject("too old for the log (feeds)")
            self.end()
        else:
            self._note_held()

    def _note_held(self) -> None:
        """Note that it waits for a program that reads what comes next."""
        if self.program is Program.NEXT:
            return
        for shard in range(self._market_map.shard_count):
            for _, _, frame in self._store.next_entry(shard):
                try:
                    format_of(frame)
                except LaterFormatError:
                    self.surroundings.inject("held (feeds)")

    def end(self) -> None:
        """Forget the state in memory; what is committed stays."""
        self._worker, self._is_restored = None, False


class Subscriber:
    """Hears everything that the feeds publish, and believes it unless it cannot be true."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._kinds = {
            streams.market_data(market.symbol, kind): (market.symbol, payload)
            for market in witness.market_map.markets
            for kind, payload in _PAYLOADS.items()
        }
        self.levels: dict[str, dict[Side, dict[int, int]]] = {
            market.symbol: {Side.BUY: {}, Side.SELL: {}} for market in witness.market_map.markets
        }
        self.sequences: defaultdict[str, int] = defaultdict(int)
        self.trade_counts: defaultdict[str, int] = defaultdict(int)
        self.best: dict[str, BookTicker] = {}
        self.tickers: dict[str, Ticker] = {}
        self.closed: defaultdict[tuple[str, str], list[Candle]] = defaultdict(list)
        self.open: dict[tuple[str, str], Candle] = {}
        self.account_events: defaultdict[int, list[Event]] = defaultdict(list)
        self._seconds = {streams.second(shard): shard for shard in range(witness.market_map.shard_count)}
        self.times: dict[int, int] = {}

    def hear(self, channel: str, payload: bytes) -> None:
        """Take one message in.

        Raises:
            Violation: it tells of something twice, too early, or not at all.
        """
        if channel.startswith("account:"):
            update = msgspec.msgpack.decode(payload, type=AccountUpdate)
            self.account_events[update.account_id] += decode_readable_events(bytes(update.events))
            return
        if channel in self._seconds:
            self._hear_second(self._seconds[channel], msgspec.msgpack.decode(payload, type=int))
            return
        symbol, kind = self._kinds[channel]
        message: Any = msgspec.msgpack.decode(payload, type=kind)
        match message:
            case TradeBatch(trades=trades):
                witnessed = self._witness.books.trades[symbol]
                for trade in trades:
                    self.trade_counts[symbol] += 1
                    count = self.trade_counts[symbol]
                    require(
                        count <= len(witnessed) and witnessed[count - 1] == trade,
                        f"{symbol}: trade {count} is published as {trade}",
                    )
            case DepthDiff():
                first = self.sequences[symbol] + 1
                require(
                    message.first_sequence == first,
                    f"{symbol}: depth goes on with {message.first_sequence}, not {first}",
                )
                self.sequences[symbol] = message.last_sequence
                for side, changes in ((Side.BUY, message.bids), (Side.SELL, message.asks)):
                    levels = self.levels[symbol][side]
                    for price, quantity in changes:
                        levels.pop(price, None)
                        if quantity:
                            levels[price] = quantity
            case BookTicker():
                self.best[symbol] = message
            case Ticker():
                self.tickers[symbol] = message
            case Candle(closed=True):
                self.closed[symbol, message.interval].append(message)
                self.open.pop((symbol, message.interval), None)
            case Candle():
                self.open[symbol, message.interval] = message

    def _hear_second(self, shard: int, time: int) -> None:
        """Take a shard's time in: all that is over by then was heard."""
        require(
            time >= self.times.get(shard, 0), f"shard {shard}: {time} is said after {self.times.get(shard)}"
        )
        self.times[shard] = time
        for (symbol, interval), candle in self.open.items():
            if self._witness.market_map.shards[symbol] == shard:
                require(
                    candle.close_time >= time,
                    f"{symbol}: the {interval} candle of {candle.open_time} is open at {time}",
                )


_PAYLOADS: dict[MarketDataKind, type[Any]] = {
    MarketDataKind.TRADE: TradeBatch,
    MarketDataKind.DEPTH: DepthDiff,
    MarketDataKind.BOOK_TICKER: BookTicker,
    MarketDataKind.TICKER: Ticker,
    MarketDataKind.CANDLE: Candle,
}


class FeedsStores:
    """All that the feeds of all shards have in Redis, and who listens."""

    def __init__(self, log: MemoryStreamLog, witness: Witness) -> None:
        self.log = log
        self.market_map: MarketMap = witness.market_map
        self.hashes = {shard: FeedsHash() for shard in range(self.market_map.shard_count)}
        self.subscriber = Subscriber(witness)

    def check(self, books: Books, happened: Sequence[Event], times: Sequence[int]) -> None:
        """Compare the read models and what the subscriber heard with what happened.

        `times` are those that the shards told last.

        Raises:
            Violation: they differ.
        """
        heard = self.subscriber
        told: defaultdict[int, list[Event]] = defaultdict(list)
        for event in happened:
            account_id = getattr(event, "account_id", 0) or getattr(
                getattr(event, "order", None), "account_id", 0
            )
            if account_id and not isinstance(event, ShardEvent):
                told[account_id].append(event)
        for account_id in told.keys() | heard.account_events.keys():
            require(
                heard.account_events[account_id] == told[account_id],
                f"account {account_id} heard {len(heard.account_events[account_id])} events of "
                f"{len(told[account_id])}",
            )
        for market in self.market_map.markets:
            # Candles close by the time that their shard tells, which may be a second ahead after a clock was
            # wrong.
            self._check_market(market, books, times[self.market_map.shard_of_market(market.symbol)])

    def _check_market(self, market: Market, books: Books, now: int) -> None:
        symbol, heard, shard = market.symbol, self.subscriber, self.market_map.shard_of_market(market.symbol)
        feeds_hash, trades, levels = self.hashes[shard], books.trades[symbol], books.levels[symbol]
        require(
            heard.trade_counts[symbol] == len(trades),
            f"{symbol}: {heard.trade_counts[symbol]} of {len(trades)} trades heard",
        )
        require(
            heard.sequences[symbol] == books.sequences[symbol], f"{symbol}: changes of depth were not heard"
        )
        require(
            heard.levels[symbol] == levels, f"{symbol}: the book that subscribers have is not the shard's"
        )
        listed = [
            msgspec.msgpack.decode(frame, type=TradeExecuted)
            for frame in feeds_hash.trades.get(streams.trades(shard, symbol), [])
        ]
        require(listed == trades[: -TRADES_MAX - 1 : -1], f"{symbol}: the list of trades is wrong")
        if not books.sequences[symbol]:
            return
        bids, asks = sorted(levels[Side.BUY].items(), reverse=True), sorted(levels[Side.SELL].items())
        base = msgspec.msgpack.decode(feeds_hash.values[streams.depth(shard, symbol)], type=DepthSnapshot)
        newest = feeds_hash.diffs.get(streams.depth_diffs(shard, symbol), [])
        diffs = diffs_after(
            base.sequence, [msgspec.msgpack.decode(frame, type=DepthDiff) for frame in newest]
        )
        depth = book_after(base, diffs) if diffs is not None else None
        require(
            depth is not None
            and (depth.sequence, list(depth.bids), list(depth.asks)) == (books.sequences[symbol], bids, asks),
            f"{symbol}: the read model of depth is not the book",
        )
        best = (*(bids or [(0, 0)])[0], *(asks or [(0, 0)])[0])
        frame = feeds_hash.values.get(streams.book_ticker(shard, symbol))
        # Orders that came and went within one batch have never been the best, and may have been all there
        # were.
        ticker = msgspec.msgpack.decode(frame, type=BookTicker) if frame else None
        shown = (
            (ticker.bid_price, ticker.bid_quantity, ticker.ask_price, ticker.ask_quantity)
            if ticker
            else (0, 0, 0, 0)
        )
        require(
            shown == best and heard.best.get(symbol) == ticker,
            f"{symbol}: best prices are {best}, shown are {shown}",
        )
        if trades:
            self._check_candles(market, trades, feeds_hash, now)
            self._check_ticker(market, trades, feeds_hash)

    def _check_candles(
        self, market: Market, trades: Sequence[TradeExecuted], feeds_hash: FeedsHash, now: int
    ) -> None:
        symbol, heard = market.symbol, self.subscriber
        stored = feeds_hash.candles[streams.candles(self.market_map.shard_of_market(symbol), symbol)]
        for interval in INTERVALS:
            expected = candles_of(market, interval, trades)
            got = [*heard.closed[symbol, interval]]
            if (symbol, interval) in heard.open:
                got.append(heard.open[symbol, interval])
            require(
                [msgspec.structs.replace(candle, closed=False) for candle in got] == expected,
                f"{symbol}: the candles of {interval} are not those of the trades",
            )
            require(
                all(candle.closed for candle in got[:-1]),
                f"{symbol}: a candle of {interval} was never closed",
            )
            require(
                got[-1].closed == (got[-1].close_time < now),
                f"{symbol}: the last candle of {interval} is open at {now}",
            )
            require(
                msgspec.msgpack.decode(stored[interval], type=Candle) == got[-1],
                f"{symbol}: the stored candle of {interval} is not the last",
            )

    def _check_ticker(self, market: Market, trades: Sequence[TradeExecuted], feeds_hash: FeedsHash) -> None:
        symbol = market.symbol
        payload = feeds_hash.values[streams.ticker(self.market_map.shard_of_market(symbol), symbol)]
        ticker = msgspec.msgpack.decode(payload, type=Ticker)
        require(
            self.subscriber.tickers[symbol] == ticker,
            f"{symbol}: the ticker that was heard is not the stored one",
        )
        inside = [trade for trade in trades if trade.time >= ticker.open_time]
        expected = (sum(trade.quantity for trade in inside), len(inside), inside[-1].price if inside else 0)
        shown = (ticker.volume, ticker.trade_count, ticker.last)
        require(shown == expected, f"{symbol}: the ticker shows {shown}, the trades are {expected}")
        for window in ticker.windows:
            inside = [trade for trade in trades if trade.time >= window.open_time]
            expected = (
                sum(trade.quantity for trade in inside),
                len(inside),
                inside[-1].price if inside else 0,
            )
            shown = (window.volume, window.trade_count, window.last)
            require(
                shown == expected,
                f"{symbol}: the {window.name} ticker shows {shown}, the trades are {expected}",
            )


def candles_of(market: Market, interval: str, trades: Sequence[TradeExecuted]) -> list[Candle]:
    """Return the candles of the trades, added up one by one; none is marked as closed."""
    groups: dict[tuple[int, int], list[TradeExecuted]] = {}
    for trade in trades:
        groups.setdefault(interval_bounds(interval, trade.time), []).append(trade)
    candles = []
    for (first, end), group in groups.items():
        prices = [trade.price for trade in group]
        bought = [trade for trade in group if trade.taker_side is Side.BUY]
        values = (
            first,
            end - 1,
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            sum(trade.quantity for trade in group),
            sum(market.notional(trade.price, trade.quantity) for trade in group),
            len(group),
            sum(trade.quantity for trade in bought),
            sum(market.notional(trade.price, trade.quantity) for trade in bought),
            group[0].trade_id,
            group[-1].trade_id,
        )
        candles.append(msgspec.convert([market.symbol, interval, *values], Candle))
    return candles
