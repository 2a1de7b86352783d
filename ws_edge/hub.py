"""Market data from Redis to subscribers: each message is decoded once and encoded once for all of them.

Missed messages are detected (by trade ids, by the depth's sequence, by a new connection) and read from Redis.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

import msgspec
import prometheus_client
import redis.asyncio
import structlog
from websockets.frames import CloseCode

from adapters.networks import networks_of
from adapters.pipelined import pipelined
from adapters.redis_links import RedisLinks
from functions.api.errors import ApiError
from protocol import streams
from protocol.decoding import msgpack_decoder
from protocol.events import TradeExecuted
from protocol.intervals import interval_bounds
from protocol.listing import Listing
from protocol.market import Market
from protocol.market_data import BookTicker, Candle, DepthDiff, DepthSnapshot, Ticker, TradeBatch
from protocol.streams import MarketDataKind
from protocol.units import TimeMs
from runtime.redis_clients import RedisOutage
from runtime.tasks import end_tasks
from ws_edge import payloads
from ws_edge.accounts import AccountStreams
from ws_edge.conflation import Conflation, Update
from ws_edge.connection import BANNED, LATE, EdgeConnection, refusals
from ws_edge.fanout import Fanout
from ws_edge.market import MarketStreams, arrays
from ws_edge.shifted_candles import PART_INTERVALS, SHIFT

_TICK_S: Final = 0.1
_REPAIR_S: Final = 0.05
_TRADES_KEPT: Final = 1_000

_DECODERS: Final[dict[MarketDataKind, Callable[[bytes], Any]]] = {
    MarketDataKind.TRADE: msgpack_decoder(TradeBatch),
    MarketDataKind.DEPTH: msgpack_decoder(DepthDiff),
    MarketDataKind.BOOK_TICKER: msgpack_decoder(BookTicker),
    MarketDataKind.TICKER: msgpack_decoder(Ticker),
    MarketDataKind.CANDLE: msgpack_decoder(Candle),
}
_decode_candle: Final = msgpack_decoder(Candle)
_decode_diff: Final = msgpack_decoder(DepthDiff)
_decode_snapshot: Final = msgpack_decoder(DepthSnapshot)
_decode_time: Final = msgpack_decoder(int)
_decode_trade: Final = msgpack_decoder(TradeExecuted)

_log = structlog.get_logger()

_updates = prometheus_client.Counter("ws_edge_updates", "Updates of market streams that somebody listened to")
_messages = prometheus_client.Counter(
    "ws_edge_messages",
    "Messages for subscribers of market streams: updates times listeners; some are conflated",
)

_updates_conflated = prometheus_client.Counter(
    "ws_edge_updates_conflated", "Updates that a newer one took the place of, since the loop was late"
)

AveragePrice = Callable[[Market], Awaitable[tuple[str, int]]]
"""Returns a market's average price, and the time (ms) of its last trade; raises ApiError."""


