"""What a statement says, from what is stored: by hand."""

import csv
import io

import msgspec
import pytest

from functions.account.get_statement import (
    EntryShape,
    StatedBalanceShape,
    csv_of,
    entry_shapes,
)
from functions.account.ledger_position import Position
from functions.api.errors import ApiError
from functions.repositories.ledger import LedgerEntry
from protocol.units import TimeMs
from tests.support.market_log import market_map

MARKETS = market_map()
T0 = TimeMs(1_795_392_000_000)


def stored(entry: int, asset: str, amount: int, balance: int | None, reference: str = "t") -> LedgerEntry:
    return LedgerEntry(Position(T0, 0, T0, 7, 0, entry), asset, "trade", amount, balance, reference)


def test_balances_go_on_from_what_there_was_and_are_taken_as_stored() -> None:
    entries = [
        stored(0, "USDT", -250_000_000, None),
        stored(2, "BTC", 1_000, None),
        stored(3, "USDT", 50_000_000, 900_000_000),
        stored(4, "USDT", -1, None),
    ]
    shapes = entry_shapes({"USDT": 1_000_000_000}, entries, MARKETS, 1)
    assert [(each.asset, each.amount, each.balance) for each in shapes] == [
        ("USDT", "-2.50000000", "7.50000000"),
        ("BTC", "0.00001000", "0.00001000"),
        ("USDT", "0.50000000", "9.00000000"),
        ("USDT", "-0.00000001", "8.99999999"),
    ]


def test_an_entry_whole() -> None:
    [shape] = entry_shapes({}, [stored(2, "BTC", 1_000, 5_000, "BTCUSDT:9")], MARKETS, 1_000)
    assert msgspec.to_builtins(shape) == {
        "position": "1795392000000.0.1795392000000-7.0.2",
        "time": 1_795_392_000_000_000,
        "asset": "BTC",
        "kind": "trade",
        "amount": "0.00001000",
        "balance": "0.00005000",
        "reference": "BTCUSDT:9",
    }


def test_a_position_is_read_as_it_was_written() -> None:
    position = Position(T0, 99, T0 + 1, 2**64 - 1, 123, 104)
    assert Position.after(str(position)) == position._replace(entry=105)
    assert Position(T0, 0, T0, 10) > Position(T0, 0, T0, 9), "as numbers, not as texts"


@pytest.mark.parametrize(
    "text", ["x", "1", "1.2.3-4.5", "1.2.3-4.5.6.7", "-1.0.0-0.0.0", "1.0.0-0.0.٣", "9" * 16 + ".0.0-0.0.0"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        Position.after(text)
    assert refused.value.code == -1100


def shape(reference: str) -> EntryShape:
    return EntryShape("1.0.1-0.0.1", 1, "BTC", "deposit", "-1.00000000", "2.00000000", reference)


BALANCES = [StatedBalanceShape("BTC", "3.00000000", "2.00000000")]


def test_csv_whole() -> None:
    assert csv_of([shape('a,"b"')], BALANCES, is_first=True, is_last=True) == (
        "position,time,asset,kind,amount,balance,reference\r\n"
        ",,BTC,opening,,3.00000000,\r\n"
        '1.0.1-0.0.1,1,BTC,deposit,-1.00000000,2.00000000,"a,""b"""\r\n'
        ",,BTC,closing,,2.00000000,\r\n"
    )


def test_only_the_first_and_the_last_part_have_balances() -> None:
    for is_first in (True, False):
        for is_last in (True, False):
            rows = list(csv.DictReader(io.StringIO(csv_of([], BALANCES, is_first=is_first, is_last=is_last))))
            assert [row["kind"] for row in rows] == ["opening"] * is_first + ["closing"] * is_last


@pytest.mark.parametrize(
    "reference", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")']
)
def test_no_reference_is_a_formula(reference: str) -> None:
    [row] = csv.DictReader(
        io.StringIO(csv_of([shape(reference)], [], is_first=False, is_last=False), newline="")
    )
    assert row["reference"] == f"'{reference}"


def test_an_ordinary_reference_is_as_it_is() -> None:
    [row] = csv.DictReader(io.StringIO(csv_of([shape("faucet-12=3")], [], is_first=False, is_last=False)))
    assert row["reference"] == "faucet-12=3"
