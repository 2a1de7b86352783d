"""The verdict on a run: the promises, the extent of the evidence, and the breaches. Pure.

Nothing here uses the exchange's own arithmetic: money, candles and books are recomputed from orders and
fills.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from lab.chaos.evidence import (
    CLIENT_ORDER_ID_PREFIX,
    MAY_BE_SENT_AGAIN,
    Answer,
    Book,
    CandleRow,
    Evidence,
    FillRow,
    Outcome,
    Said,
    SentOrder,
    TradeRow,
    client_order_id,
    is_final,
)
from lab.chaos.watching import Breaches, missing_in
from protocol.intervals import INTERVALS, interval_bounds
from protocol.orders import Liquidity, OrderStatus, OrderType, Side
from protocol.units import format_decimal

_FEES, _CLEARING, _EXTERNAL = -1, -2, -3
"""The ledger's own accounts."""
_UNKNOWN_ORDER: Final = -2011
_WATCHED_INTERVALS: Final = ("1s", "1m")


class Check(msgspec.Struct):
    """One promise: how many things were looked at, and what breaks it."""

    name: str
    promise: str
    examined: int
    breach_count: int
    breaches: list[str]
    """The first of them."""

    @property
    def passed(self) -> bool:
        """Whether it was kept. A promise that was not looked at is none."""
        return not self.breach_count and self.examined > 0


class Verdict(msgspec.Struct):
    """The results of all checks."""

    checks: list[Check]

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return all(check.passed for check in self.checks)


def judge(evidence: Evidence) -> Verdict:
    """Check every promise against the evidence."""
    checks = [
        ("accounted", "every acknowledged order is there, as it was acknowledged or further on", _accounted),
        ("outcomes", "one outcome per client order id", _outcomes),
        ("cancels", "what was canceled stays canceled", _cancels),
        ("trades", "trade ids without a gap, sequences rising, in the database", _trades),
        ("log", "trade ids and sequences without a gap or a repetition in the shards' logs", _log),
        ("fills", "a maker and a taker for every trade, and every order the sum of its fills", _fills),
        ("money", "balances are what deposits and fills make; all of it adds up, to the unit", _money),
        ("candles", "candles are what the trades make", _candles),
        ("books", "subscribers' books, the API's and the shards' are the same", _books),
        ("streams", "subscribers heard what happened, each thing once and in order", _streams),
        ("accounts", "account streams are complete, each report once and in order", _reports),
        ("answers", "only 2xx, 4xx with a code, and 503 with Retry-After", _answers),
        ("operators", "what an operator says is done, and what a forger says is not", _operations),
        ("replay", "the shards' logs, applied anew, make the same events and states", _replays),
        (
            "end",
            "everything comes to its end: nothing waits, nothing stands still, nothing is put aside",
            _end,
        ),
    ]
    if evidence.graceful:
        checks.append(
            ("retries", "every request is answered, or its client was told to send it again", _retries)
        )
    results = []
    for name, promise, check in checks:
        breaches = Breaches()
        examined = check(evidence, breaches)
        results.append(Check(name, promise, examined, breaches.count, breaches.first))
    return Verdict(results)


