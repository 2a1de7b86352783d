from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persist.candles import STORED_INTERVALS, candle_parts, candle_values
from persist.rows import (
    CLEARING_ACCOUNT,
    EXTERNAL_ACCOUNT,
    FEES_ACCOUNT,
    FILLS,
    LEDGER_ENTRIES,
    ORDERS,
    TRADES,
    TRANSFERS,
    EventBatch,
    OrderRow,
    Rows,
    Table,
    TradeGapError,
    database_time,
    last_trade_ids,
    rows_of,
)
from protocol.events import (
    AccountClosed,
    Event,
    FeesWithdrawn,
    FundsWithdrawn,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
    StateHashed,
)
from protocol.orders import (
    Balance,
    CloseReason,
    Liquidity,
    OrderState,
    OrderStatus,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.stream_id import StreamId
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs, TradeId
from protocol.violations import UnknownMarketError
from tests.support.market_log import BTC, START_MS, MarketLog, candles_of, deposit, market_map
from tests.support.shard_log import ShardLog

ENTRY = StreamId(START_MS, 7)
MARKETS = market_map()


def rows_for(*events: Event) -> Rows:
    return rows_of(0, [EventBatch(ENTRY, events)], MARKETS.by_symbol)


def named(table: Table, row: OrderRow) -> dict[str, Any]:
    return dict(zip(table.columns, row, strict=True))


def order(side: Side, status: OrderStatus, cum_quantity: int = 0, order_id: int = 100) -> OrderState:
    return OrderState(
        OrderId(order_id), AccountId(1001), "mine", BTC, side, OrderType.LIMIT, TimeInForce.GTC,
        PriceTicks(10),
        QuantityLots(5), AssetUnits(0), SelfTradePrevention.NONE, status, QuantityLots(cum_quantity),
        AssetUnits(cum_quantity * 10), AssetUnits(0), TimeMs(START_MS), TimeMs(START_MS + cum_quantity),
    )  # fmt: skip


def filled(side: Side, quantity: int = 5, quote: int = 50_000, fee: int = 3) -> OrderFilled:
    market = MARKETS.by_symbol[BTC]
    return OrderFilled(
        TimeMs(START_MS), order(side, OrderStatus.FILLED, quantity), TradeId(9), PriceTicks(10),
        QuantityLots(quantity),
        AssetUnits(quote), Liquidity.MAKER, AssetUnits(fee),
        market.base if side is Side.BUY else market.quote, (),
    )  # fmt: skip


def test_a_trade_is_a_row_of_trades() -> None:
    trade = MarketLog().trade(START_MS, 100, 7, Side.SELL)
    rows = rows_for(trade)
    row = named(TRADES, rows.trade_rows()[0])
    assert row["time"] == database_time(START_MS)
    assert (row["market"], row["trade_id"], row["price"], row["quantity"]) == (BTC, 1, 100, 7)
    assert row["quote"] == MARKETS.by_symbol[BTC].notional(PriceTicks(100), QuantityLots(7))
    assert row["taker_side"] == Side.SELL
    assert not rows.fills
    assert not rows.ledger_entries


def test_an_order_is_one_row_with_its_last_state() -> None:
    rows = rows_for(
        OrderAccepted(TimeMs(START_MS), order(Side.BUY, OrderStatus.NEW), ()),
        filled(Side.BUY, 2),
        OrderClosed(
            TimeMs(START_MS), order(Side.BUY, OrderStatus.CANCELED, 2), CloseReason.CANCELED_BY_OWNER, ()
        ),
    )
    (row,) = [named(ORDERS, each) for each in rows.order_rows()]
    assert (row["order_id"], row["status"], row["cum_quantity"]) == (100, OrderStatus.CANCELED, 2)
    assert (row["accepted_time"], row["updated_time"]) == (
        database_time(START_MS),
        database_time(START_MS + 2),
    )


@pytest.mark.parametrize(
    ("side", "given_asset", "given", "received_asset", "received"),
    [(Side.BUY, "USDT", 50_000, "BTC", 5_000), (Side.SELL, "BTC", 5_000, "USDT", 50_000)],
)
def test_a_fill_is_a_row_of_fills_and_settles_against_clearing(
    side: Side, given_asset: str, given: int, received_asset: str, received: int
) -> None:
    rows = rows_for(filled(side))
    fill = named(FILLS, rows.fills[0])
    assert (fill["account_id"], fill["order_id"], fill["trade_id"], fill["side"]) == (1001, 100, 9, side)
    assert (fill["quote"], fill["fee"], fill["fee_asset"]) == (50_000, 3, received_asset)
    entries = [named(LEDGER_ENTRIES, row) for row in rows.ledger_entries]
    assert [(entry["account_id"], entry["asset"], entry["amount"], entry["kind"]) for entry in entries] == [
        (1001, given_asset, -given, "trade"),
        (CLEARING_ACCOUNT, given_asset, given, "trade"),
        (1001, received_asset, received - 3, "trade"),
        (CLEARING_ACCOUNT, received_asset, -received, "trade"),
        (FEES_ACCOUNT, received_asset, 3, "fee"),
    ]
    assert [entry["entry"] for entry in entries] == list(range(5))
    assert {(entry["stream_id"], entry["event"], entry["reference"]) for entry in entries} == {
        (str(ENTRY), 0, f"{BTC}:9")
    }


def test_entries_of_accounts_have_what_there_is_after_them() -> None:
    """Available and held; the exchange's own accounts have none."""
    base, quote = (
        Balance(asset, AssetUnits(free), AssetUnits(held))
        for asset, free, held in (("BTC", 7, 5_000), ("USDT", 9, 1))
    )
    fill = msgspec.structs.replace(filled(Side.BUY), balances=(base, quote))
    paid = msgspec.structs.replace(deposit(START_MS, 1001), balances=(quote,))
    entries = [named(LEDGER_ENTRIES, row) for row in rows_for(fill, paid).ledger_entries]
    assert [(each["account_id"], each["asset"], each["balance"]) for each in entries] == [
        (1001, "USDT", 10),
        (CLEARING_ACCOUNT, "USDT", None),
        (1001, "BTC", 5_007),
        (CLEARING_ACCOUNT, "BTC", None),
        (FEES_ACCOUNT, "BTC", None),
        (EXTERNAL_ACCOUNT, "USDT", None),
        (1001, "USDT", 10),
    ]


def test_a_fill_without_a_fee_has_no_fee_entry() -> None:
    assert len(rows_for(filled(Side.BUY, fee=0)).ledger_entries) == 4


def test_transfers_come_from_and_go_to_the_outside() -> None:
    withdrawn = FundsWithdrawn(TimeMs(START_MS), AccountId(1001), "BTC", AssetUnits(4), "w1", ())
    entries = [
        named(LEDGER_ENTRIES, row) for row in rows_for(deposit(START_MS, 1001), withdrawn).ledger_entries
    ]
    assert [
        (each["event"], each["account_id"], each["asset"], each["amount"], each["kind"]) for each in entries
    ] == [
        (0, EXTERNAL_ACCOUNT, "USDT", -5, "deposit"),
        (0, 1001, "USDT", 5, "deposit"),
        (1, EXTERNAL_ACCOUNT, "BTC", 4, "withdrawal"),
        (1, 1001, "BTC", -4, "withdrawal"),
    ]


def test_fees_go_to_the_outside() -> None:
    rows = rows_for(FeesWithdrawn(TimeMs(START_MS), "USDT", AssetUnits(7), "f1"))
    entries = [named(LEDGER_ENTRIES, row) for row in rows.ledger_entries]
    assert [(each["account_id"], each["amount"], each["kind"], each["reference"]) for each in entries] == [
        (EXTERNAL_ACCOUNT, 7, "fee_withdrawal", "f1"),
        (FEES_ACCOUNT, -7, "fee_withdrawal", "f1"),
    ]
    [transfer] = rows.transfers
    assert named(TRANSFERS, transfer) == {
        "account_id": FEES_ACCOUNT, "kind": "fee_withdrawal", "transfer_id": "f1", "asset": "USDT",
        "amount": 7,
        "time": database_time(START_MS),
    }  # fmt: skip
    assert not rows_for(AccountClosed(TimeMs(START_MS), AccountId(7))).ledger_entries


def test_changes_of_depth_make_no_rows() -> None:
    rows = rows_for(MarketLog().depth(START_MS, (Side.BUY, 10, 1)))
    assert not any((rows.orders, rows.trades, rows.fills, rows.ledger_entries))


def test_an_unknown_market_is_named() -> None:
    with pytest.raises(UnknownMarketError, match="DOGEUSDT"):
        rows_for(MarketLog().trade(START_MS, 1, 1, market="DOGEUSDT"))


def test_trades_follow_on_what_is_known() -> None:
    log = MarketLog()
    first, second, third = (log.trade(START_MS, 1, 1) for _ in range(3))
    assert last_trade_ids([first, second], {}) == {BTC: 2}
    assert last_trade_ids([third], {BTC: 2, "ETHUSDT": 8}) == {BTC: 3, "ETHUSDT": 8}
    with pytest.raises(TradeGapError, match="trade 2 should come next, but trade 3 does"):
        last_trade_ids([first, third], {})
    with pytest.raises(TradeGapError, match="trade 3 should come next, but trade 2 does"):
        last_trade_ids([second], {BTC: 2})


@given(st.sampled_from(Side), st.integers(1, 10**9), st.integers(1, 10**15), st.integers(0, 999))
def test_the_entries_of_a_fill_sum_to_zero_per_asset(side: Side, quantity: int, quote: int, fee: int) -> None:
    assert_balanced(rows_for(filled(side, quantity, quote, fee)))


@given(st.integers(0, 2**32))
def test_the_entries_of_every_event_of_the_core_sum_to_zero_per_asset(seed: int) -> None:
    log = ShardLog(seed, MARKETS, START_MS)
    log.trade(30)
    rows = rows_of(
        0, [EventBatch(stream_id, events) for _, stream_id, events in log.entries], MARKETS.by_symbol
    )
    assert_balanced(rows)
    clearing: defaultdict[int | str, int] = defaultdict(int)
    for row in rows.ledger_entries:
        entry = named(LEDGER_ENTRIES, row)
        if entry["account_id"] == CLEARING_ACCOUNT:
            clearing[entry["asset"]] += int(entry["amount"])
    assert not any(clearing.values()), "both sides of every trade have settled"


def assert_balanced(rows: Rows) -> None:
    sums: defaultdict[tuple[int | str, ...], int] = defaultdict(int)
    for row in rows.ledger_entries:
        entry = named(LEDGER_ENTRIES, row)
        sums[entry["stream_id"], entry["event"], entry["asset"]] += int(entry["amount"])
    assert sums
    assert not any(sums.values())


trades = st.lists(
    st.tuples(
        # From a millisecond to weeks: so that seconds are shared, and weeks and months end in between.
        st.one_of(st.integers(0, 3), st.integers(0, 90_000), st.integers(0, 40 * 86_400_000)),
        st.integers(1, 1_000),
        st.integers(1, 50),
        st.sampled_from(Side),
    ),
    min_size=1,
    max_size=30,
)


@given(trades)
def test_candles_are_what_the_trades_say(drawn: list[tuple[int, int, int, Side]]) -> None:
    log, time = MarketLog(), START_MS
    for gap, price, quantity, taker in drawn:
        time += gap
        log.trade(time, price, quantity, taker)
    market = MARKETS.by_symbol[BTC]
    parts = candle_parts(rows_for(*log.trades[BTC]).trades)
    for interval in STORED_INTERVALS:
        made = [
            (opened, *candle_values(part)) for (_, each, opened), part in parts.items() if each == interval
        ]
        assert made == [
            (
                each.open_time, each.open, each.high, each.low, each.close, each.volume, each.quote_volume,
                each.trade_count, each.taker_buy_volume, each.taker_buy_quote, each.first_trade_id,
                each.last_trade_id,
            )
            for each in candles_of(market, interval, log.trades[BTC], time)
        ]  # fmt: skip


def test_a_state_hash_makes_no_row() -> None:
    rows = Rows(0, market_map(1).by_symbol)
    rows.add(EventBatch(StreamId(1), [StateHashed(TimeMs(1), 10_000, "00")]))
    assert (rows.order_rows(), rows.trade_rows(), rows.fills, rows.ledger_entries, rows.event_count) == (
        [],
        [],
        [],
        [],
        1,
    )
