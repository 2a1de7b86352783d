"""Statements of account from the ledger: by hand, and page by page against all of it."""

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters import ledger as ledger_statements
from functions.account.get_statement import EntryShape
from functions.account.ledger_position import Position
from functions.api.errors import ApiError
from functions.api.function import Answered, Written
from protocol.events import Event, FundsDeposited, FundsWithdrawn, OrderFilled
from protocol.market import MarketMap
from protocol.orders import Balance
from protocol.streams import EVENTS_FIELD, events
from protocol.units import AccountId, AssetUnits, TimeMs
from stream_log.memory_log import MemoryStreamLog
from tests.integration.persist.stored import ingest_all, query
from tests.support.market_log import frame, market_map
from tests.support.shard_log import FIRST_ACCOUNT, ShardLog
from tests.support.statements import Ledger

T0 = 1_795_392_000_000
ANN, BOB = AccountId(1001), AccountId(1002)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    ledger = Ledger(database_url, market_map())
    yield ledger
    ledger.close()


def moved(time: int, amount: int, after: int, asset: str = "USDT", account: AccountId = ANN) -> Event:
    """A transfer of whole units; `after` is what the account has then, one of it held."""
    kind = FundsDeposited if amount > 0 else FundsWithdrawn
    balance = Balance(asset, AssetUnits((after - 1) * 10**8), AssetUnits(10**8))
    return kind(
        TimeMs(time), account, asset, AssetUnits(abs(amount) * 10**8), f"{asset}{time - T0}", (balance,)
    )


def store(database_url: str, *happened: Event) -> None:
    log = MemoryStreamLog(lambda: T0)
    for event in happened:
        log.append(events(0), {EVENTS_FIELD: frame(event)})
    ingest_all(log, database_url, market_map())


EVENTS = (
    moved(T0, 100, 100),
    moved(T0 + 5, 7, 7, "BTC"),
    moved(T0 + 5, 900, 900, account=BOB),
    moved(T0 + 10, -30, 70),
    moved(T0 + 10, 5, 75),
    moved(T0 + 20, -5, 70),
)


def shown(entries: list[EntryShape]) -> list[tuple[int, str, str, str, str, str]]:
    return [
        (each.time - T0, each.asset, each.kind, each.amount, each.balance, each.reference) for each in entries
    ]


def test_a_statement_whole(database_url: str, ledger: Ledger) -> None:
    store(database_url, *EVENTS)
    statement = ledger.statement(ANN)
    assert shown(statement.entries) == [
        (0, "USDT", "deposit", "100.00000000", "100.00000000", "USDT0"),
        (5, "BTC", "deposit", "7.00000000", "7.00000000", "BTC5"),
        (10, "USDT", "withdrawal", "-30.00000000", "70.00000000", "USDT10"),
        (10, "USDT", "deposit", "5.00000000", "75.00000000", "USDT10"),
        (20, "USDT", "withdrawal", "-5.00000000", "70.00000000", "USDT20"),
    ]
    assert [(each.asset, each.opening, each.closing) for each in statement.balances] == [
        ("BTC", "0.00000000", "7.00000000"),
        ("USDT", "0.00000000", "70.00000000"),
    ]
    assert (statement.start_time, statement.end_time, statement.kept_since, statement.has_more) == (
        None,
        None,
        0,
        False,
    )


def test_a_period_has_its_bounds_in_it(database_url: str, ledger: Ledger) -> None:
    store(database_url, *EVENTS)
    statement = ledger.statement(ANN, startTime=T0 + 5, endTime=T0 + 10)
    assert [each.reference for each in statement.entries] == ["BTC5", "USDT10", "USDT10"]
    assert [(each.asset, each.opening, each.closing) for each in statement.balances] == [
        ("BTC", "0.00000000", "7.00000000"),
        ("USDT", "100.00000000", "75.00000000"),
    ]
    later = ledger.statement(ANN, startTime=T0 + 6, endTime=T0 + 9)
    assert later.entries == []
    assert [(each.asset, each.opening, each.closing) for each in later.balances] == [
        ("BTC", "7.00000000", "7.00000000"),
        ("USDT", "100.00000000", "100.00000000"),
    ]
    assert ledger.statement(ANN, endTime=T0 - 1).balances == [], "it had nothing yet"


