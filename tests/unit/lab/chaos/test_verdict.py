"""The verdict on made-up evidence: clean when all fits, and each kind of damage is found by the check that is
for it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from lab.chaos.evidence import (
    Answer,
    Book,
    Evidence,
    FillRow,
    LedgerSum,
    OpenOrder,
    OrderRow,
    Outcome,
    Said,
    SentDeposit,
    SentOrder,
    TradeRow,
    Unanswered,
)
from lab.chaos.verdict import candles_of, judge
from lab.chaos.watching import MarketWatch, ReportWatch
from protocol.events import DepthChanged, TradeExecuted
from protocol.market import MarketMap
from protocol.orders import Liquidity, OrderStatus, OrderType, Side, TimeInForce
from protocol.replies import AuditReply, stored_audit_row
from protocol.units import AccountId, OrderId, PriceTicks, QuantityLots, Sequence, TimeMs, TradeId
from runtime.settings import Settings

ANN, BOB = 1001, 1002
PRICE, ASK = 10_000_000, 10_000_100
BTC, USDT = 10**9, 10**13
"""What Ann brings, and what Bob brings, in units."""
BASE, QUOTE = 1_000_000, 100_000_000_000
"""What the trade moves: 0.01 BTC at 100,000 USDT."""
BASE_FEE, QUOTE_FEE = BASE // 1000, QUOTE // 1000
TIME = TimeMs(1_700_000_000_000)
NEW, FILLED, CANCELED = OrderStatus.NEW, OrderStatus.FILLED, OrderStatus.CANCELED


def acknowledged(order_id: int, status: int, filled: int = 0, *trade_ids: int) -> Answer:
    return Answer(Outcome.ACKNOWLEDGED, 0, order_id, status, filled, filled * PRICE * 10, trade_ids)


def sent(number: int, account_id: int, side: Side, price: int, quantity: int, *answers: Answer) -> SentOrder:
    kind, tif = OrderType.LIMIT, TimeInForce.GTC
    return SentOrder(number, account_id, "BTCUSDT", side, kind, tif, price, quantity, 0, list(answers))


def row(
    number: int, account_id: int, side: Side, price: int, quantity: int, status: int, filled: int = 0
) -> OrderRow:
    quote = filled * PRICE * 10
    name = f"chaos-{number}"
    return OrderRow(
        number * 100, account_id, name, "BTCUSDT", side, 1, price, quantity, status, filled, quote, TIME, TIME
    )


def evidence() -> Evidence:
    """Ann sells 0.01 BTC to Bob, has another order in the book and a third one canceled.

    Bob was refused a fourth.
    """
    market = Settings().market_map().by_symbol["BTCUSDT"]
    found = Evidence(MarketMap.of([market], 1), [ANN, BOB])
    found.answered.statuses, found.answered.replayed = {"BTCUSDT": "TRADING"}, 7
    found.deposits = [
        SentDeposit(ANN, "BTC", BTC, Outcome.ACKNOWLEDGED),
        SentDeposit(BOB, "USDT", USDT - 5, Outcome.ACKNOWLEDGED),
        SentDeposit(BOB, "USDT", 5, Outcome.UNKNOWN),
    ]
    canceled = sent(4, ANN, Side.SELL, ASK, 700, acknowledged(400, NEW))
    canceled.cancels = [Answer(Outcome.UNKNOWN), acknowledged(400, CANCELED)]
    found.orders = [
        sent(1, ANN, Side.SELL, PRICE, 1_000, acknowledged(100, NEW)),
        sent(2, BOB, Side.BUY, PRICE, 1_000, Answer(Outcome.UNKNOWN), acknowledged(200, FILLED, 1_000, 1)),
        sent(3, ANN, Side.SELL, ASK, 500, Answer(Outcome.DUPLICATE, -2010), acknowledged(300, NEW)),
        canceled,
        sent(5, BOB, Side.BUY, PRICE, 9_000_000, Answer(Outcome.REFUSED, -2010)),
    ]
    found.said[Said("http", 200, None, retry_after=False)] = 6
    found.said[Said("http", 503, -1007, retry_after=True)] = 1
    found.said[Said("http", 400, -2010, retry_after=False)] = 2
    trade = TradeRow(TIME, "BTCUSDT", 1, 2, PRICE, 1_000, QUOTE, Side.BUY, 100, 200, ANN, BOB)
    stored = found.stored
    stored.orders = [
        row(1, ANN, Side.SELL, PRICE, 1_000, FILLED, 1_000),
        row(2, BOB, Side.BUY, PRICE, 1_000, FILLED, 1_000),
        row(3, ANN, Side.SELL, ASK, 500, NEW),
        row(4, ANN, Side.SELL, ASK, 700, CANCELED),
    ]
    stored.trades = [trade]
    amounts = (PRICE, 1_000, QUOTE)
    stored.fills = [
        FillRow(TIME, ANN, "BTCUSDT", 100, 1, Side.SELL, *amounts, Liquidity.MAKER, QUOTE_FEE, "USDT"),
        FillRow(TIME, BOB, "BTCUSDT", 200, 1, Side.BUY, *amounts, Liquidity.TAKER, BASE_FEE, "BTC"),
    ]
    stored.ledger = [
        LedgerSum(ANN, "BTC", "deposit", BTC, 1),
        LedgerSum(-3, "BTC", "deposit", -BTC, 1),
        LedgerSum(BOB, "USDT", "deposit", USDT, 2),
        LedgerSum(-3, "USDT", "deposit", -USDT, 2),
        LedgerSum(ANN, "BTC", "trade", -BASE, 1),
        LedgerSum(ANN, "USDT", "trade", QUOTE - QUOTE_FEE, 1),
        LedgerSum(BOB, "BTC", "trade", BASE - BASE_FEE, 1),
        LedgerSum(BOB, "USDT", "trade", -QUOTE, 1),
        LedgerSum(-1, "BTC", "fee", BASE_FEE, 1),
        LedgerSum(-1, "USDT", "fee", QUOTE_FEE, 1),
    ]
    stored.candles = list(candles_of([trade]).values())
    answered = found.answered
    answered.balances = {
        (ANN, "BTC"): (BTC - BASE - 500_000, 500_000),
        (ANN, "USDT"): (QUOTE - QUOTE_FEE, 0),
        (BOB, "BTC"): (BASE - BASE_FEE, 0),
        (BOB, "USDT"): (USDT - QUOTE, 0),
    }
    answered.open_orders = [OpenOrder(300, ANN, "BTCUSDT", Side.SELL, ASK, 500, NEW)]
    answered.books = {"BTCUSDT": Book(3, {}, {"100001.00000000": "0.00500000"})}
    answered.audits = {
        0: AuditReply(
            1,
            TIME,
            (
                stored_audit_row(("BTC", BTC - 500_000 - BASE_FEE, 500_000, BASE_FEE, BTC, 0, 0)),
                stored_audit_row(("USDT", USDT - QUOTE_FEE, 0, QUOTE_FEE, USDT, 0, 0)),
            ),
            1,
            8,
        )
    }
    found.stream.hear(
        [
            depth_changed(1),
            trade_executed(),
            depth_changed(3),
        ]
    )
    watch = MarketWatch("subscriber", ["BTCUSDT"])
    watch.connected()
    watch.books["BTCUSDT"].fill({"lastUpdateId": 2, "bids": [], "asks": []})
    watch.hear(depth_update(3, 3))
    watch.hear({"e": "trade", "s": "BTCUSDT", "t": 1, "p": "100000.00000000", "q": "0.01000000", "m": False})
    found.market_watches = [watch]
    owner = ReportWatch("owner")
    owner.connected()
    owner.hear(BOB, report(200, "NEW", "NEW"))
    owner.hear(BOB, report(200, "TRADE", "FILLED", last="0.01000000", total="0.01000000", trade=1))
    found.report_watches = [owner]
    return found


def depth_changed(sequence: int) -> DepthChanged:
    return DepthChanged(TIME, "BTCUSDT", Sequence(sequence), ())


def trade_executed() -> TradeExecuted:
    return TradeExecuted(
        TIME,
        "BTCUSDT",
        Sequence(2),
        TradeId(1),
        1,
        PriceTicks(PRICE),
        QuantityLots(1_000),
        Side.BUY,
        OrderId(100),
        OrderId(200),
        AccountId(ANN),
        AccountId(BOB),
    )


def depth_update(first: int, last: int) -> dict[str, object]:
    ask = ["100001.00000000", "0.00500000"]
    return {"e": "depthUpdate", "s": "BTCUSDT", "U": first, "u": last, "b": [], "a": [ask]}


def report(
    order_id: int,
    kind: str,
    status: str,
    last: str = "0.00000000",
    total: str = "0.00000000",
    trade: int = -1,
) -> dict[str, object]:
    names = {"i": order_id, "x": kind, "X": status, "l": last, "z": total, "t": trade}
    return {"e": "executionReport", "T": TIME, **names}


def test_what_fits_is_clean() -> None:
    verdict = judge(evidence())
    assert [check.breaches for check in verdict.checks] == [[]] * len(verdict.checks)
    assert all(check.examined for check in verdict.checks)
    assert verdict.clean


def test_what_was_not_looked_at_is_no_promise_kept() -> None:
    found = evidence()
    found.market_watches = []
    verdict = judge(found)
    assert [check.name for check in verdict.checks if not check.passed] == ["streams"]


Damage = Callable[[Evidence], object]


def _replace_order(found: Evidence, index: int, **changes: Any) -> None:
    orders = list(found.stored.orders)
    orders[index] = orders[index]._replace(**changes)
    found.stored.orders = orders


def _answer_again(found: Evidence, answer: Answer) -> None:
    found.orders[0].answers.append(answer)


def _trade_twice(found: Evidence) -> None:
    found.stored.trades = [*found.stored.trades, found.stored.trades[0]]


def _fill_lost(found: Evidence) -> None:
    found.stored.fills = found.stored.fills[1:]


def _balance(found: Evidence, change: int) -> None:
    available, held = found.answered.balances[BOB, "USDT"]
    found.answered.balances[BOB, "USDT"] = (available + change, held)


def _books_of_shard(found: Evidence) -> None:
    audit = found.answered.audits[0]
    (asset, (high, low), *rest), *others = audit.stored_rows
    changed = ((asset, (high, low + 1), *rest), *others)
    found.answered.audits[0] = msgspec.structs.replace(audit, stored_rows=changed)


def _candle(found: Evidence) -> None:
    first, *others = found.stored.candles
    found.stored.candles = [first._replace(volume=first.volume + 1), *others]


def _deposit_lost(found: Evidence) -> None:
    found.deposits.append(SentDeposit(ANN, "BTC", 1, Outcome.ACKNOWLEDGED))


DAMAGES: dict[str, tuple[Damage, set[str]]] = {
    "a halt outlives its end": (
        lambda found: found.answered.statuses.update(BTCUSDT="HALTED"),
        {"operators"},
    ),
    "an account stays frozen": (lambda found: found.answered.frozen.append(ANN), {"operators"}),
    "an operation that never was": (lambda found: found.operations.update(freeze=0), {"operators"}),
    "another log": (lambda found: found.answered.replay_differences.append("shard 0"), {"replay"}),
    "nothing is replayed": (lambda found: setattr(found.answered, "replayed", 0), {"replay"}),
    "an acknowledged order is lost": (
        lambda found: setattr(found.stored, "orders", [*found.stored.orders[:2], found.stored.orders[3]]),
        {"accounted", "books"},
    ),
    "a filled order is open again": (
        lambda found: _replace_order(found, 1, status=NEW, cum_quantity=0, cum_quote=0),
        {"accounted", "fills", "books", "accounts"},
    ),
    "the database has another price": (
        lambda found: _replace_order(found, 0, price=PRICE + 1),
        {"accounted"},
    ),
    "a refused order is there": (
        lambda found: setattr(
            found.stored,
            "orders",
            [*found.stored.orders, row(5, BOB, Side.BUY, PRICE, 9_000_000, OrderStatus.EXPIRED)],
        ),
        {"accounted"},
    ),
    "an order that nobody sent": (
        lambda found: setattr(
            found.stored,
            "orders",
            [*found.stored.orders, row(9, BOB, Side.BUY, PRICE, 1, OrderStatus.EXPIRED)],
        ),
        {"outcomes"},
    ),
    "a retry is another order": (lambda found: _answer_again(found, acknowledged(900, NEW)), {"outcomes"}),
    "a double submit is two orders": (
        lambda found: setattr(
            found.stored,
            "orders",
            [*found.stored.orders, found.stored.orders[3]._replace(order_id=900)],
        ),
        {"outcomes"},
    ),
    "a canceled order trades on": (
        lambda found: _replace_order(found, 3, status=OrderStatus.EXPIRED),
        {"cancels"},
    ),
    "a trade twice": (_trade_twice, {"trades", "candles", "fills"}),
    "a commit of a replaced worker": (
        lambda found: found.stream.hear([depth_changed(3)]),
        {"log"},
    ),
    "the log lost its tail": (lambda found: found.stream.went_back(0, "5-0", "3-0"), {"log"}),
    "a fill is lost": (_fill_lost, {"fills", "money"}),
    "a unit is lost": (lambda found: _balance(found, -1), {"money"}),
    "a deposit is lost": (_deposit_lost, {"money"}),
    "a shard's books do not add up": (_books_of_shard, {"money"}),
    "a candle is wrong": (_candle, {"candles"}),
    "a subscriber's book is wrong": (
        lambda found: found.market_watches[0].books["BTCUSDT"].asks.clear(),
        {"books"},
    ),
    "an update of the book is lost": (
        lambda found: found.market_watches[0].hear(depth_update(5, 5)),
        {"books", "streams"},
    ),
    "a trade is told that never was": (
        lambda found: found.market_watches[0].hear(
            {"e": "trade", "s": "BTCUSDT", "t": 2, "p": "1.00000000", "q": "1.00000000", "m": True}
        ),
        {"streams"},
    ),
    "an owner hears of a fill twice": (
        lambda found: found.report_watches[0].hear(
            BOB, report(200, "TRADE", "FILLED", last="0.01000000", total="0.02000000", trade=1)
        ),
        {"accounts"},
    ),
    "an answer of 500": (
        lambda found: found.said.update([Said("http", 500, -1000, retry_after=False)]),
        {"answers"},
    ),
    "503 without Retry-After": (
        lambda found: found.said.update([Said("http", 503, -1001, retry_after=False)]),
        {"answers"},
    ),
    "something still waits": (lambda found: setattr(found.ending, "settled", False), {"end"}),
    "an order without an answer": (
        lambda found: found.orders.append(sent(6, BOB, Side.BUY, PRICE, 1, Answer(Outcome.UNKNOWN))),
        {"end"},
    ),
    "a shard does not answer": (lambda found: found.answered.audits.clear(), {"money"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found(name: str) -> None:
    damage, expected = DAMAGES[name]
    found = evidence()
    damage(found)
    assert {check.name for check in judge(found).checks if not check.passed} == expected


def test_an_owner_must_hear_of_everything_in_between() -> None:
    found = evidence()
    segment = found.report_watches[0].segments[0]
    segment.first_time, segment.last_time = TIME - 1, TIME + 1
    assert judge(found).clean
    segment.fills.clear()
    assert [check.name for check in judge(found).checks if not check.passed] == ["accounts"]


def test_an_order_that_was_numbered_before_the_connection_ended_may_be_told_after_it() -> None:
    found = evidence()
    segment = found.report_watches[0].segments[0]
    segment.first_time, segment.last_time = TIME - 1, TIME + 1
    segment.accepted.clear()
    assert not judge(found).clean
    _replace_order(found, 1, updated_time=TIME + 2)
    assert judge(found).clean


@pytest.mark.parametrize("why", Unanswered)
def test_who_is_only_told_to_stop_cuts_nobody_off(why: Unanswered) -> None:
    found = evidence()
    found.unanswered["http", why] += 1
    assert judge(found).clean, "where processes are killed"
    found.graceful = True
    may_be = why not in (Unanswered.CUT_OFF, Unanswered.SILENCE, Unanswered.REFUSED)
    assert judge(found).clean is may_be
