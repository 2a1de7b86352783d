"""Amounts as large as an exchange may hold: whatever trades, everything that leaves a shard fits 63 bits and
money is conserved.

Each shard admits its share of an asset's supply, so over all shards no more than the supply is there, and no
balance, hold or level can be more than that. What is counted over a lifetime (deposits, withdrawals,
settlements) has no bound.
"""

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, state_hash
from protocol.codec import decode_replies, encode_frame
from protocol.commands import Withdraw
from protocol.market import MarketMap
from protocol.orders import RejectReason, Side
from protocol.replies import AuditQuery, AuditReply, FundsReply, OrderReply, Refused
from protocol.stream_id import STREAM_START
from protocol.units import (
    AMOUNT_UNITS_MAX,
    AccountId,
    AssetUnits,
    TimeMs,
    join_large,
    split_large,
)
from protocol.windows import Windows
from tests.oracle.driver import Engine, Produced
from tests.properties.amounts import (
    ACCOUNTS,
    ONE,
    commands_at_the_edge,
    deposit,
    limit,
    market_of_few_decimals,
    shib_market,
)
from tests.properties.profile import fewer_sequences
from tests.properties.twins import Twins

WINDOWS = Windows(request_ms=1, key_ms=1)


def test_a_buyer_of_more_than_64_bits_of_a_cheap_asset() -> None:
    """Once this killed the buyer's shard for good: its balance grew by fills beyond what can be stored."""
    twins = Twins(MarketMap.of([shib_market()], 2), ACCOUNTS, WINDOWS)
    quantity = 9 * 10**10
    twins.apply(deposit(1, 0, "USDT", 4 * quantity * 100))
    for seller in (1, 2, 3, 4):
        twins.apply(deposit(1 + seller, seller, "SHIB", quantity * ONE))
    twins.apply(limit(10, 0, "SHIBUSDT", Side.BUY, 100, quantity))
    for seller in (1, 2, 3, 4):
        reply = twins.apply(limit(10 + seller, seller, "SHIBUSDT", Side.SELL, 100, quantity)).reply
        assert isinstance(reply, OrderReply | Refused)
        assert_small(twins)
        twins.apply(limit(20 + seller, 0, "SHIBUSDT", Side.BUY, 100, quantity))


@pytest.mark.parametrize("shard_count", [1, 2, 3])
def test_a_shard_admits_its_share_of_the_supply(shard_count: int) -> None:
    markets = MarketMap.of([shib_market()], shard_count)
    twins = Twins(markets, ACCOUNTS, WINDOWS)
    share = AMOUNT_UNITS_MAX // shard_count
    assert isinstance(twins.apply(deposit(1, 0, "SHIB", share)).reply, FundsReply)
    for other in (0, shard_count):  # of the same shard
        refused = twins.apply(deposit(2 + other, other, "SHIB", 1)).reply
        assert isinstance(refused, Refused)
        assert refused.reason is RejectReason.AMOUNT_OUT_OF_RANGE
    assert isinstance(twins.apply(deposit(9, 0, "USDT", share)).reply, FundsReply)
    twins.apply(Withdraw(10, "test", AccountId(0), "SHIB", AssetUnits(5), "w10"))
    assert isinstance(twins.apply(deposit(11, 0, "SHIB", 6)).reply, Refused)
    assert isinstance(twins.apply(deposit(12, shard_count, "SHIB", 5)).reply, FundsReply)


@pytest.mark.parametrize(
    ("scale", "supply", "units"), [(0, 10, 10), (2, 10, 1_000), (8, 10, 10**9), (2, 92 * 10**15, 92 * 10**17)]
)
def test_a_shard_admits_its_share_of_a_declared_supply(scale: int, supply: int, units: int) -> None:
    """By hand: 10 whole ones with two decimals are 1,000 units, 333 for each of three shards."""
    for shard_count in (1, 3):
        twins = Twins(
            MarketMap.of([market_of_few_decimals(scale, supply=supply)], shard_count), ACCOUNTS, WINDOWS
        )
        share = units // shard_count
        assert isinstance(twins.apply(deposit(1, 0, "SHIB", share + 1)).reply, Refused)
        assert isinstance(twins.apply(deposit(2, 0, "SHIB", share)).reply, FundsReply)
        assert isinstance(twins.apply(deposit(3, 3, "SHIB", 1)).reply, Refused)
        assert_small(twins)


