"""The compiled core comes to the same bytes as the object core: see compiled_twins.py."""

import hashlib
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine_worker.core import account_half, journal
from engine_worker.cores import CORES, why_not_compiled
from engine_worker.frame_core import Cores, InvariantBroken, SnapshotError
from lab.simulation.undecodable_frames import BROKEN_TEXT, DEEP
from protocol.codec import decode_replies, encode_commands, encode_frame, encode_messages, encode_skip
from protocol.commands import (
    CancelOrders,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    LimitAccount,
    LoggedCommand,
    MakerFill,
    MatchOrder,
    MessageFrame,
    PlaceOrder,
    SkipEntry,
    Tick,
    Withdraw,
)
from protocol.configuration import AccountLimits, KeyLimit, MarketConfig, OperatorKey, Role, ShardConfig
from protocol.market import MarketMap
from protocol.orders import OrderTerms, OrderType, RejectReason, SelfTradePrevention, Side, TimeInForce
from protocol.signing import sign
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD, SKIPPED_ENTRY_FIELD, SKIPPED_FIELD
from protocol.units import AMOUNT_UNITS_MAX, AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from tests.properties.amounts import ACCOUNTS, commands_at_the_edge, market_of_few_decimals, shib_market
from tests.properties.compiled_twins import (
    HASH_INTERVAL,
    WINDOWS,
    DeepBook,
    Difference,
    Exchange,
    Pair,
    Program,
    outcome_of,
)
from tests.properties.markets import market_map

pytestmark = pytest.mark.skipif(
    "compiled" not in CORES, reason=f"THE COMPILED CORE IS NOT TESTED, it is not built: {why_not_compiled}"
)


@pytest.fixture(autouse=True)
def hashed_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "STATE_HASH_INTERVAL", HASH_INTERVAL)