def _accounted(evidence: Evidence, breaches: Breaches) -> int:
    rows = {row.client_order_id: row for row in evidence.stored.orders}
    fills = {(fill.order_id, fill.trade_id) for fill in evidence.stored.fills}
    acknowledged = 0
    for order in evidence.orders:
        name = client_order_id(order.number)
        row = rows.get(name)
        for answer in order.answers:
            if answer.outcome is not Outcome.ACKNOWLEDGED:
                continue
            acknowledged += 1
            if row is None:
                breaches.add(f"{name}: acknowledged as order {answer.order_id}, and not in the database")
            elif (row.account_id, row.market, row.side, row.order_type) != (
                order.account_id,
                order.market,
                order.side,
                order.order_type,
            ) or (
                # Price and quantity of a MARKET order are decided by its shard.
                order.order_type is not OrderType.MARKET
                and (row.price, row.quantity) != (order.price, order.quantity)
            ):
                breaches.add(f"{name}: the database has another order: {row}")
            elif not _continues(answer, row.status, row.cum_quantity, row.cum_quote):
                breaches.add(f"{name}: acknowledged {answer}, stored {row}")
            else:
                for trade_id in answer.trade_ids:
                    if (answer.order_id, trade_id) not in fills:
                        breaches.add(
                            f"{name}: its acknowledged fill in trade {trade_id} is not in the database"
                        )
        outcomes = {answer.outcome for answer in order.answers}
        if row is not None and not outcomes & {Outcome.ACKNOWLEDGED, Outcome.DUPLICATE, Outcome.UNKNOWN}:
            breaches.add(f"{name}: every answer said that it was not placed, and it is order {row.order_id}")
    return acknowledged


def _continues(answer: Answer, status: int, cum_quantity: int, cum_quote: int) -> bool:
    if is_final(answer.status):
        return (answer.status, answer.cum_quantity, answer.cum_quote) == (status, cum_quantity, cum_quote)
    return status >= answer.status and cum_quantity >= answer.cum_quantity and cum_quote >= answer.cum_quote


def _outcomes(evidence: Evidence, breaches: Breaches) -> int:
    numbers = {order.number for order in evidence.orders}
    order_ids: defaultdict[str, list[int]] = defaultdict(list)
    for row in evidence.stored.orders:
        order_ids[row.client_order_id].append(row.order_id)
        number = row.client_order_id.removeprefix(CLIENT_ORDER_ID_PREFIX)
        if not number.isdecimal() or int(number) not in numbers:
            breaches.add(
                f"order {row.order_id} has the client order id {row.client_order_id}, which nobody sent"
            )
    for name, ids in order_ids.items():
        if len(ids) > 1:
            breaches.add(f"{name} is {len(ids)} orders: {ids}")
    for order in evidence.orders:
        answered_ids = {answer.order_id for answer in order.answers if answer.outcome is Outcome.ACKNOWLEDGED}
        ids = order_ids.get(client_order_id(order.number), [])
        if len(answered_ids) > 1 or (ids and answered_ids and answered_ids != set(ids)):
            breaches.add(
                f"{client_order_id(order.number)}: answered with {sorted(answered_ids)}, stored as {ids}"
            )
    return len(evidence.orders)


def _cancels(evidence: Evidence, breaches: Breaches) -> int:
    rows = {row.client_order_id: row for row in evidence.stored.orders}
    examined = 0
    for order in evidence.orders:
        row = rows.get(client_order_id(order.number))
        for answer in order.cancels:
            name = client_order_id(order.number)
            if answer.outcome is Outcome.ACKNOWLEDGED:
                examined += 1
                if row is None or (row.status, row.cum_quantity) != (
                    OrderStatus.CANCELED,
                    answer.cum_quantity,
                ):
                    breaches.add(f"{name}: its cancel was acknowledged, {answer}; stored {row}")
            elif answer.code == _UNKNOWN_ORDER and row is not None and not is_final(row.status):
                breaches.add(f"{name}: its cancel was refused as there was no such order; stored {row}")
    return examined


def _trades(evidence: Evidence, breaches: Breaches) -> int:
    last_ids: Counter[str] = Counter()
    sequences: Counter[str] = Counter()
    for trade in evidence.stored.trades:
        if trade.trade_id != last_ids[trade.market] + 1:
            breaches.add(f"{trade.market}: trade {trade.trade_id} follows on {last_ids[trade.market]}")
        if trade.sequence <= sequences[trade.market]:
            breaches.add(f"{trade.market}: trade {trade.trade_id} has sequence {trade.sequence}")
        last_ids[trade.market], sequences[trade.market] = trade.trade_id, trade.sequence
    return len(evidence.stored.trades)


