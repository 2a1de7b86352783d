"""One market's streams: the feeds' messages in, updates out. Pure: the time is passed in.

Only streams with a subscriber (`wanted`) are produced. Trades are followed by their ids and depth by its
sequence, so missed messages are detected; `needs_trades` and `needs_depth` then request the data in Redis.
"""

from collections.abc import Collection, Container, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from protocol.depth import joined
from protocol.events import TradeExecuted
from protocol.intervals import INTERVALS, interval_bounds
from protocol.market import Market
from protocol.market_data import (
    TICKER_WINDOWS_MS,
    BookTicker,
    Candle,
    DepthDiff,
    DepthSnapshot,
    Ticker,
    WindowTicker,
)
from protocol.units import QuantityLots, TimeMs
from ws_edge import payloads
from ws_edge.book import EdgeBook
from ws_edge.conflation import Conflation, Update
from ws_edge.shifted_candles import PART_INTERVALS, PARTS, SHIFT, ShiftedCandles

PARTIAL_LEVELS: Final = (5, 10, 20)
FLAT_MAX: Final = 300
"""Maximum of consecutive candles without a trade that are sent after an interruption.

Of a longer interruption only the last candle is sent.
"""


class _Window:
    """Depth at one speed: diffs are merged until the window ends."""

    def __init__(self, symbol: str, suffixes: tuple[str, ...]) -> None:
        name = symbol.lower()
        self.diff_streams = tuple(f"{name}@depth{suffix}" for suffix in suffixes)
        self.partial_streams = tuple(
            (count, f"{name}@depth{count}{suffix}") for count in PARTIAL_LEVELS for suffix in suffixes
        )
        self.merged: DepthDiff | None = None
        self.changed = False