@pytest.mark.parametrize("shard_count", [1, 2, 3])
@pytest.mark.parametrize(("frame_size", "commands"), [(1, 1_200), (7, 2_500), (64, 4_000), (500, 6_000)])
def test_random_programs(shard_count: int, frame_size: int, commands: int) -> None:
    program = Program(shard_count, frame_size, seed=shard_count * 1_000 + frame_size)
    program.run(commands, state_every=max(2, 60 // frame_size), restore_every=max(3, 100 // frame_size))
    program.exchange.let_go()


@pytest.mark.parametrize("shard_count", [1, 3])
def test_deep_books(shard_count: int) -> None:
    book = DeepBook(shard_count, seed=shard_count)
    book.run(levels=3_000, questions=60)
    book.exchange.let_go()


@pytest.mark.parametrize("seed", range(8))
def test_amounts_at_the_edge(seed: int) -> None:
    chosen = random.Random(seed)
    fees = chosen.choice(((0, 0), (1_000, 1_000), (1, 999_999), (999_999, 500_000)))
    markets = chosen.choice(
        (
            [shib_market(symbol, *fees) for symbol in ("SHIBPEPE", "PEPEUSDT")],
            [market_of_few_decimals(chosen.choice((0, 2, 3)), chosen.choice((0, 1, 2)))],
        )
    )
    exchange = Exchange(MarketMap.of(markets, chosen.choice((1, 2, 3))), seed, ShardConfig(windows=WINDOWS))
    kinds = ("deposit", "withdraw", "buy", "sell", "sell", "buy")
    steps = [
        (
            chosen.choice(kinds), chosen.choice(ACCOUNTS), chosen.randrange(2),
            chosen.choice((0, 0, 1, 2, 3)), chosen.choice((0, 0, 1, 2, 3)),
        )
        for _ in range(400)
    ]  # fmt: skip
    for number, command in enumerate(commands_at_the_edge(exchange.markets, steps), start=1):
        numbered = msgspec.structs.replace(command, request_id=number)
        # The account 0 is no account to a shard.
        if numbered.account_id:
            exchange.commands(exchange.shard_of(numbered), [numbered])
        exchange.deliver(chosen.randrange(5))
        if number % 100 == 0:
            exchange.compare_states()
            exchange.restore()
    exchange.deliver()
    exchange.compare_states()


def test_numbers_at_the_limits_of_their_fields() -> None:
    exchange, chosen = Exchange(market_map(2), 5), random.Random(5)
    numbers = (
        0,
        1,
        -1,
        2**31,
        2**32,
        AMOUNT_UNITS_MAX,
        AMOUNT_UNITS_MAX - 1,
        -(2**63),
        127,
        128,
        255,
        256,
        65_535,
    )
    for _ in range(60):
        commands = [
            PlaceOrder(
                chosen.choice(numbers), "test", AccountId(chosen.choice((1, 2, *numbers))), "n", "FIGPLUM",
                chosen.choice(list(Side)), chosen.choice(list(OrderType)), chosen.choice(list(TimeInForce)),
                PriceTicks(chosen.choice(numbers)), QuantityLots(chosen.choice(numbers)),
                AssetUnits(chosen.choice(numbers)), chosen.choice(list(SelfTradePrevention)),
                TimeMs(chosen.choice((0, 1, AMOUNT_UNITS_MAX))),
                terms=chosen.choice((None, OrderTerms(strategy_id=7))),
                bound_by_book=chosen.random() < 0.5,
            )
            for _ in range(20)
        ]  # fmt: skip
        exchange.commands(chosen.randrange(2), commands)
    exchange.compare_states()


@pytest.mark.parametrize("field", [COMMANDS_FIELD, MESSAGES_FIELD])
def test_undecodable_frames(field: bytes) -> None:
    exchange = Exchange(market_map(1), 1)
    for frame in (*BROKEN_TEXT, *DEEP):
        exchange.enter(0, {field: frame})
    exchange.compare_states()


def test_messages_that_no_shard_sends() -> None:
    """Each to a copy of the shard, which may halt."""
    exchange = Exchange(market_map(2), 3)
    market, other = exchange.markets.markets[0].symbol, exchange.markets.markets[1].symbol
    taker = MatchOrder(
        OrderId(101), AccountId(1), market, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(3),
        QuantityLots(5), AssetUnits(0), False, SelfTradePrevention.NONE,
    )  # fmt: skip
    huge = msgspec.structs.replace(
        taker, price=PriceTicks(AMOUNT_UNITS_MAX), quantity=QuantityLots(AMOUNT_UNITS_MAX)
    )
    with_terms = msgspec.structs.replace(taker, terms=OrderTerms(strategy_id=2**40))
    strange = (
        (taker,),
        (taker, taker, huge, huge),
        (huge, huge, huge),
        (huge, huge, msgspec.structs.replace(huge, side=Side.SELL)),
        (huge, msgspec.structs.replace(huge, side=Side.SELL, time_in_force=TimeInForce.FOK)),
        (with_terms,),
        (msgspec.structs.replace(taker, account_id=AccountId(2)),),
        (msgspec.structs.replace(taker, market=other),),
        (msgspec.structs.replace(taker, market="NONE"),),
        (MakerFill(OrderId(7), AccountId(2), other, 1, PriceTicks(1), QuantityLots(1)),),  # type: ignore[arg-type]
        (MakerFill(OrderId(7), AccountId(2), market, 1, PriceTicks(1), QuantityLots(1)),),  # type: ignore[arg-type]
    )
    for messages in strange:
        for first in (1, 2, 3):
            numbered = tuple(
                msgspec.structs.replace(message, order_id=OrderId(101 + 100 * number))
                for number, message in enumerate(messages)
            )
            frame = encode_messages(
                MessageFrame(1, 0, first, numbered, 1_795_000_000_000_000)  # type: ignore[arg-type]  # messages
            )
            pair = exchange.pairs[0].copy()
            assert_same_outcome(pair, {MESSAGES_FIELD: frame})


def assert_same_outcome(pair: Pair, fields: dict[bytes, bytes]) -> None:
    outcomes = [outcome_of(core, StreamId(pair.position.ms + 1), fields) for core in pair.cores]
    assert outcomes[0] == outcomes[1]


@dataclass
class Keys:
    operator: Ed25519PrivateKey
    treasury: Ed25519PrivateKey
    faucet: Ed25519PrivateKey

    def known(self) -> Iterator[OperatorKey]:
        limits = (
            KeyLimit("FIG", AssetUnits(50), AssetUnits(120)),
            KeyLimit("", AssetUnits(9), AssetUnits(9)),
        )
        for name, role, key in (
            ("ada", Role.OPERATOR, self.operator),
            ("tess", Role.TREASURY, self.treasury),
            ("faye", Role.FAUCET, self.faucet),
        ):
            public = key.public_key().public_bytes_raw()
            yield OperatorKey(name, role, public, limits if role is Role.FAUCET else ())


def test_signed_commands() -> None:
    keys = Keys(*(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3)))
    config = ShardConfig(windows=WINDOWS, keys=tuple(keys.known()))
    exchange = Exchange(market_map(1), 1, config)
    deadline = TimeMs(exchange._now + 200)
    account = AccountId(1)
    bodies = (
        Deposit(1, "t", account, "FIG", AssetUnits(40), "a"),
        Deposit(2, "t", account, "FIG", AssetUnits(60), "b"),
        Deposit(3, "t", account, "FIG", AssetUnits(50), "c"),
        Deposit(4, "t", account, "KIWI", AssetUnits(1), "d"),
        Deposit(5, "t", account, "NONE", AssetUnits(1), "e"),
        Withdraw(6, "t", account, "FIG", AssetUnits(7), "w"),
        LimitAccount(7, "t", account, AccountLimits(1, orders_10s_max=2)),
        CancelOrders(8, "t", account),
        ConfigureShard(9, "t", msgspec.structs.replace(config, version=2)),
        ConfigureShard(10, "t", ShardConfig(version=3)),
    )
    for body in bodies:
        for name, key in (
            ("faye", keys.faucet),
            ("tess", keys.treasury),
            ("ada", keys.operator),
            ("bob", keys.operator),
        ):
            signed = sign(key, name, 0, deadline, body)
            exchange.commands(0, [signed, body, Tick()])
            exchange.commands(0, [msgspec.structs.replace(signed, signature=b"x" * 64)])
            exchange.commands(0, [msgspec.structs.replace(signed, command=b"\xc1")])
    exchange.pass_time(1_000)
    exchange.commands(
        0, [sign(keys.treasury, "tess", 0, deadline, msgspec.structs.replace(bodies[0], request_id=50))]
    )
    exchange.compare_states()
    exchange.restore()
    for key in (keys.operator, keys.faucet):
        stream_id = StreamId(exchange._now + 1)
        for receives in (True, False):
            skip = SkipEntry(0, "", str(stream_id), "ada", "looked at it", receives)
            instruction = encode_skip(sign(key, "ada", 0, TimeMs(0), skip), 1)
            for core in exchange.pairs[0].cores:
                assert core.why_not_followed(instruction) == exchange.pairs[0].cores[0].why_not_followed(
                    instruction
                )
            inside = encode_frame({MESSAGES_FIELD: b"\xc1"})
            pair = exchange.pairs[0].copy()
            assert_same_outcome(pair, {SKIPPED_FIELD: instruction, SKIPPED_ENTRY_FIELD: inside})


def test_what_configures_a_shard_vouches_for_no_later_entry() -> None:
    """Unsigned commands count in the entry that found the shard without a configuration, and in no other."""
    keys = Keys(*(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3)))
    config = ShardConfig(windows=WINDOWS, keys=tuple(keys.known()))
    deposit = Deposit(1, "t", AccountId(1), "FIG", AssetUnits(40), "a")
    markets = [MarketConfig(market, 0) for market in market_map(1).markets]
    configure = [ConfigureMarket(number, "t", market) for number, market in enumerate(markets, 10)]
    pair = Pair(0, 1)
    entries: tuple[list[LoggedCommand], ...] = (
        [ConfigureShard(9, "t", config), *configure, deposit],
        [msgspec.structs.replace(deposit, request_id=2, transfer_id="b"), Tick()],
    )
    for ms, commands in enumerate(entries, start=1_795_000_000_000):
        came = pair.apply(StreamId(ms), {COMMANDS_FIELD: encode_commands(commands, ms * 1_000)})
        pair.compare_state()
    (frame,) = (frame for _, frame in came.replies)
    assert [reply.reason for reply in decode_replies(frame)] == [RejectReason.NOT_AUTHORIZED]  # type: ignore[union-attr]