def _log(evidence: Evidence, breaches: Breaches) -> int:
    stream = evidence.stream
    breaches.count, breaches.first = stream.breaches.count, list(stream.breaches.first)
    last_trades = {trade.market: trade.trade_id for trade in evidence.stored.trades}
    for market in evidence.markets.by_symbol:
        if last_trades.get(market, 0) != stream.last_trade_ids.get(market, 0):
            breaches.add(
                f"{market}: the log ends with trade {stream.last_trade_ids.get(market, 0)}, "
                f"the database with {last_trades.get(market, 0)}"
            )
    return stream.events


def _fills(evidence: Evidence, breaches: Breaches) -> int:
    pairs: defaultdict[tuple[str, int], list[FillRow]] = defaultdict(list)
    filled: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for fill in evidence.stored.fills:
        pairs[fill.market, fill.trade_id].append(fill)
        filled[fill.order_id][0] += fill.quantity
        filled[fill.order_id][1] += fill.quote
    for trade in evidence.stored.trades:
        trade_fills = pairs.pop((trade.market, trade.trade_id), [])
        if sorted(map(_share, trade_fills)) != sorted(_shares(trade)):
            breaches.add(f"{trade.market}: trade {trade.trade_id} has the fills {trade_fills}")
    for market, trade_id in pairs:
        breaches.add(f"{market}: fills of trade {trade_id}, which is not there")
    for row in evidence.stored.orders:
        quantity, quote = filled.get(row.order_id, (0, 0))
        if (quantity, quote) != (row.cum_quantity, row.cum_quote):
            breaches.add(f"order {row.order_id} executed {row.cum_quantity}, its fills make {quantity}")
    return len(evidence.stored.fills)


def _share(fill: FillRow) -> tuple[int, ...]:
    return (fill.liquidity, fill.account_id, fill.order_id, fill.side, fill.price, fill.quantity, fill.quote)


def _shares(trade: TradeRow) -> Iterator[tuple[int, ...]]:
    amounts = (trade.price, trade.quantity, trade.quote)
    taker = Side(trade.taker_side)
    yield (Liquidity.MAKER, trade.maker_account_id, trade.maker_order_id, taker.opposite, *amounts)
    yield (Liquidity.TAKER, trade.taker_account_id, trade.taker_order_id, taker, *amounts)


def _money(evidence: Evidence, breaches: Breaches) -> int:
    sums, deposited = _from_fills(evidence), _check_deposits(evidence, breaches)
    for key, amount in deposited.items():
        sums[key] += amount
    ledger: Counter[tuple[int, str]] = Counter()
    for row in evidence.stored.ledger:
        ledger[row.account_id, row.asset] += row.amount
    held = _holds(evidence)
    for account_id in evidence.accounts:
        for asset in evidence.markets.assets:
            key = (account_id, asset)
            available_held = evidence.answered.balances.get(key, (0, 0))
            if not sums[key] == ledger[key] == sum(available_held):
                breaches.add(
                    f"account {account_id}: {asset}: deposits and fills make {sums[key]}, the ledger "
                    f"{ledger[key]}, its shard says {sum(available_held)}"
                )
            if available_held[1] != held[key]:
                breaches.add(
                    f"account {account_id}: {asset}: held {available_held[1]}, its open orders need "
                    f"{held[key]}"
                )
    _check_totals(evidence, ledger, sums, breaches)
    return len(evidence.answered.balances)


def _from_fills(evidence: Evidence) -> "Counter[tuple[int, str]]":
    """Return (account, asset) -> what its fills brought; the fees go to their own account."""
    sums: Counter[tuple[int, str]] = Counter()
    for fill in evidence.stored.fills:
        market = evidence.markets.by_symbol[fill.market]
        sign = 1 if fill.side == Side.BUY else -1
        sums[fill.account_id, market.base] += sign * fill.quantity * market.lot_size
        sums[fill.account_id, market.quote] -= (
            sign * fill.price * fill.quantity * market.tick_size * market.lot_size // 10**8
        )
        sums[fill.account_id, fill.fee_asset] -= fill.fee
        sums[_FEES, fill.fee_asset] += fill.fee
    return sums


