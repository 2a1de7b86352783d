"""Candles and tickers made from an exchange's trades, as its public API lists them: the slow and
obvious way.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any


def candles_of(trades: Iterable[Any], interval_ms: int) -> list[list[Any]]:
    """Return klines (those with trades) as the exchange writes them, made from its trades."""
    by_time: dict[int, list[Any]] = {}
    for each in trades:
        by_time.setdefault(each["time"] // interval_ms * interval_ms, []).append(each)
    return [_candle(start, start + interval_ms - 1, each) for start, each in sorted(by_time.items())]


def ticker_of(trades: Sequence[Any]) -> dict[str, Any]:
    """Return what a @ticker of these trades says of them."""
    prices = [Decimal(each["price"]) for each in trades]
    return {
        "o": f"{prices[0]:.8f}",
        "h": f"{max(prices):.8f}",
        "l": f"{min(prices):.8f}",
        "c": f"{prices[-1]:.8f}",
        "v": _total(trades, "qty"),
        "q": _total(trades, "quoteQty"),
        "n": len(trades),
        "F": trades[0]["id"],
        "L": trades[-1]["id"],
    }


def _total(trades: Iterable[Any], name: str) -> str:
    return f"{sum(Decimal(each[name]) for each in trades):.8f}"


def _candle(open_time: int, close_time: int, trades: list[Any]) -> list[Any]:
    prices = [Decimal(each["price"]) for each in trades]
    buys = [each for each in trades if not each["isBuyerMaker"]]
    texts = [f"{price:.8f}" for price in (prices[0], max(prices), min(prices), prices[-1])]
    volume, quote_volume = _total(trades, "qty"), _total(trades, "quoteQty")
    return [
        open_time,
        *texts,
        volume,
        close_time,
        quote_volume,
        len(trades),
        _total(buys, "qty"),
        _total(buys, "quoteQty"),
    ]