class MarketStreams:
    """The state of one market and its updates."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.book = EdgeBook(market.symbol)
        self.best: BookTicker | None = None
        self.ticker: Ticker | None = None
        self.ticker_changed = False
        self.windows = {
            100: _Window(market.symbol, ("@100ms",)),
            1000: _Window(market.symbol, ("", "@1000ms")),
        }
        name = market.symbol.lower()
        self._trade_stream, self._aggregate_stream = f"{name}@trade", f"{name}@aggTrade"
        self._book_ticker_stream = f"{name}@bookTicker"
        self._ticker_stream, self._mini_ticker_stream = f"{name}@ticker", f"{name}@miniTicker"
        self.candles_are_behind = False
        """Whether received candles wait for missed ones."""
        self._candles: dict[str, Candle] = {}
        self._kline_streams = {interval: f"{name}@kline_{interval}" for interval in INTERVALS}
        self._shifted_streams = {interval: f"{name}@kline_{interval}{SHIFT}" for interval in INTERVALS}
        self.shifted = ShiftedCandles(market.symbol)
        self._window_streams = {window: f"{name}@ticker_{window}" for window in TICKER_WINDOWS_MS}
        self._time = 0
        """The shard's time: everything before it has been received."""
        self._late_candles: list[Candle] = []
        self._last_trade_id: int | None = None
        self._late_trades: list[TradeExecuted] = []

    @property
    def needs_depth(self) -> bool:
        """Whether the book needs a snapshot."""
        return self.book.needs_snapshot

    @property
    def needs_trades(self) -> bool:
        """Whether trades wait for earlier ones."""
        return bool(self._late_trades)

    def wants_trades(self, wanted: Container[str]) -> bool:
        """Return whether trades have a subscriber; otherwise they are not followed."""
        if self._trade_stream in wanted or self._aggregate_stream in wanted:
            return True
        self._last_trade_id, self._late_trades = None, []
        return False

    def trades(self, batch: Iterable[TradeExecuted], wanted: Container[str], now: TimeMs) -> list[Update]:
        """Process trades, oldest first; known ones are skipped."""
        last = self._last_trade_id
        fresh = [trade for trade in batch if last is None or trade.trade_id > last]
        if not fresh:
            return []
        if self._late_trades or (last is not None and fresh[0].trade_id > last + 1):
            self._late_trades += fresh
            return []
        self._last_trade_id = fresh[-1].trade_id
        return list(self._trade_updates(fresh, wanted, now))

    def fill_trades(
        self, newest: Iterable[TradeExecuted], wanted: Container[str], now: TimeMs
    ) -> tuple[list[Update], int]:
        """Process the newest trades in Redis.

        Return the updates, and the number of trades that are lost.
        """
        late, self._late_trades = self._late_trades, []
        if self._last_trade_id is None:
            return [], 0
        by_id = {trade.trade_id: trade for trade in (*newest, *late) if trade.trade_id > self._last_trade_id}
        trades = [by_id[trade_id] for trade_id in sorted(by_id)]
        if not trades:
            return [], 0
        missing = trades[-1].trade_id - self._last_trade_id - len(trades)
        self._last_trade_id = trades[-1].trade_id
        return list(self._trade_updates(trades, wanted, now)), missing

    def _trade_updates(
        self, trades: list[TradeExecuted], wanted: Container[str], now: TimeMs
    ) -> Iterator[Update]:
        if self._trade_stream in wanted:
            for trade in trades:
                yield Update(self._trade_stream, partial(payloads.trade, self.market, trade, now))
        if self._aggregate_stream in wanted:
            for group in payloads.aggregates(trades):
                yield Update(
                    self._aggregate_stream, partial(payloads.aggregate_trade, self.market, group, now)
                )

    def depth(self, diff: DepthDiff) -> None:
        """Process a diff."""
        change = self.book.apply(diff)
        if change is not None:
            self._collect(change)

    def follow_depth(self, redis_diffs: Collection[DepthDiff]) -> bool:
        """Process the diffs in Redis; return whether they reach back: see `EdgeBook.follow`."""
        changes = self.book.follow(redis_diffs)
        for diff in changes or ():
            self._collect(diff)
        return changes is not None

    def fill_depth(self, base: DepthSnapshot | None, redis_diffs: Collection[DepthDiff]) -> None:
        """Process a base and the diffs read with it; see `EdgeBook.fill`."""
        for change in self.book.fill(base, redis_diffs):
            self._collect(change)

    def _collect(self, diff: DepthDiff) -> None:
        for window in self.windows.values():
            window.merged = diff if window.merged is None else joined((window.merged, diff))
            window.changed = True

    def end_window(self, period_ms: int, wanted: Container[str]) -> Iterator[Update]:
        """Yield the updates of the depth streams of one speed."""
        window = self.windows[period_ms]
        if not window.changed:
            return
        diff, window.merged, window.changed = window.merged, None, False
        if diff is not None:
            for stream in window.diff_streams:
                if stream in wanted:
                    yield Update.of_depth(stream, self.market, diff)
        for count, stream in window.partial_streams:
            if stream in wanted:
                yield self.partial(count, stream)

    def partial(self, count: int, stream: str) -> Update:
        """Return the best `count` levels of each side."""
        bids, asks = self.book.top(count)
        payload = payloads.partial_depth(self.market, self.book.sequence or 0, bids, asks)
        return Update(stream, lambda _time_scale: payload, Conflation.NEWEST)

    def book_ticker(self, best: BookTicker, wanted: Container[str]) -> Iterator[Update]:
        """Process best bid and ask."""
        if self.best is not None and best.sequence <= self.best.sequence:
            return
        self.best = best
        for stream in (self._book_ticker_stream, "!bookTicker"):
            if stream in wanted:
                yield self._best_prices(stream, best)

    def _best_prices(self, stream: str, best: BookTicker) -> Update:
        payload = payloads.book_ticker(self.market, best)
        # In the stream of all markets each market's prices count, so the newest update does not replace the
        # others.
        conflation = Conflation.NEWEST if stream == self._book_ticker_stream else Conflation.NONE
        return Update(stream, lambda _time_scale: payload, conflation)

    def tick(self, ticker: Ticker, wanted: Container[str]) -> Iterator[Update]:
        """Process the 24 h ticker."""
        if self.ticker is not None and ticker.close_time < self.ticker.close_time:
            return
        self.ticker, self.ticker_changed = ticker, True
        if self._ticker_stream in wanted:
            yield Update(self._ticker_stream, partial(self._full_ticker, ticker), Conflation.NEWEST)
        if self._mini_ticker_stream in wanted:
            render = partial(payloads.mini_ticker, self.market, ticker)
            yield Update(self._mini_ticker_stream, render, Conflation.NEWEST)
        for window in ticker.windows:
            if self._window_streams[window.name] in wanted:
                yield self._window_ticker(window, ticker.close_time)

    def _window_ticker(self, window: WindowTicker, closes: TimeMs) -> Update:
        render = partial(payloads.window_ticker, self.market, window, closes, closes)
        return Update(self._window_streams[window.name], render, Conflation.NEWEST)

    def _full_ticker(self, ticker: Ticker, time_scale: int) -> payloads.Payload:
        return payloads.full_ticker(self.market, ticker, self.best, time_scale)

    def candle(self, candle: Candle, wanted: Container[str], now: TimeMs) -> Iterator[Update]:
        """Process a candle; a closed candle is never left out."""
        if self.candles_are_behind:
            self._late_candles.append(candle)
            return
        previous = self._candles.get(candle.interval)
        if previous is not None and _extent(candle) <= _extent(previous):
            return
        names = self._names_of(candle.interval, wanted)
        if names:
            # The feeds do not publish candles without a trade.
            ended = self._go_on(candle.interval, candle.open_time) if previous is not None else []
            for next_candle in (*ended, candle):
                yield from (self._kline(stream, next_candle, now) for stream in names)
        self._candles[candle.interval] = candle
        self.shifted.hear(candle)
        if candle.interval in PART_INTERVALS:
            yield from self._shifted(candle.open_time, wanted, now, part=candle.interval)

    def _names_of(self, interval: str, wanted: Container[str]) -> list[str]:
        """Return the wanted streams of an interval, in any time zone in which it opens at the same moment."""
        names = [self._kline_streams[interval]]
        if interval not in PARTS:
            names.append(self._shifted_streams[interval])
        return [name for name in names if name in wanted]

    def _shifted(self, time: int, wanted: Container[str], now: TimeMs, part: str = "") -> Iterator[Update]:
        """Yield the candles of intervals that open at other moments.

        With `part` only those composed of it.
        """
        for interval, its_part in PARTS.items():
            stream = self._shifted_streams[interval]
            if stream not in wanted:
                self.shifted.stop(interval)
            elif not part or part == its_part:
                yield from (
                    self._kline(stream, shifted_candle, now)
                    for shifted_candle in self.shifted.tell(interval, time)
                )

    def needs_history(self, wanted: Container[str]) -> bool:
        """Return whether a subscriber waits for candles composed of those in Redis."""
        return not self.shifted.is_complete and any(
            self._shifted_streams[interval] in wanted for interval in PARTS
        )

    def fill_history(
        self, redis_candles: Iterable[Candle], wanted: Container[str], now: TimeMs
    ) -> list[Update]:
        """Process the closed candles of `PART_INTERVALS` in Redis, read after `shifted.begin`."""
        self.shifted.complete((*redis_candles, *self._candles.values()))
        return list(self._shifted(self._time, wanted, now)) if self._time else []

    def second(self, time: int, wanted: Container[str], now: TimeMs) -> Iterator[Update]:
        """Process the shard's time: yield current candles and ended ones without a trade.

        Everything before that time has been received. One-second candles are sent every second, the others
        every two.
        """
        is_even = time // 1000 % 2 == 0
        self._time = max(self._time, time)
        if self.candles_are_behind:
            return
        for interval in self._kline_streams:
            names = self._names_of(interval, wanted)
            if not names or interval not in self._candles:
                continue
            stored = self._candles[interval]
            ended = self._go_on(interval, self._time)
            candle = self._candles[interval]
            is_due = not candle.closed and (interval == "1s" or is_even or candle is not stored)
            for next_candle in (*ended, candle) if is_due else ended:
                yield from (self._kline(stream, next_candle, now) for stream in names)
        if is_even:
            yield from self._shifted(self._time, wanted, now)

    def _go_on(self, interval: str, time: int) -> list[Candle]:
        """Append candles without a trade, up to the one that is open at `time`.

        Return those that have ended.
        """
        candle = self._candles[interval]
        open_time, end = interval_bounds(interval, time)
        ended: list[Candle] = []
        if not candle.closed and not candle.trade_count and candle.open_time < open_time:
            # This process made it up for lack of a message: of one with a trade the feeds would have
            # published the end before the time.
            candle = msgspec.structs.replace(candle, closed=True)
            ended.append(candle)
        # A candle with trades that is not closed will be, by a message in transit or in Redis.
        while candle.closed and candle.open_time < open_time:
            if (open_time - candle.close_time) // (end - open_time) > FLAT_MAX:
                candle = _flat(candle, open_time, end, closed=False)
                break
            first, after = interval_bounds(interval, candle.close_time + 1)
            candle = _flat(candle, first, after, closed=first < open_time)
            if candle.closed:
                ended.append(candle)
        self._candles[interval] = candle
        return ended

    def intervals_left(self, newest: Iterable[Candle]) -> list[str]:
        """Return the intervals whose last received candle has a successor in `newest`."""
        current = self._candles
        return [
            candle.interval
            for candle in newest
            if candle.interval in current and current[candle.interval].open_time < candle.open_time
        ]

    def fill_candles(
        self, redis_candles: Iterable[Candle], wanted: Container[str], now: TimeMs
    ) -> list[Update]:
        """Process the candles in Redis, and those received meanwhile."""
        late, self._late_candles, self.candles_are_behind = self._late_candles, [], False
        candles = sorted((*redis_candles, *late), key=_extent)
        return [update for candle in candles for update in self.candle(candle, wanted, now)]

    def _kline(self, stream: str, candle: Candle, now: TimeMs) -> Update:
        conflation = Conflation.NONE if candle.closed else Conflation.NEWEST
        return Update(stream, partial(payloads.kline, self.market, candle, now), conflation)

    def current(self, stream: str, now: TimeMs) -> Update | None:
        """Return the current state of a stream of states, or None if there is none yet.

        These are candles, tickers, best prices and partial depth.
        """
        interval = stream.partition("@")[2].removeprefix("kline_")
        if interval.removesuffix(SHIFT) in PARTS and interval.endswith(SHIFT):
            shifted = self.shifted.candle(interval.removesuffix(SHIFT), self._time) if self._time else None
            return self._kline(stream, shifted, now) if shifted is not None else None
        interval = interval.removesuffix(SHIFT)
        if interval in self._candles:
            if not self.candles_are_behind:
                self._go_on(interval, self._time)
            return self._kline(stream, self._candles[interval], now)
        if self.ticker is not None and stream == self._ticker_stream:
            return Update(stream, partial(self._full_ticker, self.ticker), Conflation.NEWEST)
        if self.ticker is not None and stream == self._mini_ticker_stream:
            return Update(stream, partial(payloads.mini_ticker, self.market, self.ticker), Conflation.NEWEST)
        if self.ticker is not None:
            for window in self.ticker.windows:
                if stream == self._window_streams[window.name]:
                    return self._window_ticker(window, self.ticker.close_time)
        if self.best is not None and stream == self._book_ticker_stream:
            return self._best_prices(stream, self.best)
        levels = {name: count for window in self.windows.values() for count, name in window.partial_streams}
        if self.book.sequence is not None and stream in levels:
            return self.partial(levels[stream], stream)
        return None


