"""Event frames as a shard writes them, made by hand, and what readers must make of them, worked out the slow
and obvious way."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from engine_worker.first_configuration import DEFAULT_CONFIG
from protocol import streams
from protocol.codec import encode_frame
from protocol.configuration import MarketConfig
from protocol.events import DepthChanged, Event, FundsDeposited, LevelChange, OrderAccepted, TradeExecuted
from protocol.intervals import INTERVALS
from protocol.listing import Listing, ShardConfiguration, encode_configuration
from protocol.market import Market, MarketMap
from protocol.market_data import BookTicker, Candle, DepthDiff, Ticker, TradeBatch, WindowTicker
from protocol.orders import (
    Balance,
    OrderState,
    OrderStatus,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.stream_id import STREAM_START
from protocol.streams import MarketDataKind
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, Sequence, TimeMs, TradeId
from runtime.settings import Settings
from stream_log.interface import StreamLog

BTC = "BTCUSDT"
ETH = "ETHUSDT"
START_MS = 1_767_225_500_000
"""Shortly before a year, a month, a day and an hour end: 2025-12-31 23:58:20 UTC."""


def market_map(shard_count: int = 1) -> MarketMap:
    return Settings(shard_count=shard_count).market_map()


def configurations(markets: MarketMap) -> dict[int, ShardConfiguration]:
    """What every shard's leader says when it has these markets, and they trade."""
    return {
        shard: ShardConfiguration(
            str(STREAM_START),
            DEFAULT_CONFIG,
            tuple(MarketConfig(market, shard) for market in markets.markets_of_shard(shard)),
        )
        for shard in range(markets.shard_count)
    }


def listing_of(markets: MarketMap) -> Listing:
    """These markets, which trade."""
    return Listing.of(configurations(markets), markets.shard_count)


def publish_markets(log: StreamLog, markets: MarketMap) -> None:
    """Have every shard's leader say that it has these markets."""
    for shard, configuration in configurations(markets).items():
        assert log.write_configuration(shard, log.position(shard), encode_configuration(configuration))


class MarketLog:
    """Writes events of some markets, numbered as the engine numbers them."""

    def __init__(self) -> None:
        self.trades: dict[str, list[TradeExecuted]] = {}
        self.levels: dict[tuple[str, Side], dict[int, int]] = {}
        self.sequences: dict[str, int] = {}

    def trade(
        self, time: int, price: int, quantity: int, taker: Side = Side.BUY, market: str = BTC
    ) -> TradeExecuted:
        trades = self.trades.setdefault(market, [])
        trade_id = TradeId(len(trades) + 1)
        trade = TradeExecuted(
            TimeMs(time), market, self._next(market), trade_id, trade_id, PriceTicks(price),
            QuantityLots(quantity), taker,
            OrderId(1), OrderId(2), AccountId(1), AccountId(2),
        )  # fmt: skip
        trades.append(trade)
        return trade

    def depth(self, time: int, *changes: tuple[Side, int, int], market: str = BTC) -> DepthChanged:
        for side, price, quantity in changes:
            levels = self.levels.setdefault((market, side), {})
            if quantity:
                levels[price] = quantity
            else:
                levels.pop(price, None)
        return DepthChanged(
            TimeMs(time),
            market,
            self._next(market),
            tuple(
                LevelChange(side, PriceTicks(price), QuantityLots(quantity))
                for side, price, quantity in changes
            ),
        )

    def book(self, side: Side, market: str = BTC) -> tuple[tuple[int, int], ...]:
        """One side, best first."""
        return tuple(sorted(self.levels.get((market, side), {}).items(), reverse=side is Side.BUY))

    def _next(self, market: str) -> Sequence:
        self.sequences[market] = self.sequences.get(market, 0) + 1
        return Sequence(self.sequences[market])


class MarketFollower:
    """A subscriber to one market who believes every message, and stops at one that cannot be true."""

    def __init__(self, market: str = BTC) -> None:
        self._payloads: dict[str, Any] = {
            streams.market_data(market, MarketDataKind.TRADE): TradeBatch,
            streams.market_data(market, MarketDataKind.DEPTH): DepthDiff,
            streams.market_data(market, MarketDataKind.BOOK_TICKER): BookTicker,
            streams.market_data(market, MarketDataKind.TICKER): Ticker,
            streams.market_data(market, MarketDataKind.CANDLE): Candle,
        }
        self.trade_count = 0
        self.sequence = 0
        self.levels: dict[Side, dict[int, int]] = {Side.BUY: {}, Side.SELL: {}}
        self.book_ticker = (0, 0, 0, 0)
        self.ticker: Ticker | None = None
        self._closed: dict[str, list[Candle]] = {interval: [] for interval in INTERVALS}
        self._open: dict[str, Candle] = {}

    def take(self, channel: str, payload: bytes) -> None:
        match msgspec.msgpack.decode(payload, type=self._payloads[channel]):
            case TradeBatch(trades=batch):
                for trade in batch:
                    self.trade_count += 1
                    assert trade.trade_id == self.trade_count
            case DepthDiff() as diff:
                assert diff.first_sequence == self.sequence + 1
                self.sequence = diff.last_sequence
                for side, changes in ((Side.BUY, diff.bids), (Side.SELL, diff.asks)):
                    self.levels[side].update(changes)
                    self.levels[side] = {price: left for price, left in self.levels[side].items() if left}
            case BookTicker() as best:
                self.book_ticker = (best.bid_price, best.bid_quantity, best.ask_price, best.ask_quantity)
            case Ticker() as ticker:
                self.ticker = ticker
            case Candle(closed=True) as candle:
                self._closed[candle.interval].append(candle)
                self._open.pop(candle.interval, None)
            case Candle() as candle:
                self._open[candle.interval] = candle

    def candles(self, interval: str) -> list[Candle]:
        """Every final candle, in the order that it came, then the open one."""
        return [*self._closed[interval], *([self._open[interval]] if interval in self._open else [])]


