"""Tickers in Binance's shapes."""

import msgspec

from functions.api.shapes import Amount, Change, Percent, Time
from protocol.market import Market
from protocol.market_data import BookTicker, Ticker
from protocol.units import UNITS_PER_ASSET, PriceTicks, QuantityLots, TimeMs, format_decimal


class MiniTickerShape(msgspec.Struct, gc=False, rename="camel"):
    """The 24 h statistics, MINI."""

    symbol: str
    open_price: Amount
    high_price: Amount
    low_price: Amount
    last_price: Amount
    volume: Amount
    quote_volume: Amount
    open_time: Time
    close_time: Time
    first_id: int
    last_id: int
    count: int


class TickerShape(msgspec.Struct, gc=False, rename="camel"):
    """The 24 h statistics, FULL."""

    symbol: str
    price_change: Change
    price_change_percent: Percent
    weighted_avg_price: Amount
    prev_close_price: Amount
    last_price: Amount
    last_qty: Amount
    bid_price: Amount
    bid_qty: Amount
    ask_price: Amount
    ask_qty: Amount
    open_price: Amount
    high_price: Amount
    low_price: Amount
    volume: Amount
    quote_volume: Amount
    open_time: Time
    close_time: Time
    first_id: int
    last_id: int
    count: int


class WindowTickerShape(msgspec.Struct, gc=False, rename="camel"):
    """The statistics of any window, FULL."""

    symbol: str
    price_change: Change
    price_change_percent: Percent
    weighted_avg_price: Amount
    open_price: Amount
    high_price: Amount
    low_price: Amount
    last_price: Amount
    volume: Amount
    quote_volume: Amount
    open_time: Time
    close_time: Time
    first_id: int
    last_id: int
    count: int


class BookTickerShape(msgspec.Struct, gc=False, rename="camel"):
    """Best bid and ask."""

    symbol: str
    bid_price: Amount
    bid_qty: Amount
    ask_price: Amount
    ask_qty: Amount


def empty_ticker(market: Market, open_time: TimeMs, closes: TimeMs) -> Ticker:
    """Return the statistics of a window without a trade."""
    zero, none = PriceTicks(0), QuantityLots(0)
    return Ticker(
        market=market.symbol,
        open_time=open_time,
        close_time=closes,
        open=zero,
        high=zero,
        low=zero,
        last=zero,
        last_quantity=none,
        previous_close=zero,
        volume=none,
        quote_volume=0,
        first_trade_id=-1,
        last_trade_id=-1,
        trade_count=0,
    )


def percent(change: int, of: int) -> str:
    """Return change / of in percent with three decimals, rounded half away from zero; 0 if `of` is 0."""
    if not of:
        return "0.000"
    thousandths = (abs(change) * 200_000 + of) // (2 * of)
    sign = "-" if change < 0 and thousandths else ""
    return f"{sign}{thousandths // 1000}.{thousandths % 1000:03d}"


def average_price(market: Market, quote_volume: int, volume: QuantityLots) -> str:
    """Return quote volume / volume with eight decimals, rounded down."""
    if not volume:
        return format_decimal(0)
    # Both sides in units of 10**-8: the quote asset's scale and the lot size cancel out.
    quote = quote_volume * UNITS_PER_ASSET // 10**market.quote_scale
    return format_decimal(quote * UNITS_PER_ASSET // (volume * market.lot_size))


def ticker_shape(market: Market, ticker: Ticker, book: BookTickerShape, time_scale: int) -> TickerShape:
    """Return the FULL ticker."""
    change = (ticker.last - ticker.open) * market.tick_size
    return TickerShape(
        symbol=market.symbol,
        price_change=format_decimal(change),
        price_change_percent=percent(ticker.last - ticker.open, ticker.open),
        weighted_avg_price=average_price(market, ticker.quote_volume, ticker.volume),
        prev_close_price=market.format_price(ticker.previous_close),
        last_price=market.format_price(ticker.last),
        last_qty=market.format_quantity(ticker.last_quantity),
        bid_price=book.bid_price,
        bid_qty=book.bid_qty,
        ask_price=book.ask_price,
        ask_qty=book.ask_qty,
        open_price=market.format_price(ticker.open),
        high_price=market.format_price(ticker.high),
        low_price=market.format_price(ticker.low),
        volume=market.format_quantity(ticker.volume),
        quote_volume=market.format_quote(ticker.quote_volume),
        open_time=ticker.open_time * time_scale,
        close_time=ticker.close_time * time_scale,
        first_id=ticker.first_trade_id,
        last_id=ticker.last_trade_id,
        count=ticker.trade_count,
    )


def mini_ticker_shape(market: Market, ticker: Ticker, time_scale: int) -> MiniTickerShape:
    """Return the MINI ticker."""
    return MiniTickerShape(
        symbol=market.symbol,
        open_price=market.format_price(ticker.open),
        high_price=market.format_price(ticker.high),
        low_price=market.format_price(ticker.low),
        last_price=market.format_price(ticker.last),
        volume=market.format_quantity(ticker.volume),
        quote_volume=market.format_quote(ticker.quote_volume),
        open_time=ticker.open_time * time_scale,
        close_time=ticker.close_time * time_scale,
        first_id=ticker.first_trade_id,
        last_id=ticker.last_trade_id,
        count=ticker.trade_count,
    )


def window_ticker_shape(market: Market, ticker: Ticker, time_scale: int) -> WindowTickerShape:
    """Return the FULL ticker of any window."""
    return WindowTickerShape(
        symbol=market.symbol,
        price_change=format_decimal((ticker.last - ticker.open) * market.tick_size),
        price_change_percent=percent(ticker.last - ticker.open, ticker.open),
        weighted_avg_price=average_price(market, ticker.quote_volume, ticker.volume),
        open_price=market.format_price(ticker.open),
        high_price=market.format_price(ticker.high),
        low_price=market.format_price(ticker.low),
        last_price=market.format_price(ticker.last),
        volume=market.format_quantity(ticker.volume),
        quote_volume=market.format_quote(ticker.quote_volume),
        open_time=ticker.open_time * time_scale,
        close_time=ticker.close_time * time_scale,
        first_id=ticker.first_trade_id,
        last_id=ticker.last_trade_id,
        count=ticker.trade_count,
    )


def book_ticker_shape(market: Market, book: BookTicker | None) -> BookTickerShape:
    """Return best bid and ask; zeros where there is none."""
    if book is None:
        zero = format_decimal(0)
        return BookTickerShape(market.symbol, zero, zero, zero, zero)
    return BookTickerShape(
        symbol=market.symbol,
        bid_price=market.format_price(book.bid_price),
        bid_qty=market.format_quantity(book.bid_quantity),
        ask_price=market.format_price(book.ask_price),
        ask_qty=market.format_quantity(book.ask_quantity),
    )