def _flat(before: Candle, open_time: int, end: int, *, closed: bool) -> Candle:
    """Return a candle without a trade: its price is the previous close."""
    price = before.close
    return Candle(
        market=before.market,
        interval=before.interval,
        open_time=TimeMs(open_time),
        close_time=TimeMs(end - 1),
        open=price,
        high=price,
        low=price,
        close=price,
        volume=QuantityLots(0),
        quote_volume=0,
        trade_count=0,
        taker_buy_volume=QuantityLots(0),
        taker_buy_quote=0,
        first_trade_id=-1,
        last_trade_id=-1,
        closed=closed,
    )


def _extent(candle: Candle) -> tuple[int, int, bool]:
    """Return the values that grow from one update of an interval's candles to the next."""
    return candle.open_time, candle.trade_count, candle.closed


def arrays(markets: Iterable[MarketStreams], wanted: Container[str]) -> Iterator[Update]:
    """Yield the updates of the streams of all markets for tickers that changed since the last call."""
    changed = [market for market in markets if market.ticker_changed]
    for market in changed:
        market.ticker_changed = False
    tickers = [(market.market, market.ticker, market.best) for market in changed if market.ticker is not None]
    if not tickers:
        return
    if "!miniTicker@arr" in wanted:
        yield Update(
            "!miniTicker@arr",
            lambda scale: [payloads.mini_ticker(market, ticker, scale) for market, ticker, _ in tickers],
            Conflation.NEWEST,
        )
    if "!ticker@arr" in wanted:
        yield Update(
            "!ticker@arr",
            lambda scale: [
                payloads.full_ticker(market, ticker, best, scale) for market, ticker, best in tickers
            ],
            Conflation.NEWEST,
        )
    for name in TICKER_WINDOWS_MS:
        if (stream := f"!ticker_{name}@arr") in wanted:
            yield Update(stream, partial(_window_tickers, tickers, name), Conflation.NEWEST)


def _window_tickers(
    tickers: list[tuple[Market, Ticker, BookTicker | None]], name: str, time_scale: int
) -> list[payloads.Payload]:
    return [
        payloads.window_ticker(market, window, ticker.close_time, ticker.close_time, time_scale)
        for market, ticker, _ in tickers
        for window in ticker.windows
        if window.name == name
    ]
