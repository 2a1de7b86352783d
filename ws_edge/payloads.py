"""Market data and account events in the shapes of Binance's streams. Pure; one function per kind of payload.

`time_scale` is 1 for times in milliseconds and 1000 for microseconds. Names of fields are Binance's.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from functions.market_data.ticker_shapes import average_price, percent
from functions.orders.order_shapes import expiry_reason, prevented_quantity, shown_price, shown_time_in_force
from protocol.events import (
    AccountEvent,
    FundsDeposited,
    FundsReleased,
    FundsWithdrawn,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
    TradeExecuted,
)
from protocol.market import Market, MarketMap
from protocol.market_data import BookTicker, Candle, DepthDiff, Ticker, WindowTicker
from protocol.orders import Balance, CloseReason, Liquidity, OrderState, OrderStatus, Side
from protocol.units import PriceTicks, QuantityLots, TimeMs, format_decimal

Payload = dict[str, Any]
Levels = Iterable[tuple[PriceTicks, QuantityLots]]

_ZERO: Final = format_decimal(0)
_NO_TRADE_GROUP: Final = -1
_TIMES: Final = {
    "executionReport": frozenset({"E", "T", "O", "W"}),  # `u` is not a time there
    "outboundAccountPosition": frozenset({"E", "u"}),
    "balanceUpdate": frozenset({"E", "T"}),
}
"""The fields of an account's payloads that are times."""
_EXECUTION_TYPES: Final = {
    CloseReason.CANCELED_BY_OWNER: "CANCELED",
    CloseReason.SELF_TRADE_PREVENTED: "TRADE_PREVENTION",
}


def levels(market: Market, rows: Levels) -> list[tuple[str, str]]:
    """Return (price, quantity) by level; quantity zero if a level is gone."""
    return [(market.format_price(price), market.format_quantity(quantity)) for price, quantity in rows]


def trade(market: Market, executed: TradeExecuted, now: TimeMs, time_scale: int) -> Payload:
    """Return a @trade event."""
    return {
        "e": "trade",
        "E": now * time_scale,
        "s": market.symbol,
        "t": executed.trade_id,
        "p": market.format_price(executed.price),
        "q": market.format_quantity(executed.quantity),
        "T": executed.time * time_scale,
        "m": executed.taker_side == Side.SELL,
        "M": True,
    }


def aggregates(trades: Iterable[TradeExecuted]) -> list[list[TradeExecuted]]:
    """Return trades, oldest first, grouped into aggregates."""
    groups: list[list[TradeExecuted]] = []
    for trade in trades:
        if groups and groups[-1][0].aggregate_id == trade.aggregate_id:
            groups[-1].append(trade)
        else:
            groups.append([trade])
    return groups


def aggregate_trade(market: Market, trades: list[TradeExecuted], now: TimeMs, time_scale: int) -> Payload:
    """Return an @aggTrade event of the trades of one aggregate."""
    first = trades[0]
    return {
        "e": "aggTrade",
        "E": now * time_scale,
        "s": market.symbol,
        "a": first.aggregate_id,
        "p": market.format_price(first.price),
        "q": market.format_quantity(QuantityLots(sum(trade.quantity for trade in trades))),
        "f": first.trade_id,
        "l": trades[-1].trade_id,
        "T": first.time * time_scale,
        "m": first.taker_side == Side.SELL,
        "M": True,
    }


def depth_update(market: Market, diff: DepthDiff, time_scale: int) -> Payload:
    """Return a @depth event."""
    return {
        "e": "depthUpdate",
        "E": diff.time * time_scale,
        "s": market.symbol,
        "U": diff.first_sequence,
        "u": diff.last_sequence,
        "b": levels(market, diff.bids),
        "a": levels(market, diff.asks),
    }


def partial_depth(market: Market, sequence: int, bids: Levels, asks: Levels) -> Payload:
    """Return a @depth5, @depth10 or @depth20 payload."""
    return {"lastUpdateId": sequence, "bids": levels(market, bids), "asks": levels(market, asks)}


def book_ticker(market: Market, best: BookTicker) -> Payload:
    """Return a @bookTicker payload, which has neither type nor time."""
    return {
        "u": best.sequence,
        "s": market.symbol,
        "b": market.format_price(best.bid_price),
        "B": market.format_quantity(best.bid_quantity),
        "a": market.format_price(best.ask_price),
        "A": market.format_quantity(best.ask_quantity),
    }