def deposit(time: int, account: int) -> FundsDeposited:
    balance = Balance("USDT", AssetUnits(5), AssetUnits(0))
    return FundsDeposited(TimeMs(time), AccountId(account), "USDT", AssetUnits(5), f"{time}", (balance,))


def accepted(time: int, account: int) -> OrderAccepted:
    order = OrderState(
        OrderId(100), AccountId(account), "mine", BTC, Side.BUY, OrderType.LIMIT, TimeInForce.GTC,
        PriceTicks(10),
        QuantityLots(1), AssetUnits(0), SelfTradePrevention.NONE, OrderStatus.NEW, QuantityLots(0),
        AssetUnits(0),
        AssetUnits(10), TimeMs(time), TimeMs(time),
    )  # fmt: skip
    return OrderAccepted(TimeMs(time), order, (Balance("USDT", AssetUnits(5), AssetUnits(10)),))


def frame(*events: Event) -> bytes:
    return encode_frame(events)


def interval_of(interval: str, time: int) -> tuple[int, int]:
    """The first and last ms of the interval around `time`, by the calendar."""
    moment = datetime.fromtimestamp(time // 1000, UTC)
    day = moment.replace(hour=0, minute=0, second=0)
    count, unit = int(interval[:-1]), interval[-1]
    if unit == "M":
        first = day.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    elif unit == "w":
        first = day - timedelta(days=day.weekday())
        after = first + timedelta(days=7)
    elif unit == "d":
        first = day - timedelta(days=(day - datetime(1970, 1, 2, tzinfo=UTC)).days % count)
        after = first + timedelta(days=count)
    else:
        length = timedelta(**{{"s": "seconds", "m": "minutes", "h": "hours"}[unit]: count})
        first = day + (moment - day) // length * length
        after = first + length
    return int(first.timestamp()) * 1000, int(after.timestamp()) * 1000 - 1


def candles_of(market: Market, interval: str, trades: Iterable[TradeExecuted], now: int) -> list[Candle]:
    """Every candle of `interval`, oldest first; at `now`, the last may be open."""
    groups: dict[tuple[int, int], list[TradeExecuted]] = {}
    for trade in trades:
        groups.setdefault(interval_of(interval, trade.time), []).append(trade)
    return [
        Candle(
            market=market.symbol,
            interval=interval,
            open_time=TimeMs(first),
            close_time=TimeMs(last),
            open=group[0].price,
            high=max(trade.price for trade in group),
            low=min(trade.price for trade in group),
            close=group[-1].price,
            volume=QuantityLots(sum(trade.quantity for trade in group)),
            quote_volume=sum(market.notional(trade.price, trade.quantity) for trade in group),
            trade_count=len(group),
            taker_buy_volume=QuantityLots(
                sum(trade.quantity for trade in group if trade.taker_side is Side.BUY)
            ),
            taker_buy_quote=sum(
                market.notional(trade.price, trade.quantity)
                for trade in group
                if trade.taker_side is Side.BUY
            ),
            first_trade_id=group[0].trade_id,
            last_trade_id=group[-1].trade_id,
            closed=now > last,
        )
        for (first, last), group in groups.items()
    ]


def ticker_of(market: Market, trades: Iterable[TradeExecuted], now: int) -> Ticker:
    """The ticker at `now`, over all trades there ever were."""
    start = now // 1000 * 1000 - 86_399_000
    inside = [trade for trade in trades if trade.time >= start]
    before = [trade for trade in trades if trade.time < start]
    return Ticker(
        market=market.symbol,
        open_time=TimeMs(start),
        close_time=TimeMs(now),
        open=inside[0].price if inside else PriceTicks(0),
        high=max((trade.price for trade in inside), default=PriceTicks(0)),
        low=min((trade.price for trade in inside), default=PriceTicks(0)),
        last=inside[-1].price if inside else PriceTicks(0),
        last_quantity=inside[-1].quantity if inside else QuantityLots(0),
        previous_close=before[-1].price if before else PriceTicks(0),
        volume=QuantityLots(sum(trade.quantity for trade in inside)),
        quote_volume=sum(market.notional(trade.price, trade.quantity) for trade in inside),
        first_trade_id=inside[0].trade_id if inside else -1,
        last_trade_id=inside[-1].trade_id if inside else -1,
        trade_count=len(inside),
        windows=tuple(_window_ticker(market, name, trades, now - ms) for name, ms in WINDOWS_MS.items()),
    )


WINDOWS_MS = {"1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000}


def _window_ticker(market: Market, name: str, trades: Iterable[TradeExecuted], since: int) -> WindowTicker:
    opened = since - since % 60_000
    inside = [trade for trade in trades if trade.time >= opened]
    return WindowTicker(
        name=name,
        open_time=TimeMs(opened),
        open=inside[0].price if inside else PriceTicks(0),
        high=max((trade.price for trade in inside), default=PriceTicks(0)),
        low=min((trade.price for trade in inside), default=PriceTicks(0)),
        last=inside[-1].price if inside else PriceTicks(0),
        volume=QuantityLots(sum(trade.quantity for trade in inside)),
        quote_volume=sum(market.notional(trade.price, trade.quantity) for trade in inside),
        first_trade_id=inside[0].trade_id if inside else -1,
        last_trade_id=inside[-1].trade_id if inside else -1,
        trade_count=len(inside),
    )
