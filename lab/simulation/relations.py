"""What the database must hold when all is quiet: exactly what happened, once."""

from collections import Counter

from lab.simulation.database import Tables
from lab.simulation.feeds import candles_of
from lab.simulation.next_release import news_of
from lab.simulation.witness import Witness, require
from persist.candles import STORED_INTERVALS, candle_values
from persist.rows import database_time
from protocol.events import Event, TradeExecuted
from protocol.streams import events


def check_relations(tables: Tables, witness: Witness) -> None:
    """Compare every relation with the events.

    Raises:
        Violation: they differ.
    """
    _check_trades(tables, witness)
    _check_orders(tables, witness)
    _check_ledger(tables, witness)
    _check_news(tables, witness)
    _check_candles(tables, witness)
    poisoned = {
        (shard, stream_id)
        for shard in range(witness.market_map.shard_count)
        for stream, stream_id in witness.garbage
        if stream == events(shard)
    }
    require(
        tables.dead_events.keys() == poisoned,
        f"put aside is {list(tables.dead_events)}, garbage was {list(poisoned)}",
    )


def _check_trades(tables: Tables, witness: Witness) -> None:
    markets = witness.market_map.by_symbol
    happened: list[Event] = [event for _, _, committed in witness.happened for event in committed]
    trades = [event for event in happened if isinstance(event, TradeExecuted)]
    expected_trades = {
        (trade.market, trade.trade_id): (
            database_time(trade.time),
            trade.market,
            trade.trade_id,
            trade.aggregate_id,
            trade.sequence,
            trade.price,
            trade.quantity,
            markets[trade.market].notional(trade.price, trade.quantity),
            trade.taker_side,
            trade.maker_order_id,
            trade.taker_order_id,
            trade.maker_account_id,
            trade.taker_account_id,
        )
        for trade in trades
    }
    require(
        tables.trades == expected_trades,
        f"the database has {len(tables.trades)} trades of {len(trades)}, or other ones",
    )


def _check_orders(tables: Tables, witness: Witness) -> None:
    books = witness.books
    fills = {(fill.order.account_id, fill.order.order_id, fill.trade_id): fill for fill in books.fills}
    require(
        {key: (row[6], row[7], row[8], row[10]) for key, row in tables.fills.items()}
        == {key: (fill.price, fill.quantity, fill.quote, fill.fee) for key, fill in fills.items()},
        "the database has other fills than happened",
    )
    require(
        tables.orders == {order_id: history[-1] for order_id, history in books.histories.items()},
        "the database has other orders than happened",
    )


def _check_news(tables: Tables, witness: Witness) -> None:
    news = [
        (shard, stream_id, number, told)
        for shard, stream_id, committed in witness.happened
        for number, event in enumerate(committed)
        if (told := news_of(event)) is not None
    ]
    require(
        sorted(tables.news) == sorted(news),
        f"the database has {len(tables.news)} of {len(news)} things that the next release tells, or other "
        "ones",
    )


def _check_candles(tables: Tables, witness: Witness) -> None:
    for market in witness.market_map.by_symbol.values():
        of_market = witness.books.trades[market.symbol]
        for interval in STORED_INTERVALS:
            for candle in candles_of(market, interval, of_market):
                part = tables.candles.get((market.symbol, interval, candle.open_time))
                from_trades = (
                    candle.open,
                    candle.high,
                    candle.low,
                    candle.close,
                    candle.volume,
                    candle.quote_volume,
                    candle.trade_count,
                    candle.taker_buy_volume,
                    candle.taker_buy_quote,
                    candle.first_trade_id,
                    candle.last_trade_id,
                )
                require(
                    part is not None and candle_values(part) == from_trades,
                    f"{market.symbol}: a candle of {interval} in the database is {part}, not {from_trades}",
                )


def _check_ledger(tables: Tables, witness: Witness) -> None:
    """Every event balances, every entry is there once, and every account has what its events say."""
    balances: Counter[tuple[int, str]] = Counter()
    by_event: Counter[tuple[object, ...]] = Counter()
    seen: set[tuple[object, ...]] = set()
    for _, shard, stream_id, event, entry, account_id, asset, amount, *_ in tables.ledger_entries:
        key = (shard, stream_id, event, entry)
        require(key not in seen, f"the ledger has entry {key} twice")
        seen.add(key)
        assert isinstance(account_id, int)
        assert isinstance(asset, str)
        assert isinstance(amount, int)
        by_event[shard, stream_id, event, asset] += amount
        if account_id > 0:
            balances[account_id, asset] += amount
    require(not any(by_event.values()), "an event in the ledger does not balance")
    require(
        {key: amount for key, amount in balances.items() if amount}
        == {key: amount for key, amount in witness.books.totals.items() if amount},
        "the ledger's balances are not the accounts'",
    )