def _check_deposits(evidence: Evidence, breaches: Breaches) -> "Counter[tuple[int, str]]":
    """Return (account, asset) -> deposits in the database, which must be the acknowledged or requested ones.

    All acknowledged deposits must be there, and none that was not requested.
    """
    stored: Counter[tuple[int, str]] = Counter()
    for row in evidence.stored.ledger:
        if row.kind in ("deposit", "withdrawal") and row.account_id != _EXTERNAL:
            stored[row.account_id, row.asset] += row.amount
    sure: Counter[tuple[int, str]] = Counter()
    unsure: Counter[tuple[int, str]] = Counter()
    for deposit in evidence.deposits:
        if deposit.outcome is Outcome.ACKNOWLEDGED:
            sure[deposit.account_id, deposit.asset] += deposit.amount
        elif deposit.outcome is Outcome.UNKNOWN:
            unsure[deposit.account_id, deposit.asset] += deposit.amount
    for key in stored.keys() | sure.keys():
        if not sure[key] <= stored[key] <= sure[key] + unsure[key]:
            breaches.add(
                f"account {key[0]}: {sure[key]} {key[1]} of deposits acknowledged, {stored[key]} stored"
            )
    return stored


def _holds(evidence: Evidence) -> "Counter[tuple[int, str]]":
    held: Counter[tuple[int, str]] = Counter()
    for order in evidence.answered.open_orders:
        market = evidence.markets.by_symbol[order.market]
        if order.side == Side.BUY:
            quote = order.price * order.leaves_quantity * market.tick_size * market.lot_size // 10**8
            held[order.account_id, market.quote] += quote
        else:
            held[order.account_id, market.base] += order.leaves_quantity * market.lot_size
    return held


def _check_totals(
    evidence: Evidence,
    ledger: "Counter[tuple[int, str]]",
    from_fills: "Counter[tuple[int, str]]",
    breaches: Breaches,
) -> None:
    by_asset: Counter[str] = Counter()
    for (_, asset), amount in ledger.items():
        by_asset[asset] += amount
    sums = {asset: Counter[str]() for asset in evidence.markets.assets}
    for shard in range(evidence.markets.shard_count):
        audit = evidence.answered.audits.get(shard)
        if audit is None:
            breaches.add(f"shard {shard} does not answer")
            continue
        for asset, available, held, fees, deposited, withdrawn, settled in audit.rows:
            if available + held + fees != deposited - withdrawn + settled:
                breaches.add(f"shard {shard}: its books of {asset} do not add up")
            sums[asset].update(
                all=available + held + fees, fees=fees, deposited=deposited - withdrawn, settled=settled
            )
    # What follows holds only for all shards together, so it needs the answer of each.
    if len(evidence.answered.audits) < evidence.markets.shard_count:
        return
    for asset, total in sums.items():
        if by_asset[asset] or ledger[_CLEARING, asset]:
            breaches.add(
                f"{asset}: the ledger sums to {by_asset[asset]}, its clearing to {ledger[_CLEARING, asset]}"
            )
        if (
            total["settled"]
            or total["all"] != total["deposited"]
            or total["deposited"] != -ledger[_EXTERNAL, asset]
        ):
            breaches.add(
                f"{asset}: the shards have {dict(total)}, the world outside {ledger[_EXTERNAL, asset]}"
            )
        if not total["fees"] == ledger[_FEES, asset] == from_fills[_FEES, asset]:
            breaches.add(
                f"{asset}: fees are {total['fees']} on the shards, {ledger[_FEES, asset]} in the ledger, "
                f"{from_fills[_FEES, asset]} in the fills"
            )