def test_one_asset(database_url: str, ledger: Ledger) -> None:
    store(database_url, *EVENTS)
    statement = ledger.statement(ANN, asset="BTC")
    assert shown(statement.entries) == [(5, "BTC", "deposit", "7.00000000", "7.00000000", "BTC5")]
    assert [each.asset for each in statement.balances] == ["BTC"]


def test_new_entries_do_not_disturb_the_pages(database_url: str, ledger: Ledger) -> None:
    store(database_url, *EVENTS)
    first = ledger.statement(ANN, limit=2)
    assert first.has_more
    store(database_url, *EVENTS, moved(T0 + 30, 1, 71))  # the same log, which has gone on
    second = ledger.statement(ANN, limit=2, after=first.entries[-1].position)
    third = ledger.statement(ANN, limit=2, after=second.entries[-1].position)
    entries = [*first.entries, *second.entries, *third.entries]
    assert [each.reference for each in entries] == ["USDT0", "BTC5", "USDT10", "USDT10", "USDT20", "USDT30"]
    assert not third.has_more
    assert third.balances[1].closing == third.entries[-1].balance == "71.00000000"


def test_a_file(database_url: str, ledger: Ledger) -> None:
    store(database_url, *EVENTS)
    answer = ledger.answer(ANN, format="csv", asset="USDT", startTime=T0 + 10, endTime=T0 + 10)
    assert isinstance(answer, Answered)
    assert isinstance(answer.shape, Written)
    assert answer.shape.content_type == b"text/csv; charset=utf-8"
    assert answer.headers == ((b"content-disposition", b'attachment; filename="statement-1001.csv"'),)
    position = f"{T0 + 10}.0.{T0}"
    assert answer.shape.body.decode() == (
        "position,time,asset,kind,amount,balance,reference\r\n"
        ",,USDT,opening,,100.00000000,\r\n"
        f"{position}-3.0.1,{T0 + 10},USDT,withdrawal,-30.00000000,70.00000000,USDT10\r\n"
        f"{position}-4.0.1,{T0 + 10},USDT,deposit,5.00000000,75.00000000,USDT10\r\n"
        ",,USDT,closing,,75.00000000,\r\n"
    )


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"startTime": T0 + 1, "endTime": T0}, -1130),
        ({"startTime": "x"}, -1100),
        ({"asset": "NONE"}, -1130),
        ({"format": "xls"}, -1130),
        ({"after": "1.2"}, -1100),
        ({"limit": 0}, -1130),
    ],
)
def test_refusals(ledger: Ledger, parameters: dict[str, str | int], code: int) -> None:
    with pytest.raises(ApiError) as refused:
        ledger.answer(ANN, **parameters)
    assert refused.value.code == code


def test_the_largest_numbers_are_no_error(ledger: Ledger) -> None:
    assert ledger.statement(ANN, startTime=2**63 - 1, endTime=2**63 - 1).entries == []
    largest = f"{10**15 - 1}.999.{10**15 - 1}-{10**20 - 1}.{10**9 - 1}.9999"
    assert ledger.statement(ANN, after=largest).entries == []


# Random trading


class World(NamedTuple):
    markets: MarketMap
    ledger: Ledger
    times: list[TimeMs]
    has: dict[tuple[int, str], Decimal]
    """What each account has in the end, as its last events say."""


@pytest.fixture(params=["all balances stored", "none stored", "some stored"])
def world(request: pytest.FixtureRequest, database_url: str) -> Iterator[World]:
    """Two shards with trades across; also with entries as a release before wrote them, now and then."""
    markets = market_map(2)
    shards = ShardLog(7, markets, T0, accounts=4)
    shards.trade(400, batch=3, gap_ms=2)
    log = MemoryStreamLog(lambda: T0)
    shards.append_to(log)
    ingest_all(log, database_url, markets, shards=range(2))
    lacking = {"none stored": "true", "some stored": "(event + length(reference)) % 3 = 0"}.get(request.param)
    if lacking:
        with psycopg.connect(database_url) as connection:
            connection.execute(f"UPDATE ledger_entries SET balance = NULL WHERE {lacking}".encode())
    has: dict[tuple[int, str], Decimal] = {}
    for event in shards.events():
        for balance in getattr(event, "balances", ()):
            account = event.account_id if hasattr(event, "account_id") else event.order.account_id  # type: ignore[union-attr]
            has[account, balance.asset] = Decimal(balance.available + balance.held).scaleb(-8)
    times = sorted(
        {event.time for event in shards.events() if isinstance(event, FundsDeposited | OrderFilled)}
    )
    ledger = Ledger(database_url, markets)
    yield World(markets, ledger, times, has)
    ledger.close()


