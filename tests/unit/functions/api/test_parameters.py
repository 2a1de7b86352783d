"""How each kind of parameter is read, and refused."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.api.errors import ApiError
from functions.api.parameters import Parameters, parse_pairs
from runtime.settings import Settings

MARKETS = Settings().market_map()


def code_of(read: Callable[[Parameters], object], **values: str) -> int:
    with pytest.raises(ApiError) as refusal:
        read(Parameters(values))
    assert refusal.value.status == 400
    return refusal.value.code


def test_pairs_are_percent_decoded() -> None:
    assert parse_pairs(b"symbols=%5B%22BTCUSDT%22%5D&a=x+y&b=") == {
        "symbols": '["BTCUSDT"]',
        "a": "x y",
        "b": "",
    }


@pytest.mark.parametrize(
    ("encoded", "code"),
    [
        (b"a=1&a=2", -1101),
        (b"\xff=1", -1100),
        (b"a=%ff", -1100),
        (b"&".join(b"a%d=1" % n for n in range(101)), -1101),
    ],
)
def test_pairs_that_are_refused(encoded: bytes, code: int) -> None:
    with pytest.raises(ApiError) as refusal:
        parse_pairs(encoded)
    assert refusal.value.code == code


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(encoded: bytes) -> None:
    try:
        values = parse_pairs(encoded)
    except ApiError as error:
        assert error.code in (-1100, -1101)  # noqa: PT017 - either outcome is right
    else:
        assert all(values)


def test_integers() -> None:
    assert Parameters({"orderId": "28"}).integer("orderId") == 28
    assert Parameters({}).integer("orderId") is None
    assert code_of(lambda it: it.integer("n"), n="-1") == -1100
    assert code_of(lambda it: it.integer("n"), n="1.0") == -1100
    assert code_of(lambda it: it.integer("n"), n="٣") == -1100
    assert code_of(lambda it: it.integer("n"), n=str(2**63)) == -1108
    assert code_of(lambda it: it.integer("n"), n="") == -1105


def test_times_are_in_milliseconds_or_microseconds() -> None:
    assert Parameters({"t": "1795400000000"}).time("t") == 1795400000000
    assert Parameters({"t": "1795400000000123"}).time("t") == 1795400000000


def test_time_range() -> None:
    assert code_of(lambda it: it.time_range(), startTime="2", endTime="1") == -1130
    assert code_of(lambda it: it.time_range(86_400_000), startTime="0", endTime="86400001") == -1127


def test_limits_are_clipped() -> None:
    assert Parameters({}).limit(500, 1000) == 500
    assert Parameters({"limit": "5000"}).limit(500, 1000) == 1000
    assert code_of(lambda it: it.limit(500, 1000), limit="0") == -1130


def test_decimals() -> None:
    assert Parameters({"price": "0.1"}).decimal("price") == 10_000_000
    assert Parameters({"price": "1.000000000"}).decimal("price") == 100_000_000
    for text in ("-1", "+1", "1e3", ".5", "1.", "NaN", "inf", "1,0", "٣", "1" * 21, " 1"):
        assert code_of(lambda it: it.decimal("price"), price=text) == -1100, text
    assert code_of(lambda it: it.decimal("price"), price="0.000000001") == -1111


def test_markets() -> None:
    assert Parameters({"symbol": "BTCUSDT"}).market(MARKETS).symbol == "BTCUSDT"
    assert code_of(lambda it: it.market(MARKETS)) == -1102
    assert code_of(lambda it: it.market(MARKETS), symbol="") == -1105
    assert code_of(lambda it: it.market(MARKETS), symbol="NOPE") == -1121
    assert code_of(lambda it: it.market(MARKETS), symbol="btcusdt") == -1100
    assert code_of(lambda it: it.market(MARKETS), symbol="BTC/USDT") == -1100
    # Symbols may have names beyond ASCII (rest-api.md, 2025-12-02): these are unknown, and not illegal.
    for symbol in ("币安人生USDT", "\uff11\uff12\uff13", "ÉUSDT"):
        assert code_of(lambda it: it.market(MARKETS), symbol=symbol) == -1121
        assert code_of(lambda it: it.markets(MARKETS), symbols=f'["{symbol}"]') == -1121
    for symbol in ("币" * 21, "BTC USDT", "BTC\u00a0USDT", "BTC\x85USDT"):
        assert code_of(lambda it: it.market(MARKETS), symbol=symbol) == -1100


def test_lists_of_markets() -> None:
    chosen = Parameters({"symbols": '["ETHUSDT","BTCUSDT"]'}).markets(MARKETS)
    assert chosen is not None
    assert [market.symbol for market in chosen] == ["ETHUSDT", "BTCUSDT"]
    for text, code in (
        ("BTCUSDT", -1100),
        ("[1]", -1100),
        ("[]", -1105),
        ('["NOPE"]', -1121),
        ("[" * 5000, -1100),
    ):
        assert code_of(lambda it: it.markets(MARKETS), symbols=text) == code, text
    assert code_of(lambda it: it.markets(MARKETS), symbols='["BTCUSDT","BTCUSDT"]') == -1151


def test_unknown_parameters() -> None:
    known = frozenset({"symbol"})
    Parameters({"symbol": "BTCUSDT"}).refuse_unknown(known)
    with pytest.raises(ApiError, match=r"read '1' parameter\(s\) but was sent '2'") as refusal:
        Parameters({"symbol": "BTCUSDT", "x": "1"}).refuse_unknown(known)
    assert refusal.value.code == -1104
    assert code_of(lambda it: it.refuse_unknown(frozenset()), x="1") == -1101


@pytest.mark.parametrize("key", ["k", "x" * 64, "a b~!/", "01975f4e-2b1c-7a70-9d6e-0f8c4e2d1a5b"])
def test_idempotency_keys_are_printable_ascii(key: str) -> None:
    assert Parameters({"idempotencyKey": key}).idempotency_key("idempotencyKey") == key


@pytest.mark.parametrize(
    ("key", "code"), [("", -1105), ("x" * 65, -1100), ("ü", -1100), ("a\n", -1100), ("\x7f", -1100)]
)
def test_other_idempotency_keys_are_refused(key: str, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        Parameters({"idempotencyKey": key}).idempotency_key("idempotencyKey")
    assert caught.value.code == code