def _candles(evidence: Evidence, breaches: Breaches) -> int:
    expected = candles_of(evidence.stored.trades)
    for row in evidence.stored.candles:
        if expected.pop((row.market, row.interval, row.open_time), None) != row:
            breaches.add(f"the trades make another candle than {row}")
    for market, interval, open_time in expected:
        breaches.add(f"{market}: no candle of {interval} at {open_time}")
    return len(evidence.stored.candles)


def candles_of(trades: Iterable[TradeRow]) -> dict[tuple[str, str, int], CandleRow]:
    """Return the candles of all intervals that trades, in the order of their ids, make."""
    grouped: defaultdict[tuple[str, str, int], list[TradeRow]] = defaultdict(list)
    for trade in trades:
        for interval in INTERVALS:
            grouped[trade.market, interval, interval_bounds(interval, trade.time)[0]].append(trade)
    return {key: _candle(key, group) for key, group in grouped.items()}


def _candle(key: tuple[str, str, int], trades: list[TradeRow]) -> CandleRow:
    bought = [trade for trade in trades if trade.taker_side == Side.BUY]
    prices = [trade.price for trade in trades]
    return CandleRow(
        *key,
        open=prices[0],
        high=max(prices),
        low=min(prices),
        close=prices[-1],
        volume=sum(trade.quantity for trade in trades),
        quote_volume=sum(trade.quote for trade in trades),
        trade_count=len(trades),
        taker_buy_volume=sum(trade.quantity for trade in bought),
        taker_buy_quote=sum(trade.quote for trade in bought),
        first_trade_id=trades[0].trade_id,
        last_trade_id=trades[-1].trade_id,
    )


def _books(evidence: Evidence, breaches: Breaches) -> int:
    _same_open_orders(evidence, breaches)
    examined = 0
    for symbol in evidence.markets.by_symbol:
        shards = _book_of_open_orders(evidence, symbol)
        api_book = evidence.answered.books.get(symbol)
        if symbol in evidence.delisted:
            examined += 1
            if api_book is not None or any(shards):
                breaches.add(f"{symbol}: it is delisted, and has a book or open orders")
            continue
        if api_book is None:
            breaches.add(f"{symbol}: no book is told")
            continue
        examined += 1
        if (api_book.bids, api_book.asks) != shards:
            breaches.add(
                f"{symbol}: the API's book is not what the open orders make: {_difference(api_book, shards)}"
            )
        if api_book.sequence != evidence.stream.last_sequences.get(symbol, 0):
            breaches.add(
                f"{symbol}: the API's book ends at {api_book.sequence}, the log at "
                f"{evidence.stream.last_sequences.get(symbol, 0)}"
            )
        for watch in evidence.market_watches:
            book = watch.books.get(symbol)
            if book is None:
                continue  # it was listed after the subscription
            examined += 1
            if book.update_id != api_book.sequence:
                breaches.add(
                    f"{watch.name}: {symbol}: its book ends at {book.update_id}, the API's at "
                    f"{api_book.sequence}"
                )
            elif (book.bids, book.asks) != shards:
                breaches.add(
                    f"{watch.name}: {symbol}: its book is not the shard's: "
                    f"{_difference(api_book, (book.bids, book.asks))}"
                )
    return examined


def _same_open_orders(evidence: Evidence, breaches: Breaches) -> None:
    """The shards' open orders and the database's are the same."""
    stored = {
        row.order_id: (
            row.account_id,
            row.market,
            row.side,
            row.price,
            row.quantity - row.cum_quantity,
            row.status,
        )
        for row in evidence.stored.orders
        if not is_final(row.status)
    }
    for order in evidence.answered.open_orders:
        kept = stored.pop(order.order_id, None)
        if kept != order[1:]:
            breaches.add(f"the shard has {order}, the database {kept}")
    for order_id, kept in stored.items():
        breaches.add(f"order {order_id} is open in the database only: {kept}")