def test_a_lifetime_of_deposits_and_withdrawals_has_no_end() -> None:
    markets = MarketMap.of([shib_market()], 1)
    shard, account_id = Shard(0, markets, WINDOWS), AccountId(1)
    for number in range(1, 51):  # 50 times 92 billion
        shard.apply(deposit(number, 1, "SHIB", AMOUNT_UNITS_MAX), TimeMs(number))
        withdrawal = Withdraw(
            100 + number, "test", account_id, "SHIB", AssetUnits(AMOUNT_UNITS_MAX), f"d{number}"
        )
        shard.apply(withdrawal, TimeMs(number))
        assert all(isinstance(reply, FundsReply) for _, reply in shard.take().replies)
    shard.check_invariants()
    restored, _ = decode_snapshot(encode_snapshot(shard, STREAM_START))
    for each in (shard, restored):
        (reply,) = decode_replies(encode_frame([each.answer(AuditQuery(1, "test"), TimeMs(1))[1]]))
        assert isinstance(reply, AuditReply)
        assert reply.rows[0] == ("SHIB", 0, 0, 0, 50 * AMOUNT_UNITS_MAX, 50 * AMOUNT_UNITS_MAX, 0)
    assert restored.digest() == shard.digest()
    assert state_hash(restored) == state_hash(shard)


def test_what_trades_carry_to_another_shard_makes_room_there() -> None:
    """Withdrawn where it was sold to, it may come in again there, not where it came in first."""
    markets = MarketMap.of([shib_market(maker_fee_ppm=0, taker_fee_ppm=0)], 2)
    twins = Twins(markets, ACCOUNTS, WINDOWS)
    quantity = 46 * 10**9
    twins.apply(deposit(1, 0, "SHIB", quantity * ONE))
    twins.apply(deposit(2, 1, "USDT", quantity))
    twins.apply(limit(3, 0, "SHIBUSDT", Side.SELL, 1, quantity))
    twins.apply(limit(4, 1, "SHIBUSDT", Side.BUY, 1, quantity))
    twins.apply(Withdraw(5, "test", AccountId(1), "SHIB", AssetUnits(quantity * ONE), "w5"))
    assert isinstance(twins.apply(deposit(6, 0, "SHIB", quantity * ONE)).reply, Refused)
    for number in (7, 8):
        assert isinstance(twins.apply(deposit(number, 1, "SHIB", quantity * ONE)).reply, FundsReply)
    assert isinstance(twins.apply(deposit(9, 1, "SHIB", quantity * ONE)).reply, Refused)
    twins.engine.restart()
    assert_small(twins)


@pytest.mark.parametrize(
    "amount", [0, 1, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**40, -(10**40)]
)
def test_large_amounts_are_pairs(amount: int) -> None:
    high, low = split_large(amount)
    assert 0 <= low < 2**63
    assert join_large((high, low)) == amount


shares = st.sampled_from((1, 2, 3))
fees = st.sampled_from((0, 1, 1_000, 500_000, 999_999))
steps = st.lists(
    st.tuples(
        st.sampled_from(("deposit", "withdraw", "buy", "sell", "sell", "buy")),
        st.sampled_from(ACCOUNTS),
        st.integers(0, 1),
        st.sampled_from((0, 0, 1, 2, 3)),
        st.sampled_from((0, 0, 1, 2, 3)),
    ),
    max_size=24,
)


@given(shard_count=shares, maker_fee=fees, taker_fee=fees, steps=steps)
@fewer_sequences
def test_nothing_leaves_63_bits(
    shard_count: int, maker_fee: int, taker_fee: int, steps: list[tuple[str, int, int, int, int]]
) -> None:
    """Deposits around the shares' limit, orders around the markets' limits."""
    symbols = ("SHIBPEPE", "PEPEUSDT")
    markets = MarketMap.of([shib_market(symbol, maker_fee, taker_fee) for symbol in symbols], shard_count)
    twins = Twins(markets, ACCOUNTS, WINDOWS)
    for number, command in enumerate(commands_at_the_edge(markets, steps), start=1):
        twins.apply(msgspec.structs.replace(command, request_id=number))
        assert_small(twins)