class Hub:
    """Every stream and its subscribers."""

    def __init__(
        self,
        shard_count: int,
        cache_url: str,
        cache: "redis.asyncio.Redis",
        average_price: AveragePrice,
        now_ms: Callable[[], TimeMs],
        listing: Callable[[], Listing],
    ) -> None:
        """Use `cache` for the feeds' read models.

        Messages are received on separate connections, each to the server of its shard's feeds. There is no
        market before `follow`.
        """
        self._client = cache
        self._average_price = average_price
        self._now_ms = now_ms
        self._subscribers: dict[str, dict[EdgeConnection, None]] = {}
        self._streams: dict[str, MarketStreams] = {}
        self._shards: dict[str, int] = {}
        self._links = RedisLinks(cache_url, shard_count, on_message=self._hear)
        self._links.call_when_ready(self._connected)
        self._channels: dict[bytes, tuple[MarketDataKind, MarketStreams]] = {}
        self._seconds = {streams.second(shard).encode(): shard for shard in range(shard_count)}
        self.accounts = AccountStreams(listing, self._links, cache, now_ms, self._count_stream)
        self.connections: dict[EdgeConnection, None] = {}
        self._networks: dict[str, dict[EdgeConnection, None]] = {}
        """The connections of each network, and of each /48 in addition."""
        self._streams_of: Counter[str] = Counter()
        """The number of subscriptions of each network."""
        self._fanout = Fanout(self._subscribers)
        self._loop = asyncio.get_running_loop()
        self._has_turn = False
        """Whether another turn of the fan-out is scheduled."""
        self._repairs: dict[str, asyncio.Task[None]] = {}
        self._ticker: asyncio.Task[None] | None = None

    def follow(self, listing: Listing) -> None:
        """Provide the streams of the markets that are listed now.

        Subscribers of a delisted market receive nothing more.
        """
        listed = listing.listed
        for symbol in self._streams.keys() - listed.by_symbol.keys():
            self._forget(symbol)
        for symbol, market in listed.by_symbol.items():
            if symbol in self._streams:
                self._streams[symbol].market = market
            else:
                self._add(market, listed.shard_of_market(symbol))

    def _add(self, market: Market, shard: int) -> None:
        market_streams = MarketStreams(market)
        market_streams.candles_are_behind = True
        self._streams[market.symbol], self._shards[market.symbol] = market_streams, shard
        *first, last = MarketDataKind
        for kind in (*first, last):
            channel = streams.market_data(market.symbol, kind)
            self._channels[channel.encode()] = (kind, market_streams)
            # Redis is read when all subscriptions are confirmed; without a connection now, after the next one
            # is made.
            ready = (lambda _reply: self._begin(market_streams)) if kind is last else None
            self._links.of(shard).subscribe(channel, ready)

    def _begin(self, market: MarketStreams) -> None:
        if self._streams.get(market.market.symbol) is market:
            self._repair(market, whole=True)

    def _forget(self, symbol: str) -> None:
        del self._streams[symbol]
        shard = self._shards.pop(symbol)
        for kind in MarketDataKind:
            channel = streams.market_data(symbol, kind)
            self._channels.pop(channel.encode(), None)
            self._links.of(shard).unsubscribe(channel)
        repair = self._repairs.pop(symbol, None)
        if repair is not None:
            repair.cancel()

    async def start(self) -> None:
        """Start listening."""
        for channel, shard in self._seconds.items():
            self._links.of(shard).subscribe(channel.decode())
        await self._links.start()
        self._ticker = asyncio.create_task(self._tick())

    @property
    def connected(self) -> bool:
        """Whether it receives the feeds' messages."""
        return all(link.ready for link in self._links.all())

    async def close(self) -> None:
        """Stop listening."""
        await end_tasks([*self._repairs.values(), *([self._ticker] if self._ticker else [])])
        await self.accounts.close()
        await self._links.close()

    def enter(self, connection: EdgeConnection) -> None:
        """Add an open connection, until it is lost."""
        self.connections[connection] = None
        for network in networks_of(connection.address):
            if network:
                self._networks.setdefault(network, {})[connection] = None
        connection.when_lost(partial(self.leave, connection))

    def leave(self, connection: EdgeConnection) -> None:
        """Remove a connection and all its subscriptions, if still present."""
        for stream in list(connection.streams):
            self.unsubscribe(stream, connection)
        self.connections.pop(connection, None)
        for network in networks_of(connection.address):
            others = self._networks.get(network, {})
            others.pop(connection, None)
            if not others:
                self._networks.pop(network, None)

    def close_network(self, network: str, reason: str, why: str) -> None:
        """Close all connections of a network."""
        for connection in list(self._networks.get(network, ())):
            refusals[why].inc()
            connection.close_soon(
                CloseCode.POLICY_VIOLATION if why == BANNED else CloseCode.TRY_AGAIN_LATER, reason
            )
            for stream in list(connection.streams):
                self.unsubscribe(stream, connection)

    def streams_of(self, address: str) -> int:
        """Return how many subscriptions an address's network has, including accounts' streams."""
        return self._streams_of[networks_of(address).own]

    def subscription_count(self) -> int:
        """Return the number of subscriptions of all connections."""
        return sum(len(connection.streams) for connection in list(self.connections))

    def stream_count(self) -> int:
        """Return the number of distinct streams with a subscriber."""
        return len(self._subscribers)

    def subscribe(self, stream: str, connection: EdgeConnection) -> None:
        """Subscribe a connection to a stream."""
        if stream not in connection.streams:
            self._count_stream(connection, 1)
        connection.streams[stream] = None
        self._subscribers.setdefault(stream, {})[connection] = None
        if stream.endswith(SHIFT):
            market = self._streams.get(stream.partition("@")[0].upper())
            if market is not None and market.needs_history(self._subscribers):
                self._repair(market)

    def unsubscribe(self, stream: str, connection: EdgeConnection) -> None:
        """Unsubscribe a connection from a stream, if subscribed."""
        if stream in connection.streams:
            del connection.streams[stream]
            self._count_stream(connection, -1)
        listeners = self._subscribers.get(stream, {})
        listeners.pop(connection, None)
        if not listeners:
            self._subscribers.pop(stream, None)

    def _count_stream(self, connection: EdgeConnection, change: int) -> None:
        network = networks_of(connection.address).own
        self._streams_of[network] += change
        if not self._streams_of[network]:
            del self._streams_of[network]

    def show_current(self, stream: str, connection: EdgeConnection) -> None:
        """Send the last state of a stream, so that a new subscriber need not wait for the next change."""
        market = self._streams.get(stream.partition("@")[0].upper())
        update = market.current(stream, self._now_ms()) if market is not None else None
        if update is not None:
            connection.deliver(update)

    def _publish(self, updates: Iterable[Update]) -> None:
        loop, fanout = self._loop, self._fanout
        now_s, conflated = loop.time(), fanout.conflated
        for update in updates:
            count = fanout.publish(update, now_s)
            if count:
                _updates.inc()
                _messages.inc(count)
        if fanout.conflated > conflated:
            _updates_conflated.inc(fanout.conflated - conflated)
        if not self._has_turn:
            self._has_turn = True
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Deliver waiting updates, at most one turn's worth."""
        self._has_turn = self._fanout.turn()
        if self._has_turn:
            self._loop.call_soon(self._turn)

    def _shed(self, now_s: float) -> None:
        """Disconnect the network with the most subscriptions if the loop is late in spite of conflation."""
        if not self._fanout.is_too_late(now_s) or not self._streams_of:
            return
        network = max(self._streams_of, key=self._streams_of.__getitem__)
        _log.warning("too late: a network is sent away", network=network, streams=self._streams_of[network])
        self.close_network(network, "too much is listened to; connect again later", LATE)

    def late_s(self) -> float:
        """Return how long the oldest undelivered update has waited."""
        since = self._fanout.waits_since()
        return 0.0 if since is None else self._loop.time() - since

    def _hear(self, channel: bytes, payload: bytes) -> None:
        if self.accounts.hear(channel, payload):
            return
        if channel in self._seconds:
            self._hear_second(self._seconds[channel], payload)
            return
        if channel not in self._channels:
            return  # its market was delisted a moment ago
        kind, market = self._channels[channel]
        wanted = self._subscribers
        if kind is MarketDataKind.TRADE and not market.wants_trades(wanted):
            return
        try:
            data = _DECODERS[kind](payload)
        except msgspec.MsgspecError as error:
            _log.warning("message not understood", channel=channel.decode(), error=str(error))
            return
        match data:
            case TradeBatch():
                self._publish(market.trades(data.trades, wanted, self._now_ms()))
            case DepthDiff():
                market.depth(data)
            case BookTicker():
                self._publish(market.book_ticker(data, wanted))
            case Ticker():
                self._publish(market.tick(data, wanted))
            case Candle():
                self._publish(market.candle(data, wanted, self._now_ms()))
        if market.needs_depth or market.needs_trades:
            self._repair(market)

    def _hear_second(self, shard: int, payload: bytes) -> None:
        try:
            time = _decode_time(payload)
        except msgspec.MsgspecError as error:
            _log.warning("message not understood", channel=streams.second(shard), error=str(error))
            return
        wanted, now, shards = self._subscribers, self._now_ms(), self._shards
        self._publish(
            update
            for symbol, market in self._streams.items()
            if shards[symbol] == shard
            for update in market.second(time, wanted, now)
        )

    def _connected(self) -> None:
        for market in self._streams.values():
            market.candles_are_behind = True
            self._repair(market, whole=True)
        self.accounts.reconnected()

    def _repair(self, market: MarketStreams, *, whole: bool = False) -> None:
        symbol = market.market.symbol
        running = self._repairs.get(symbol)
        if running is not None and not running.done():
            if not whole:
                return
            running.cancel()
        self._repairs[symbol] = asyncio.create_task(self._fill(market, whole=whole))

    async def _fill(self, market: MarketStreams, *, whole: bool) -> None:
        """Read a market's missing data until it is complete; `whole`: also undetectably lost data."""
        wanted = self._subscribers
        while whole or market.needs_depth or market.needs_trades or market.needs_history(wanted):
            try:
                await self._fill_once(market, whole=whole)
                whole = False
            except (*RedisOutage, msgspec.MsgspecError) as error:
                _log.warning("market data cannot be read", market=market.market.symbol, error=str(error))
            if whole or market.needs_depth or market.needs_trades or market.needs_history(wanted):
                await asyncio.sleep(_REPAIR_S)

    async def _fill_once(self, market: MarketStreams, *, whole: bool) -> None:
        symbol, wanted = market.market.symbol, self._subscribers
        shard = self._shards[symbol]
        if whole or market.needs_depth:
            await self._fill_depth(market)
        if whole or market.needs_trades:
            values: Any = await self._client.lrange(streams.trades(shard, symbol), 0, _TRADES_KEPT - 1)
            trades = [_decode_trade(value) for value in reversed(values)]
            updates, missing = market.fill_trades(trades, wanted, self._now_ms())
            if missing:
                _log.error("trades are missing", market=symbol, count=missing)
            self._publish(updates)
        if whole:
            best: Any = await self._client.get(streams.book_ticker(shard, symbol))
            if best:
                self._publish(market.book_ticker(_DECODERS[MarketDataKind.BOOK_TICKER](best), wanted))
            ticker: Any = await self._client.get(streams.ticker(shard, symbol))
            if ticker:
                self._publish(market.tick(_DECODERS[MarketDataKind.TICKER](ticker), wanted))
            candle_values: Any = await self._client.hvals(streams.candles(shard, symbol))
            # An earlier release opened some candles at other times; its remaining ones are over.
            candles = [
                candle for candle in map(_decode_candle, candle_values) if _opens_where_it_should(candle)
            ]
            for interval in market.intervals_left(candles):
                closed: Any = await self._client.lrange(
                    streams.closed_candles(shard, symbol, interval), 0, -1
                )
                candles += map(_decode_candle, closed)
            market.shifted.forget()
            self._publish(market.fill_candles(candles, wanted, self._now_ms()))
        if market.needs_history(wanted):
            market.shifted.begin()
            commands = [
                ("LRANGE", streams.closed_candles(shard, symbol, interval), 0, -1)
                for interval in PART_INTERVALS
            ]
            lists = await pipelined(self._client, commands)
            parts = [_decode_candle(value) for values in lists for value in values]
            self._publish(market.fill_history(parts, wanted, self._now_ms()))

    async def _fill_depth(self, market: MarketStreams) -> None:
        symbol = market.market.symbol
        shard = self._shards[symbol]
        every_diff = ("LRANGE", streams.depth_diffs(shard, symbol), 0, -1)
        # The diffs alone are much smaller than a base, and mostly reach back to the known sequence.
        if market.book.sequence is not None:
            (kept,) = await pipelined(self._client, [every_diff])
            if market.follow_depth(_diffs(kept)) and not market.needs_depth:
                return
        # In one transaction: the diffs must begin where the base ends.
        value, kept = await pipelined(
            self._client, [("GET", streams.depth(shard, symbol)), every_diff], at_once=True
        )
        base, diffs, own_sequence = (
            _decode_snapshot(value) if value else None,
            _diffs(kept),
            market.book.sequence,
        )
        is_followed = market.follow_depth(diffs)
        if not is_followed and own_sequence is not None and base is not None and base.sequence > own_sequence:
            _log.error("depth updates are missing", market=symbol, after=own_sequence)
            # Subscribers of diffs would apply the next ones to a book with a gap. Those of whole levels get
            # the next state as always, and stay.
            for window in market.windows.values():
                for stream in window.diff_streams:
                    for connection in self._subscribers.get(stream, ()):
                        connection.close_soon(
                            CloseCode.SERVICE_RESTART, "depth updates were missed; connect again"
                        )
        if not is_followed or market.needs_depth:
            market.fill_depth(base, diffs)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        count = 0
        seconds: set[asyncio.Task[None]] = set()
        while True:
            due = max(due + _TICK_S, loop.time())
            await asyncio.sleep(due - loop.time())
            count += 1
            self._publish(self._end_windows(100))
            if count % 10:
                continue
            self._publish(self._end_windows(1000))
            self._publish(arrays(self._streams.values(), self._subscribers))
            now = loop.time()
            self._shed(now)
            for connection in list(self.connections):
                connection.check_slow(now)
            if not seconds:
                task = asyncio.create_task(self._every_second())
                seconds.add(task)
                task.add_done_callback(seconds.discard)

    def _end_windows(self, period_ms: int) -> Iterator[Update]:
        for market in self._streams.values():
            yield from market.end_window(period_ms, self._subscribers)

    async def _every_second(self) -> None:
        try:
            await self.accounts.mark()
            for market in list(self._streams.values()):
                stream = f"{market.market.symbol.lower()}@avgPrice"
                if stream in self._subscribers:
                    await self._publish_average(market.market, stream)
        except (ApiError, *RedisOutage) as error:
            _log.debug("not known this second", error=str(error))

    async def _publish_average(self, market: Market, stream: str) -> None:
        price, last_time = await self._average_price(market)
        now = self._now_ms()

        def render(time_scale: int) -> payloads.Payload:
            return payloads.average(market, price, last_time, now, time_scale)

        self._publish([Update(stream, render, Conflation.NEWEST)])


def _opens_where_it_should(candle: Candle) -> bool:
    return interval_bounds(candle.interval, candle.open_time)[0] == candle.open_time


def _diffs(newest_first: list[bytes]) -> list[DepthDiff]:
    """Return the diffs in the list, oldest first."""
    return [_decode_diff(frame) for frame in reversed(newest_first)]