def _book_of_open_orders(evidence: Evidence, symbol: str) -> tuple[dict[str, str], dict[str, str]]:
    market = evidence.markets.by_symbol[symbol]
    halves: tuple[Counter[int], Counter[int]] = Counter(), Counter()
    for order in evidence.answered.open_orders:
        if order.market == symbol:
            halves[order.side == Side.SELL][order.price] += order.leaves_quantity
    bids, asks = (
        {
            format_decimal(price * market.tick_size): format_decimal(quantity * market.lot_size)
            for price, quantity in half.items()
        }
        for half in halves
    )
    return bids, asks


def _difference(api_book: Book, rebuilt: tuple[dict[str, str], dict[str, str]]) -> str:
    differing = [
        f"{name} {price}: {ours.get(price)} / {theirs.get(price)}"
        for name, ours, theirs in (("bid", api_book.bids, rebuilt[0]), ("ask", api_book.asks, rebuilt[1]))
        for price in sorted(ours.keys() | theirs.keys())
        if ours.get(price) != theirs.get(price)
    ]
    return f"{len(differing)} levels: {'; '.join(differing[:3])}"


def _streams(evidence: Evidence, breaches: Breaches) -> int:
    trades = {(trade.market, trade.trade_id): trade for trade in evidence.stored.trades}
    candles = {
        (row.market, row.interval, row.open_time): row
        for row in evidence.stored.candles
        if row.interval in _WATCHED_INTERVALS
    }
    traded: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for stored_trade in evidence.stored.trades:
        traded[stored_trade.market].append((stored_trade.time, stored_trade.trade_id, stored_trade.price))
    for of_market in traded.values():
        of_market.sort()
    heard = 0
    for watch in evidence.market_watches:
        breaches.count += watch.breaches.count
        breaches.first += watch.breaches.first
        for symbol, seen_trades in watch.trades.items():
            market = evidence.markets.by_symbol[symbol]
            for trade_id, seen in seen_trades.items():
                heard += 1
                trade = trades.get((symbol, trade_id))
                if trade is None or seen != (
                    format_decimal(trade.price * market.tick_size),
                    format_decimal(trade.quantity * market.lot_size),
                    trade.taker_side == Side.SELL,
                ):
                    breaches.add(f"{watch.name}: heard {symbol} trade {trade_id} as {seen}, stored {trade}")
        for key, seen_candle in watch.candles.items():
            heard += 1
            row = candles.get(key)
            expected = _shown(evidence, row) if row is not None else _flat(evidence, key, traded)
            if seen_candle != expected:
                breaches.add(f"{watch.name}: heard the candle {key} as {seen_candle}, not {expected}")
    return heard


def _flat(
    evidence: Evidence, key: tuple[str, str, int], traded: Mapping[str, Sequence[tuple[int, int, int]]]
) -> tuple[str, str, str, str, str, int, int, int] | None:
    """Return the candle of an interval without a trade, at the last price before it, or None."""
    symbol, _, open_time = key
    before = bisect_left(traded[symbol], (open_time,))
    if not before:
        return None
    price = format_decimal(traded[symbol][before - 1][2] * evidence.markets.by_symbol[symbol].tick_size)
    return price, price, price, price, format_decimal(0), 0, -1, -1


def _shown(evidence: Evidence, row: CandleRow) -> tuple[str, str, str, str, str, int, int, int]:
    market = evidence.markets.by_symbol[row.market]
    opened, high, low, close = (
        format_decimal(price * market.tick_size) for price in (row.open, row.high, row.low, row.close)
    )
    volume = format_decimal(row.volume * market.lot_size)
    return opened, high, low, close, volume, row.trade_count, row.first_trade_id, row.last_trade_id