def mini_ticker(market: Market, ticker: Ticker, time_scale: int) -> Payload:
    """Return a @miniTicker event."""
    return {
        "e": "24hrMiniTicker",
        "E": ticker.close_time * time_scale,
        "s": market.symbol,
        "c": market.format_price(ticker.last),
        "o": market.format_price(ticker.open),
        "h": market.format_price(ticker.high),
        "l": market.format_price(ticker.low),
        "v": market.format_quantity(ticker.volume),
        "q": market.format_quote(ticker.quote_volume),
    }


def full_ticker(market: Market, ticker: Ticker, best: BookTicker | None, time_scale: int) -> Payload:
    """Return a @ticker event; `best` is None if the book has never had an order."""
    return {
        "e": "24hrTicker",
        "E": ticker.close_time * time_scale,
        "s": market.symbol,
        "p": format_decimal((ticker.last - ticker.open) * market.tick_size),
        "P": percent(ticker.last - ticker.open, ticker.open),
        "w": average_price(market, ticker.quote_volume, ticker.volume),
        "x": market.format_price(ticker.previous_close),
        "c": market.format_price(ticker.last),
        "Q": market.format_quantity(ticker.last_quantity),
        "b": market.format_price(best.bid_price) if best else _ZERO,
        "B": market.format_quantity(best.bid_quantity) if best else _ZERO,
        "a": market.format_price(best.ask_price) if best else _ZERO,
        "A": market.format_quantity(best.ask_quantity) if best else _ZERO,
        "o": market.format_price(ticker.open),
        "h": market.format_price(ticker.high),
        "l": market.format_price(ticker.low),
        "v": market.format_quantity(ticker.volume),
        "q": market.format_quote(ticker.quote_volume),
        "O": ticker.open_time * time_scale,
        "C": ticker.close_time * time_scale,
        "F": ticker.first_trade_id,
        "L": ticker.last_trade_id,
        "n": ticker.trade_count,
    }


def window_ticker(
    market: Market, window: WindowTicker, closes: TimeMs, now: TimeMs, time_scale: int
) -> Payload:
    """Return a @ticker_1h, @ticker_4h or @ticker_1d event of a window that ends at `closes`."""
    return {
        "e": f"{window.name}Ticker",
        "E": now * time_scale,
        "s": market.symbol,
        "p": format_decimal((window.last - window.open) * market.tick_size),
        "P": percent(window.last - window.open, window.open),
        "o": market.format_price(window.open),
        "h": market.format_price(window.high),
        "l": market.format_price(window.low),
        "c": market.format_price(window.last),
        "w": average_price(market, window.quote_volume, window.volume),
        "v": market.format_quantity(window.volume),
        "q": market.format_quote(window.quote_volume),
        "O": window.open_time * time_scale,
        "C": closes * time_scale,
        "F": window.first_trade_id,
        "L": window.last_trade_id,
        "n": window.trade_count,
    }


def kline(market: Market, candle: Candle, now: TimeMs, time_scale: int) -> Payload:
    """Return a @kline event."""
    return {
        "e": "kline",
        "E": now * time_scale,
        "s": market.symbol,
        "k": {
            "t": candle.open_time * time_scale,
            "T": (candle.close_time + 1) * time_scale - 1,
            "s": market.symbol,
            "i": candle.interval,
            "f": candle.first_trade_id,
            "L": candle.last_trade_id,
            "o": market.format_price(candle.open),
            "c": market.format_price(candle.close),
            "h": market.format_price(candle.high),
            "l": market.format_price(candle.low),
            "v": market.format_quantity(candle.volume),
            "n": candle.trade_count,
            "x": candle.closed,
            "q": market.format_quote(candle.quote_volume),
            "V": market.format_quantity(candle.taker_buy_volume),
            "Q": market.format_quote(candle.taker_buy_quote),
            "B": "0",
        },
    }


def average(market: Market, price: str, last_trade_time: int, now: TimeMs, time_scale: int) -> Payload:
    """Return an @avgPrice event."""
    return {
        "e": "avgPrice",
        "E": now * time_scale,
        "s": market.symbol,
        "i": "5m",
        "w": price,
        "T": last_trade_time * time_scale,
    }


