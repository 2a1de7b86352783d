"""What subscribers do with what they hear: follow numbers, keep books, and note what does not fit.

Pure: no sockets, no clock.
"""

from collections.abc import Iterable
from typing import Any, Final

from protocol.events import DepthChanged, Event, TimePassed, TradeExecuted

BREACHES_KEPT: Final = 20
"""Maximum of breaches of one kind that are kept as text; all are counted."""


class Breaches:
    """What does not fit: the first ones in words, all of them counted."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, text: str) -> None:
        """Count one, and keep its text if it is among the first."""
        self.count += 1
        if len(self.first) < BREACHES_KEPT:
            self.first.append(text)


class StreamWatch:
    """Follows the shards' event logs: per market, trade ids and sequences must be contiguous."""

    def __init__(self) -> None:
        self.breaches = Breaches()
        self.last_trade_ids: dict[str, int] = {}
        self.last_sequences: dict[str, int] = {}
        self.events = 0
        self.ticks = 0
        """How many of them say only that time has passed."""

    def hear(self, events: Iterable[Event]) -> None:
        """Check the events of one entry."""
        for event in events:
            self.events += 1
            self.ticks += isinstance(event, TimePassed)
            if isinstance(event, TradeExecuted | DepthChanged):
                self._follow(self.last_sequences, event.market, "sequence", event.sequence)
            if isinstance(event, TradeExecuted):
                self._follow(self.last_trade_ids, event.market, "trade", event.trade_id)

    def _follow(self, last: dict[str, int], market: str, numbering: str, number: int) -> None:
        expected = last.get(market, 0) + 1
        if number != expected:
            self.breaches.add(f"{market}: {numbering} {number} in the log where {expected} should be")
        last[market] = number

    def went_back(self, shard: int, heard: str, newest: str) -> None:
        """Record as a breach that a shard's log is shorter than it was."""
        self.breaches.add(f"shard {shard}: the log reached {heard}, now it ends at {newest}")


class LocalBook:
    """A market's book as a subscriber keeps it: a snapshot, then every change."""

    def __init__(self) -> None:
        self.update_id: int | None = None
        """None: no snapshot yet."""
        self.bids: dict[str, str] = {}
        self.asks: dict[str, str] = {}
        self.waiting: list[dict[str, Any]] = []
        self.last_heard: int | None = None
        """The `u` of the last update on this connection."""

    def hear(self, update: dict[str, Any]) -> str:
        """Apply one depth update; return what is wrong with it, or an empty text."""
        last, self.last_heard = self.last_heard, update["u"]
        if last is None and self.update_id is not None and update["U"] > self.update_id + 1:
            # The snapshot is older than the stream's beginning; another one is needed, as Binance tells its
            # clients.
            self.update_id = None
        if self.update_id is None:
            self.waiting.append(update)
        else:
            self._apply(update)
        return "" if last is None or update["U"] == last + 1 else f"update {update['U']} follows on {last}"

    def fill(self, snapshot: dict[str, Any]) -> bool:
        """Begin from a snapshot; return whether it reaches to where the updates began, as far as is known."""
        sequence: int = snapshot["lastUpdateId"]
        if self.waiting and sequence < self.waiting[0]["U"] - 1:
            return False
        self.update_id = sequence
        self.bids, self.asks = dict(snapshot["bids"]), dict(snapshot["asks"])
        for update in self.waiting:
            self._apply(update)
        self.waiting = []
        return True

    def _apply(self, update: dict[str, Any]) -> None:
        if self.update_id is None or update["u"] <= self.update_id:
            return
        for levels, changes in ((self.bids, update["b"]), (self.asks, update["a"])):
            for price, quantity in changes:
                if float(quantity):
                    levels[price] = quantity
                else:
                    levels.pop(price, None)
        self.update_id = update["u"]