def test_balances_add_up_to_what_accounts_have(world: World) -> None:
    for account in range(FIRST_ACCOUNT, FIRST_ACCOUNT + 4):
        statement = world.ledger.statement(account, limit=1000)
        assert len(statement.entries) > 50
        assert not statement.has_more
        assert {each.asset: Decimal(each.closing) for each in statement.balances} == {
            asset: amount for (owner, asset), amount in world.has.items() if owner == account
        }


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_are_the_whole_and_add_up(world: World, data: st.DataObject) -> None:
    account = data.draw(st.integers(FIRST_ACCOUNT, FIRST_ACCOUNT + 3))
    bounds = data.draw(st.lists(st.sampled_from(world.times), max_size=2).map(sorted))
    period: dict[str, str | int] = dict(zip(("startTime", "endTime"), bounds, strict=False))
    if data.draw(st.booleans()):
        period["asset"] = data.draw(st.sampled_from(world.markets.assets))
    whole = world.ledger.statement(account, limit=1000, **period)
    assert not whole.has_more
    pages = world.ledger.pages(account, limit=data.draw(st.integers(3, 70)), **period)
    assert [entry for page in pages for entry in page.entries] == whole.entries
    assert all(page.balances == whole.balances for page in pages)
    running = {each.asset: Decimal(each.opening) for each in whole.balances}
    for entry in whole.entries:
        running[entry.asset] += Decimal(entry.amount)
        assert Decimal(entry.balance) == running[entry.asset], entry
    assert {each.asset: Decimal(each.closing) for each in whole.balances} == running
    assert len({entry.position for entry in whole.entries}) == len(whole.entries)


def test_an_entry_that_is_missing_is_seen(world: World, database_url: str) -> None:
    """The control of the above: without one entry, nothing adds up to what accounts have."""
    account = FIRST_ACCOUNT
    gone = world.ledger.statement(account, limit=1000).entries[20]
    with psycopg.connect(database_url) as connection:
        deleted = connection.execute(
            "DELETE FROM ledger_entries WHERE account_id = %s AND asset = %s AND reference = %s",
            (account, gone.asset, gone.reference),
        )
        assert deleted.rowcount >= 1
    statement = world.ledger.statement(account, limit=1000)
    total = sum((Decimal(each.amount) for each in statement.entries if each.asset == gone.asset), Decimal(0))
    assert total != world.has[account, gone.asset]


def test_entries_are_all_there_are(world: World, database_url: str) -> None:
    counted = defaultdict(
        int, query(database_url, "SELECT account_id, count(*) FROM ledger_entries GROUP BY 1")
    )
    for account in range(FIRST_ACCOUNT, FIRST_ACCOUNT + 4):
        assert sum(len(page.entries) for page in world.ledger.pages(account, limit=11)) == counted[account]


def test_statements_go_by_the_index_and_add_up_little(database_url: str) -> None:
    """However much history there is: the newest entry says what there was before it."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO ledger_entries SELECT to_timestamp((%s + n) / 1000.0), 0, (%s + n) || '-0', 0, 1, "
            "%s + n %% 3, 'USDT', 1, 'deposit', 't' || n, n / 3 FROM generate_series(1, 30000) AS n",
            (T0, T0, ANN),
        )
        connection.execute("ANALYZE ledger_entries")
        connection.execute("SET plan_cache_mode = force_custom_plan")
        values = {
            **Position(TimeMs(T0 + 5_000))._asdict(),
            "account": ANN, "assets": ["USDT", "BTC"], "start": T0 + 1_000, "end": 10**15 - 1, "limit": 101,
        }  # fmt: skip
        explain = b"EXPLAIN (ANALYZE, FORMAT JSON) " + ledger_statements._PAGE.encode()
        row = connection.execute(explain, values).fetchone()
        assert row is not None
        scans = list(scans_of(row[0][0]["Plan"]))
    assert scans
    assert {scan["Node Type"] for scan in scans} <= {"Index Scan", "Bitmap Heap Scan"}
    read = sum(
        (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"] for scan in scans
    )
    assert read < 300, read


def scans_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if plan.get("Relation Name"):
        yield plan
    for part in plan.get("Plans", []):
        yield from scans_of(part)