def _reports(evidence: Evidence, breaches: Breaches) -> int:
    watched = {segment.account_id for watch in evidence.report_watches for segment in watch.segments}
    accepted: dict[int, list[tuple[int, int, int]]] = {account_id: [] for account_id in watched}
    filled: dict[int, list[tuple[int, int, int]]] = {account_id: [] for account_id in watched}
    rows = {row.order_id: row for row in evidence.stored.orders if row.account_id in watched}
    for row in rows.values():
        accepted[row.account_id].append((row.accepted_time, row.updated_time, row.order_id))
    for fill in evidence.stored.fills:
        if fill.account_id in watched:
            filled[fill.account_id].append((fill.time, fill.order_id, fill.trade_id))
    examined = 0
    for watch in evidence.report_watches:
        examined += watch.reports
        breaches.count += watch.breaches.count
        breaches.first += watch.breaches.first
        for segment in watch.segments:
            orders, fills = missing_in(segment, accepted, filled)
            if orders or fills:
                breaches.add(
                    f"{watch.name}: account {segment.account_id} did not hear of {len(orders)} orders and "
                    f"{len(fills)} fills: {orders[:3]}, {fills[:3]}"
                )
        for order_id, (status, _) in watch.last_status.items():
            stored = rows.get(order_id)
            if stored is None or OrderStatus(stored.status).name != status:
                breaches.add(f"{watch.name}: heard last that order {order_id} is {status}, stored {stored}")
    return examined


def _answers(evidence: Evidence, breaches: Breaches) -> int:
    for answer_kind, count in evidence.said.items():
        if not _is_allowed(answer_kind):
            breaches.add(f"{count} answers {answer_kind}")
    return evidence.said.total()


def _is_allowed(answer: Said) -> bool:
    if 200 <= answer.status < 300:
        return True
    if 400 <= answer.status < 500:
        return answer.code is not None
    return answer.status == 503 and answer.code is not None and (answer.retry_after or answer.channel == "ws")


def _retries(evidence: Evidence, breaches: Breaches) -> int:
    for (channel, why), count in evidence.unanswered.items():
        if why not in MAY_BE_SENT_AGAIN:
            breaches.add(f"{count} requests over {channel}: {why}")
    return evidence.said.total()


def _operations(evidence: Evidence, breaches: Breaches) -> int:
    """Fees, statuses, limits and keys at the end are those that the last operation left.

    A forger's never were.
    """
    for market, status in evidence.answered.statuses.items():
        wanted = "DELISTED" if market in evidence.delisted else "TRADING"
        if status != wanted:
            breaches.add(f"{market}: it is {status}, and should be {wanted}")
    for name, count in evidence.operations.items():
        if not count:
            breaches.add(f"{name}: it never happened")
    for account_id in evidence.answered.frozen:
        breaches.add(f"account {account_id} is frozen")
    return len(evidence.answered.statuses) + sum(evidence.operations.values())


def _replays(evidence: Evidence, breaches: Breaches) -> int:
    for difference in evidence.answered.replay_differences:
        breaches.add(difference)
    return evidence.answered.replayed


def _end(evidence: Evidence, breaches: Breaches) -> int:
    ending = evidence.ending
    if ending.stalled:
        breaches.add(ending.stalled)
    if not ending.settled:
        breaches.add("something still waited when the time for it was over")
    for reason in ending.standing_still:
        breaches.add(reason)
    if ending.dead_letters or evidence.stored.dead_events:
        breaches.add(f"{ending.dead_letters} dead letters, {evidence.stored.dead_events} dead events")
    unresolved = sum(1 for order in evidence.orders if not _is_resolved(order))
    if unresolved:
        breaches.add(f"{unresolved} orders never got an answer")
    return 1


def _is_resolved(order: SentOrder) -> bool:
    return any(answer.outcome in (Outcome.ACKNOWLEDGED, Outcome.REFUSED) for answer in order.answers)