def test_money_that_does_not_add_up_halts_the_shard() -> None:
    exchange = Exchange(market_map(1), 1)
    exchange.commands(0, [Deposit(1, "t", AccountId(1), "FIG", AssetUnits(5), "x")])
    core = exchange.pairs[0].cores[1]
    fees, deposited, *others = core.totals_of("FIG")  # type: ignore[attr-defined]  # it is a `FastCore`
    core.set_totals("FIG", fees, deposited - 1, *others)  # type: ignore[attr-defined]
    with pytest.raises(InvariantBroken, match="FIG: money is not conserved"):
        core.take()
    with pytest.raises(InvariantBroken, match="FIG: money is not conserved"):
        core.check_invariants()
    core.set_totals("FIG", fees, deposited, *others)  # type: ignore[attr-defined]
    core.set_funds(AccountId(1), "FIG", 6, 0)  # type: ignore[attr-defined]
    core.check_money()
    with pytest.raises(InvariantBroken, match="FIG: the books say held 0 of 5"):
        core.check_invariants()


def test_queries_and_progress_of_long_frames() -> None:
    exchange = Exchange(market_map(1), 1)
    exchange.commands(0, [Tick()] * 1_000)
    exchange.commands(0, [*[Tick()] * 40, Deposit(1, "t", AccountId(1), "FIG", AssetUnits(5), "x")])
    exchange.compare_states()