def account_events(markets: MarketMap, event: AccountEvent, now: TimeMs) -> Iterator[Payload]:
    """Yield an account's payloads for one event: the report or the transfer, then changed balances."""
    match event:
        case OrderAccepted():
            yield _report(markets, event.order, "NEW", event.time, now)
        case OrderFilled():
            yield _fill_report(markets, event, now)
        case OrderClosed():
            yield _close_report(markets, event, now)
        case FundsDeposited() | FundsWithdrawn():
            change = event.amount if isinstance(event, FundsDeposited) else -event.amount
            delta = markets.format_amount(change, event.asset)
            yield {"e": "balanceUpdate", "E": now, "a": event.asset, "d": delta, "T": event.time}
        case FundsReleased():
            pass
    if event.balances:
        yield _position(markets, event.balances, event.time, now)


def in_microseconds(payload: Payload) -> Payload:
    """Return an account's payload with its times in microseconds."""
    times = _TIMES[payload["e"]]
    return {name: value * 1000 if name in times else value for name, value in payload.items()}


def _position(markets: MarketMap, balances: Iterable[Balance], time: TimeMs, now: TimeMs) -> Payload:
    rows = [
        {
            "a": balance.asset,
            "f": markets.format_amount(balance.available, balance.asset),
            "l": markets.format_amount(balance.held, balance.asset),
        }
        for balance in balances
    ]
    return {"e": "outboundAccountPosition", "E": now, "u": time, "B": rows}


def _report(markets: MarketMap, order: OrderState, execution_type: str, time: TimeMs, now: TimeMs) -> Payload:
    market = markets.by_symbol[order.market]
    return {
        "e": "executionReport",
        "E": now,
        "s": order.market,
        "c": order.client_order_id,
        "S": order.side.name,
        "o": order.order_type.name,
        "f": shown_time_in_force(order),
        "q": market.format_quantity(order.quantity),
        "p": shown_price(order, market),
        "P": _ZERO,
        "F": _ZERO,
        "g": -1,
        "C": "",
        "x": execution_type,
        "X": order.status.name,
        "r": "NONE",
        "i": order.order_id,
        "l": _ZERO,
        "z": market.format_quantity(order.cum_quantity),
        "L": _ZERO,
        "n": "0",
        "N": None,
        "T": time,
        "t": -1,
        "I": order.execution_id,
        "w": order.status.is_open,
        "m": False,
        "M": False,
        "O": order.accepted_time,
        "Z": market.format_quote(order.cum_quote),
        "Y": _ZERO,
        "Q": market.format_quote(order.quote_quantity),
        "W": order.accepted_time,
        "V": order.self_trade_prevention.name,
        **_strategy(order),
    }


def _strategy(order: OrderState) -> Payload:
    if order.terms is None:
        return {}
    terms = {"j": order.terms.strategy_id, "J": order.terms.strategy_type}
    return {name: value for name, value in terms.items() if value is not None}


def _fill_report(markets: MarketMap, event: OrderFilled, now: TimeMs) -> Payload:
    market = markets.by_symbol[event.order.market]
    report = _report(markets, event.order, "TRADE", event.time, now)
    report |= {
        "l": market.format_quantity(event.quantity),
        "L": market.format_price(event.price),
        "n": market.format_amount(event.fee, event.fee_asset),
        "N": event.fee_asset,
        "t": event.trade_id,
        "m": event.liquidity is Liquidity.MAKER,
        "Y": market.format_quote(event.quote),
    }
    return report


def _close_report(markets: MarketMap, event: OrderClosed, now: TimeMs) -> Payload:
    order = event.order
    report = _report(markets, order, _EXECUTION_TYPES.get(event.reason, "EXPIRED"), event.time, now)
    if event.reason is CloseReason.CANCELED_BY_OWNER:
        # `c` names the cancel; clients look their order up by `C`.
        report["c"] = event.cancel_id or order.client_order_id
        report["C"] = order.client_order_id
    elif order.status is OrderStatus.EXPIRED:
        report["eR"] = expiry_reason(order)
    elif order.status is OrderStatus.EXPIRED_IN_MATCH:
        report |= {"u": _NO_TRADE_GROUP, "Cs": order.market}
        market, match = markets.by_symbol[order.market], event.prevented
        prevented = prevented_quantity(order, market)
        if prevented is not None:
            # The existing modes take everything at once: the last quantity is all.
            report |= {"A": prevented, "B": prevented}
        if match is not None:
            report |= {
                "v": match.match_id,
                "U": event.counter_order_id,
                "pl": market.format_quantity(match.quantity),
                "pL": market.format_price(match.price),
                "pY": market.format_quote(market.notional(match.price, match.quantity)),
            }
    return report