class MarketWatch:
    """One subscriber of market data: books, trades and closed candles, through any number of connections."""

    def __init__(self, name: str, symbols: Iterable[str]) -> None:
        self.name = name
        self.breaches = Breaches()
        self.books = {symbol: LocalBook() for symbol in symbols}
        self.trades: dict[str, dict[int, tuple[str, str, bool]]] = {symbol: {} for symbol in self.books}
        """Market -> trade id -> price, quantity, whether the buyer was the maker."""
        self.candles: dict[tuple[str, str, int], tuple[str, str, str, str, str, int, int, int]] = {}
        """(market, interval, open time) of closed candles -> open, high, low, close, volume, count, ids.

        The trade ids are the first and the last.
        """
        self.connections = 0
        self._last_trade: dict[str, int] = {}

    def connected(self) -> None:
        """Start again: messages in between are missing, and none on this connection may be."""
        self.connections += 1
        self._last_trade = {}
        self.books = {symbol: LocalBook() for symbol in self.books}

    def hear(self, event: dict[str, Any]) -> None:
        """Check one event of a market stream."""
        kind, symbol = event["e"], event["s"]
        if kind == "depthUpdate":
            if wrong := self.books[symbol].hear(event):
                self.breaches.add(f"{self.name}: {symbol} depth: {wrong}")
        elif kind == "trade":
            self._hear_trade(symbol, event)
        elif kind == "kline" and event["k"]["x"]:
            self._hear_candle(symbol, event["k"])

    def _hear_trade(self, symbol: str, event: dict[str, Any]) -> None:
        trade_id = event["t"]
        last = self._last_trade.get(symbol)
        if last is not None and trade_id != last + 1:
            self.breaches.add(f"{self.name}: {symbol} trade {trade_id} follows on {last}")
        self._last_trade[symbol] = trade_id
        seen = (event["p"], event["q"], event["m"])
        if self.trades[symbol].setdefault(trade_id, seen) != seen:
            self.breaches.add(f"{self.name}: {symbol} trade {trade_id} was told twice, differently")

    def _hear_candle(self, symbol: str, candle: dict[str, Any]) -> None:
        key = (symbol, candle["i"], candle["t"])
        seen = tuple(candle[name] for name in ("o", "h", "l", "c", "v", "n", "f", "L"))
        if self.candles.setdefault(key, seen) != seen:
            self.breaches.add(f"{self.name}: the closed candle {key} was told twice, differently")


class Segment:
    """What one connection heard of one account, from its first event to its last."""

    def __init__(self, account_id: int) -> None:
        self.account_id = account_id
        self.first_time = self.last_time = 0
        self.accepted: set[int] = set()
        """Order ids."""
        self.fills: set[tuple[int, int]] = set()
        """(order id, trade id)."""


class ReportWatch:
    """One subscriber of accounts' own events: every order's reports must come once, in order, and add up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.breaches = Breaches()
        self.segments: list[Segment] = []
        self.reports = 0
        self.connections = 0
        self.last_status: dict[int, tuple[str, str]] = {}
        """Order id -> its last status and cumulative quantity, for orders of the current connection.

        Only for orders that it has followed from the start.
        """
        self._current: dict[int, Segment] = {}

    def connected(self) -> None:
        """Begin a new connection: events in between are missing, so nothing continues from before."""
        self.connections += 1
        self._current = {}
        self.last_status = {}

    def hear(self, account_id: int, event: dict[str, Any]) -> None:
        """Check one event of an account; only execution reports count."""
        if event["e"] != "executionReport":
            return
        self.reports += 1
        segment = self._current.get(account_id)
        if segment is None:
            segment = self._current[account_id] = Segment(account_id)
            segment.first_time = event["T"]
            self.segments.append(segment)
        if event["T"] < segment.last_time:
            self.breaches.add(f"{self.name}: account {account_id}: time goes back to {event['T']}")
        segment.last_time = event["T"]
        order_id, kind = event["i"], event["x"]
        if kind == "NEW":
            if order_id in segment.accepted:
                self.breaches.add(f"{self.name}: order {order_id} is new twice")
            segment.accepted.add(order_id)
            self.last_status[order_id] = ("NEW", event["z"])
            return
        if kind == "TRADE":
            if (order_id, event["t"]) in segment.fills:
                self.breaches.add(f"{self.name}: order {order_id} was told of trade {event['t']} twice")
            segment.fills.add((order_id, event["t"]))
        before = self.last_status.get(order_id)
        # The order is older than this subscription.
        if before is None:
            return
        if before[0] not in ("NEW", "PARTIALLY_FILLED"):
            self.breaches.add(f"{self.name}: order {order_id} was {before[0]}, then {event['X']}")
        filled = _hundred_millionths(event["l"]) if kind == "TRADE" else 0
        if _hundred_millionths(before[1]) + filled != _hundred_millionths(event["z"]):
            self.breaches.add(
                f"{self.name}: order {order_id}: {before[1]} and {event['l']} do not make {event['z']}"
            )
        self.last_status[order_id] = (event["X"], event["z"])


def _hundred_millionths(text: str) -> int:
    return int(text.replace(".", ""))


def missing_in(
    segment: Segment,
    accepted: dict[int, list[tuple[int, int, int]]],
    filled: dict[int, list[tuple[int, int, int]]],
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return what should have been heard between a segment's first and last event: orders, and fills.

    `accepted` is account -> (time of its number, time of its last change, order id), `filled` account ->
    (time, order id, trade id). An order's first report comes between these two times: with several shards
    later than its number.
    """
    first, last = segment.first_time, segment.last_time
    orders = [
        order
        for numbered, changed, order in accepted.get(segment.account_id, ())
        if first < numbered and changed < last
    ]
    fills = [
        (order, trade) for time, order, trade in filled.get(segment.account_id, ()) if first < time < last
    ]
    return (
        [order for order in orders if order not in segment.accepted],
        [fill for fill in fills if fill not in segment.fills],
    )