@pytest.mark.parametrize(
    "window", [WINDOWS.request_ms, WINDOWS.key_ms, WINDOWS.transfer_ms], ids=["request", "key", "transfer"]
)
def test_a_window_ends_at_the_same_millisecond(window: int) -> None:
    exchange = Exchange(market_map(1), 1)
    pair, start = exchange.pairs[0], exchange._now + 1
    for number, account in enumerate((1, 2, 3), start=10):
        commands = (
            Deposit(number, "t", AccountId(account), "PLUM", AssetUnits(10**6), f"t{number}"),
            PlaceOrder(
                number + 50, "t", AccountId(account), f"o{number}", "FIGPLUM", Side.BUY, OrderType.LIMIT,
                TimeInForce.IOC, PriceTicks(5), QuantityLots(5), idempotency_key=f"k{number}",
                deadline_ms=TimeMs(start + window + account - 2),
            ),
        )  # fmt: skip
        repeated = tuple(
            msgspec.structs.replace(each, request_id=each.request_id + 100 * (window != WINDOWS.request_ms))
            for each in commands
        )
        for ms, entered in ((0, commands), (window + account - 2, repeated)):
            written_us = (start + ms) * 1_000
            frame = encode_commands(entered, written_us)
            pair.apply(StreamId(start + ms), {COMMANDS_FIELD: frame})
            pair.compare_state()
        start += 10 * window


def test_cores_are_freed() -> None:
    for _ in range(50):
        program = Program(1, 64, 1)
        for pair in program.exchange.pairs:
            pair.let_go()
            pair.let_go()
            with pytest.raises((ValueError, AttributeError)):
                pair.cores[1].apply_frame(StreamId(1), {COMMANDS_FIELD: encode_commands([Tick()], 1)})


def test_a_snapshot_of_an_impossible_state_is_refused() -> None:
    whole = CORES["objects"].new(0, 1).encode_snapshot(STREAM_START)
    for cores in CORES.values():
        with pytest.raises(SnapshotError):
            cores.restore(whole[:32] + whole[33:])


def test_changed_snapshots_have_the_same_fate() -> None:
    """With a right digest, so that what is in them decides."""
    program, chosen = Program(2, 7, seed=4), random.Random(4)
    program.run(600)
    bodies = [pair.cores[0].encode_snapshot(pair.position)[32:] for pair in program.exchange.pairs]
    fates: Counter[str] = Counter()
    for number in range(1_500):
        octets = bytearray(bodies[number % 2])
        for _ in range(chosen.choice((1, 1, 1, 2))):
            octets[chosen.randrange(len(octets))] = chosen.choice(
                (0, 1, 2, 7, 0x90, 0xC0, chosen.randrange(256))
            )
        left, right = (fate_of(cores, bytes(octets)) for cores in CORES.values())
        if isinstance(left, bytes) and right == "SnapshotError":
            fates["refused by the compiled core alone"] += 1  # an order of another account, or the like
            continue
        assert left == right, bytes(octets)
        fates[left if isinstance(left, str) else "restored"] += 1
    assert fates["restored"] > 100
    assert fates["SnapshotError"] > 100
    assert fates["refused by the compiled core alone"] < 50


def fate_of(cores: Cores, body: bytes) -> str | bytes:
    try:
        core, stream_id = cores.restore(hashlib.blake2b(body, digest_size=32).digest() + body)
    except Exception as error:
        return type(error).__name__
    return core.encode_snapshot(stream_id)


def test_an_ordinary_snapshot_is_read_without_objects() -> None:
    from engine_worker.core_fast import fast_cores

    book = DeepBook(1, seed=2)
    book.run(levels=300, questions=3)
    snapshot = book.exchange.pairs[0].cores[1].encode_snapshot(StreamId(5))
    assert fast_cores._restored(snapshot[32:]) is not None


def test_an_extension_of_other_sources_is_refused() -> None:
    script = (
        "import runtime.extensions as built; built.sources_hash = lambda *_: 'other'\n"
        "from engine_worker.cores import CORES, why_not_compiled\n"
        "assert list(CORES) == ['objects'] and 'other sources' in why_not_compiled"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_twins_notice_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_half, "fee_of", lambda *_: 0)
    program = Program(1, 7, 1)
    with pytest.raises(Difference):
        program.run(2_000)