@given(
    shard_count=shares,
    base_scale=st.sampled_from((0, 2, 3)),
    quote_scale=st.sampled_from((0, 1, 2)),
    supply=st.sampled_from((0, 9 * 10**14, 9 * 10**15)),
    steps=steps,
)
@fewer_sequences
def test_nothing_leaves_63_bits_in_assets_of_few_decimals(
    shard_count: int,
    base_scale: int,
    quote_scale: int,
    supply: int,
    steps: list[tuple[str, int, int, int, int]],
) -> None:
    markets = MarketMap.of([market_of_few_decimals(base_scale, quote_scale, supply)], shard_count)
    twins = Twins(markets, ACCOUNTS, WINDOWS)
    for number, command in enumerate(commands_at_the_edge(markets, steps), start=1):
        twins.apply(msgspec.structs.replace(command, request_id=number))
        assert_small(twins)
        for asset in markets.assets:
            shards = twins.engine.shards
            there = sum(
                funds.available + funds.held
                for each in shards
                for account in each.state.accounts.values()
                for name, funds in account.funds.items()
                if name == asset
            )
            assert there + sum(each.state.totals[asset].fees for each in shards) <= markets.supply(asset)


@given(shard_count=shares, steps=steps, octets=st.binary(min_size=48, max_size=48))
@fewer_sequences
def test_nothing_leaves_63_bits_while_messages_of_one_market_are_in_flight(
    shard_count: int, steps: list[tuple[str, int, int, int, int]], octets: bytes
) -> None:
    markets = MarketMap.of([shib_market(maker_fee_ppm=1, taker_fee_ppm=999_999)], shard_count)
    engine, produced, chosen = Engine(markets, WINDOWS), Produced(), iter(octets)
    for number, command in enumerate(commands_at_the_edge(markets, steps), start=1):
        engine.submit(msgspec.structs.replace(command, request_id=number), number, produced)
        while engine.mail and next(chosen, 0) % 4:
            engine.deliver(sorted(engine.mail)[next(chosen, 0) % len(engine.mail)], number, produced)
            assert_small_in(engine)
    while engine.mail:
        engine.deliver(max(engine.mail), 1_000, produced)
        assert_small_in(engine)
    engine.check_invariants()


def test_money_that_is_counted_twice_for_too_long_halts_the_shard() -> None:
    """What decision 4 does not exclude: it comes back by another market before its shard hears that it was
    given away."""
    symbols = ("OTHERBTC", "SHIBUSDT", "SHIBPEPE")  # on shards 0, 1, 2
    free = [shib_market(symbol, maker_fee_ppm=0, taker_fee_ppm=0) for symbol in symbols]
    markets = MarketMap.of([msgspec.structs.replace(market, open_orders_max=20) for market in free], 3)
    engine, produced = Engine(markets, WINDOWS), Produced()
    seller, buyer, quantity = 3, 1, 3 * 10**10
    for number, (account, asset, amount) in enumerate(
        [(seller, "SHIB", quantity * ONE), (seller, "PEPE", 12 * quantity), (buyer, "USDT", 12 * quantity)],
        start=1,
    ):
        engine.apply(deposit(number, account, asset, amount), number)
    round_trip = (
        (buyer, "SHIBUSDT", Side.BUY),
        (seller, "SHIBUSDT", Side.SELL),
        (seller, "SHIBPEPE", Side.BUY),
        (buyer, "SHIBPEPE", Side.SELL),
    )

    def trade() -> None:
        for number, (account, symbol, side) in enumerate(12 * round_trip, start=10):
            engine.submit(limit(number, account, symbol, side, 1, quantity), number, produced)
            while ways := [way for way in engine.mail if way != (1, 0)]:
                engine.deliver(min(ways), number, produced)

    with pytest.raises(InvariantBroken, match="SHIB exceeds what a balance can hold"):
        trade()


def assert_small(twins: Twins) -> None:
    assert_small_in(twins.engine)


def assert_small_in(engine: Engine) -> None:
    """Whatever a shard stores or says of its state fits a signed 64-bit number."""
    for shard in engine.shards:
        shard.digest()
        snapshot = msgspec.msgpack.decode(encode_snapshot(shard, STREAM_START)[32:])
        reply = msgspec.msgpack.decode(encode_frame(shard.answer(AuditQuery(1, "test"), TimeMs(0))[1]))
        depths = [msgspec.to_builtins(shard.depth(symbol)) for symbol in shard.state.markets]
        for number in numbers_in([snapshot, reply, depths]):
            assert -(2**63) <= number < 2**63


def numbers_in(value: object) -> Iterator[int]:
    match value:
        case int():
            yield value
        case list() | tuple():
            for each in value:
                yield from numbers_in(each)
