"""What an operator, the treasury and a faucet may say to a shard, and that nobody else may."""

from dataclasses import dataclass

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, state_hash
from engine_worker.entries import DeadItem, apply_entry
from protocol.codec import encode_commands
from protocol.commands import (
    CancelOrders,
    CloseAccount,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    LimitAccount,
    LoggedCommand,
    Signed,
    SignedBody,
    Tick,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import (
    AccountLimits,
    KeyLimit,
    MarketConfig,
    MarketStatus,
    OperatorKey,
    Role,
    ShardConfig,
)
from protocol.market import MarketMap
from protocol.orders import RejectReason, Side
from protocol.replies import Canceling, Configured, FundsReply, OrderReply, Refused, Reply
from protocol.signing import sign
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD
from protocol.units import AccountId, AssetUnits, TimeMs
from stream_log.interface import Entry
from tests.support.pure_exchange import BUYER, LISTED, SELLER, changed, order

PRIVATE = {role: Ed25519PrivateKey.from_private_bytes(bytes([role]) * 32) for role in Role}
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
DAY_MS = 86_400_000
START_MS = 20_000 * DAY_MS


def key_of(role: Role, private: Ed25519PrivateKey | None = None, *limits: KeyLimit) -> OperatorKey:
    return OperatorKey(role.name, role, (private or PRIVATE[role]).public_key().public_bytes_raw(), limits)


FAUCET = key_of(Role.FAUCET, None, KeyLimit("USDT", AssetUnits(100), AssetUnits(250)))
KEYS = (key_of(Role.OPERATOR), key_of(Role.TREASURY), FAUCET)


class SignedExchange:
    """One shard, spoken to by its input."""

    def __init__(self, index: int = 0, shard_count: int = 1) -> None:
        self.shard = Shard(index, MarketMap.placed([], shard_count))
        self.now = START_MS
        self.requests = 1_000
        self.entries: list[Entry] = []
        self.dead: list[DeadItem] = []

    def write(self, *commands: LoggedCommand) -> list[Reply]:
        """Append commands, as one entry, and return all replies."""
        self.now += 1
        entry = Entry(
            "in:{0}", StreamId(self.now), {COMMANDS_FIELD: encode_commands(commands, self.now * 1_000)}
        )
        self.entries.append(entry)
        self.dead += apply_entry(self.shard, entry)
        return [reply for _, reply in self.shard.take().replies]

    def tell(
        self,
        role: Role,
        body: SignedBody,
        *,
        private: Ed25519PrivateKey | None = None,
        deadline: int = 1_000,
        shard: int | None = None,
    ) -> Reply:
        """Sign a command and append it."""
        self.requests += 1
        body = msgspec.structs.replace(body, request_id=self.requests, reply_to="r")
        to = self.shard.state.index if shard is None else shard
        (reply,) = self.write(
            sign(private or PRIVATE[role], role.name, to, TimeMs(self.now + 1 + deadline), body)
        )
        return reply

    def ask(self, command: LoggedCommand) -> Reply:
        """Append a command that needs no signature."""
        self.requests += 1
        command = msgspec.structs.replace(command, request_id=self.requests, reply_to="r")
        (reply,) = self.write(command)
        return reply


def reason(reply: Reply) -> RejectReason:
    assert isinstance(reply, Refused), reply
    return reply.reason


@pytest.fixture
def exchange() -> SignedExchange:
    made = SignedExchange()
    made.write(ConfigureShard(1, "r", ShardConfig(keys=KEYS)), ConfigureMarket(2, "r", LISTED))
    for account, asset in ((BUYER, "USDT"), (SELLER, "BTC")):
        assert isinstance(
            made.tell(Role.TREASURY, Deposit(0, "", account, asset, AssetUnits(10**13), "in")), FundsReply
        )
    return made


BODIES: list[tuple[Role, SignedBody]] = [
    (Role.TREASURY, Deposit(0, "", BUYER, "USDT", AssetUnits(5), "one")),
    (Role.TREASURY, Withdraw(0, "", BUYER, "USDT", AssetUnits(5), "two")),
    (Role.TREASURY, WithdrawFees(0, "", 0, "USDT", AssetUnits(0), "three")),
    (Role.OPERATOR, ConfigureShard(0, "", ShardConfig(version=2, keys=KEYS))),
    (Role.OPERATOR, ConfigureMarket(0, "", changed())),
    (Role.OPERATOR, LimitAccount(0, "", BUYER, AccountLimits(1, is_frozen=True))),
    (Role.OPERATOR, CancelOrders(0, "", BUYER)),
    (Role.OPERATOR, CloseAccount(0, "", AccountId(77))),
]


@pytest.mark.parametrize(("role", "body"), BODIES, ids=lambda each: type(each).__name__)
class TestWhoMaySayWhat:
    def test_its_key_may(self, exchange: SignedExchange, role: Role, body: SignedBody) -> None:
        reply = exchange.tell(role, body)
        assert not isinstance(reply, Refused) or reply.reason is RejectReason.AMOUNT_OUT_OF_RANGE

    def test_nobody_may_without_a_signature(
        self, exchange: SignedExchange, role: Role, body: SignedBody
    ) -> None:
        before = state_hash(exchange.shard)
        assert reason(exchange.ask(body)) is RejectReason.NOT_AUTHORIZED
        self.assert_nothing_but_time_passed(exchange, before)

    def test_no_other_role_may(self, exchange: SignedExchange, role: Role, body: SignedBody) -> None:
        for other in Role:
            if other is not role and not (other is Role.FAUCET and isinstance(body, Deposit)):
                assert reason(exchange.tell(other, body)) is RejectReason.NOT_AUTHORIZED

    def test_no_strangers_key_may(self, exchange: SignedExchange, role: Role, body: SignedBody) -> None:
        assert reason(exchange.tell(role, body, private=STRANGER)) is RejectReason.NOT_AUTHORIZED

    def test_it_counts_for_its_shard_alone(
        self, exchange: SignedExchange, role: Role, body: SignedBody
    ) -> None:
        assert reason(exchange.tell(role, body, shard=1)) is RejectReason.NOT_AUTHORIZED

    def test_it_counts_until_its_deadline(
        self, exchange: SignedExchange, role: Role, body: SignedBody
    ) -> None:
        assert reason(exchange.tell(role, body, deadline=-1)) is RejectReason.TOO_LATE

    def test_a_deadline_is_no_further_away_than_outcomes_are_remembered(
        self, exchange: SignedExchange, role: Role, body: SignedBody
    ) -> None:
        window = exchange.shard.state.windows.request_ms
        assert reason(exchange.tell(role, body, deadline=window + 1)) is RejectReason.NOT_AUTHORIZED
        reply = exchange.tell(role, body, deadline=window)
        assert not isinstance(reply, Refused) or reply.reason is RejectReason.AMOUNT_OUT_OF_RANGE

    def test_nobody_can_change_what_was_signed(
        self, exchange: SignedExchange, role: Role, body: SignedBody
    ) -> None:
        body = msgspec.structs.replace(body, request_id=7, reply_to="r")
        signed = sign(PRIVATE[role], role.name, 0, TimeMs(exchange.now + 1_000), body)
        other = msgspec.msgpack.encode(msgspec.structs.replace(body, request_id=8))
        for changes in (
            {"command": other},
            {"deadline_ms": signed.deadline_ms + 1},
            {"signature": b"\0" * 64},
        ):
            (reply,) = exchange.write(msgspec.structs.replace(signed, **changes))
            assert reason(reply) is RejectReason.NOT_AUTHORIZED
        (reply,) = exchange.write(signed)
        assert not isinstance(reply, Refused) or reply.reason is RejectReason.AMOUNT_OUT_OF_RANGE

    @staticmethod
    def assert_nothing_but_time_passed(exchange: SignedExchange, before: str) -> None:
        exchange.shard.state.command_count -= 1
        exchange.shard.state.time = TimeMs(exchange.shard.state.time - 1)
        assert state_hash(exchange.shard) == before


def test_who_appends_a_signed_command_again_gets_its_first_outcome(exchange: SignedExchange) -> None:
    body = Withdraw(7, "r", BUYER, "USDT", AssetUnits(10**12), "out")
    signed = sign(PRIVATE[Role.TREASURY], "TREASURY", 0, TimeMs(exchange.now + 40_000), body)
    (first,) = exchange.write(signed)
    (again,) = exchange.write(signed)
    assert first == again
    assert exchange.shard.state.accounts[BUYER].funds["USDT"].available == 9 * 10**12
    exchange.now += 40_000
    (late,) = exchange.write(signed)
    assert reason(late) is RejectReason.TOO_LATE


@pytest.mark.parametrize("nobody", [(0, "r"), (7, "")])
def test_a_signed_command_that_nobody_waits_for_is_refused(
    exchange: SignedExchange, nobody: tuple[int, str]
) -> None:
    """It could be appended again without being known for a repetition."""
    body = Deposit(*nobody, BUYER, "USDT", AssetUnits(1), "t")
    signed = sign(PRIVATE[Role.TREASURY], "TREASURY", 0, TimeMs(exchange.now + 1_000), body)
    assert [reason(reply) for reply in exchange.write(signed)] == [RejectReason.NOT_AUTHORIZED]


def test_what_is_signed_must_be_a_command(exchange: SignedExchange) -> None:
    assert exchange.write(Signed("OPERATOR", 0, TimeMs(exchange.now + 1_000), b"\xc1", b"")) == []
    assert "what is signed is no command" in exchange.dead[0].reason


def test_a_forged_command_does_not_take_the_place_of_the_true_one(exchange: SignedExchange) -> None:
    body = Deposit(7, "r", BUYER, "USDT", AssetUnits(1), "t")
    exchange.write(body)
    true = sign(PRIVATE[Role.TREASURY], "TREASURY", 0, TimeMs(exchange.now + 1_000), body)
    assert [type(reply) for reply in exchange.write(true)] == [FundsReply]


def test_only_the_entry_that_founds_a_shard_needs_no_signature() -> None:
    new = SignedExchange()
    first = new.write(ConfigureShard(1, "r", ShardConfig(keys=KEYS)), ConfigureMarket(2, "r", LISTED))
    assert [type(reply) for reply in first] == [Configured, Configured]
    (reply,) = new.write(ConfigureMarket(3, "r", changed()))
    assert reason(reply) is RejectReason.NOT_AUTHORIZED


def test_a_shard_that_nobody_has_configured_says_so_also_to_what_is_signed() -> None:
    """Not that the key is wrong: who signs would look for it in vain."""
    new = SignedExchange()
    deposit = Deposit(0, "", BUYER, "USDT", AssetUnits(1), "t")
    assert reason(new.tell(Role.TREASURY, deposit)) is RejectReason.UNKNOWN_ASSET


class TestKeys:
    def test_are_rotated_by_a_signed_command(self, exchange: SignedExchange) -> None:
        keys = (key_of(Role.OPERATOR, STRANGER), *KEYS[1:])
        assert isinstance(
            exchange.tell(Role.OPERATOR, ConfigureShard(0, "", ShardConfig(version=2, keys=keys))), Configured
        )
        close = CloseAccount(0, "", AccountId(77))
        assert reason(exchange.tell(Role.OPERATOR, close)) is RejectReason.NOT_AUTHORIZED
        assert isinstance(exchange.tell(Role.OPERATOR, close, private=STRANGER), FundsReply)

    @pytest.mark.parametrize(
        "keys", [(), KEYS[1:], (KEYS[0], KEYS[0])], ids=["none", "no operator", "same name"]
    )
    def test_an_operator_cannot_lock_everybody_out(
        self, exchange: SignedExchange, keys: tuple[OperatorKey, ...]
    ) -> None:
        config = ShardConfig(version=2, keys=keys)
        reply = exchange.tell(Role.OPERATOR, ConfigureShard(0, "", config))
        assert reason(reply) is RejectReason.CONFIG_REFUSED


class TestFaucet:
    def deposit(self, exchange: SignedExchange, amount: int, name: str, asset: str = "USDT") -> Reply:
        return exchange.tell(Role.FAUCET, Deposit(0, "", BUYER, asset, AssetUnits(amount), name))

    def test_gives_within_its_limits(self, exchange: SignedExchange) -> None:
        assert isinstance(self.deposit(exchange, 100, "a"), FundsReply)
        assert reason(self.deposit(exchange, 101, "b")) is RejectReason.NOT_AUTHORIZED, "too much at once"
        assert reason(self.deposit(exchange, 1, "c", "BTC")) is RejectReason.NOT_AUTHORIZED, "another asset"
        assert isinstance(self.deposit(exchange, 100, "d"), FundsReply)
        assert reason(self.deposit(exchange, 51, "e")) is RejectReason.NOT_AUTHORIZED, "too much in a day"
        assert isinstance(self.deposit(exchange, 50, "f"), FundsReply)
        exchange.now += DAY_MS
        assert isinstance(self.deposit(exchange, 100, "g"), FundsReply)

    def test_a_repeated_transfer_is_not_counted_again(self, exchange: SignedExchange) -> None:
        for _ in range(2):
            assert isinstance(self.deposit(exchange, 100, "a"), FundsReply)
        assert isinstance(self.deposit(exchange, 100, "b"), FundsReply)
        assert isinstance(self.deposit(exchange, 50, "c"), FundsReply)

    def test_what_it_gave_is_in_the_snapshot(self, exchange: SignedExchange) -> None:
        for name in "ab":
            self.deposit(exchange, 100, name)
        exchange.shard, _ = decode_snapshot(encode_snapshot(exchange.shard, STREAM_START))
        assert reason(self.deposit(exchange, 51, "e")) is RejectReason.NOT_AUTHORIZED


class TestLimitsOfAnAccount:
    def limit(
        self, exchange: SignedExchange, version: int = 1, account: AccountId = BUYER, **limits: int
    ) -> Reply:
        body = LimitAccount(0, "", account, AccountLimits(version, **limits))  # type: ignore[arg-type]
        return exchange.tell(Role.OPERATOR, body)

    def test_a_frozen_account_neither_orders_nor_withdraws(self, exchange: SignedExchange) -> None:
        assert isinstance(exchange.ask(order(BUYER, Side.BUY)), OrderReply)
        assert isinstance(self.limit(exchange, is_frozen=True), Configured)
        assert reason(exchange.ask(order(BUYER, Side.BUY, 101))) is RejectReason.ACCOUNT_FROZEN
        withdraw = Withdraw(0, "", BUYER, "USDT", AssetUnits(1), "out")
        assert reason(exchange.tell(Role.TREASURY, withdraw)) is RejectReason.ACCOUNT_FROZEN
        # What rests may trade, and may be canceled; money may come in.
        assert isinstance(exchange.ask(order(SELLER, Side.SELL)), OrderReply)
        assert isinstance(
            exchange.tell(Role.TREASURY, Deposit(0, "", BUYER, "USDT", AssetUnits(1), "t")), FundsReply
        )
        assert isinstance(self.limit(exchange, 2), Configured)
        assert isinstance(exchange.ask(order(BUYER, Side.BUY, 101)), OrderReply)

    def test_two_operators_do_not_overwrite_each_other(self, exchange: SignedExchange) -> None:
        self.limit(exchange, is_frozen=True)
        assert reason(self.limit(exchange)) is RejectReason.CONFIG_OUTDATED

    def test_open_orders_in_all_markets(self, exchange: SignedExchange) -> None:
        self.limit(exchange, open_orders_max=2)
        for price in (100, 101):
            assert isinstance(exchange.ask(order(BUYER, Side.BUY, price)), OrderReply)
        assert reason(exchange.ask(order(BUYER, Side.BUY, 102))) is RejectReason.TOO_MANY_OPEN_ORDERS

    @pytest.mark.parametrize(
        ("limits", "window"), [({"orders_10s_max": 2}, 10_000), ({"orders_1d_max": 2}, DAY_MS)]
    )
    def test_orders_in_a_time(self, exchange: SignedExchange, limits: dict[str, int], window: int) -> None:
        exchange.now += window - exchange.now % window
        self.limit(exchange, 1, BUYER, **limits)
        for price in (100, 101):
            assert isinstance(exchange.ask(order(BUYER, Side.BUY, price)), OrderReply)
        assert reason(exchange.ask(order(BUYER, Side.BUY, 102))) is RejectReason.TOO_MANY_ORDERS
        exchange.shard, _ = decode_snapshot(encode_snapshot(exchange.shard, STREAM_START))
        assert reason(exchange.ask(order(BUYER, Side.BUY, 102))) is RejectReason.TOO_MANY_ORDERS
        exchange.now += window
        assert isinstance(exchange.ask(order(BUYER, Side.BUY, 102)), OrderReply)

    def test_closing_an_account_does_not_thaw_it(self, exchange: SignedExchange) -> None:
        self.limit(exchange, account=AccountId(77), is_frozen=True)
        close = CloseAccount(0, "", AccountId(77))
        assert reason(exchange.tell(Role.OPERATOR, close)) is RejectReason.ACCOUNT_IN_USE
        self.limit(exchange, 2, AccountId(77))
        assert isinstance(exchange.tell(Role.OPERATOR, close), FundsReply)


def test_open_orders_of_every_account_are_bounded_while_they_trade(exchange: SignedExchange) -> None:
    """Lowered below what is there it takes nothing away; it stands in snapshots, and 0 takes it back."""
    prices = iter(range(100, 120))

    def bound(version: int, most: int) -> None:
        config = ShardConfig(version=version, keys=KEYS, open_orders_max=most)
        assert isinstance(exchange.tell(Role.OPERATOR, ConfigureShard(0, "", config)), Configured)

    def place() -> Reply:
        return exchange.ask(order(BUYER, Side.BUY, next(prices)))

    placed = [place() for _ in range(3)]
    bound(2, 2)
    assert reason(place()) is RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL
    exchange.shard, _ = decode_snapshot(encode_snapshot(exchange.shard, STREAM_START))
    assert reason(place()) is RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL
    assert all(isinstance(reply, OrderReply) for reply in placed)
    assert len(exchange.shard.state.accounts[BUYER].client_order_ids) == 3
    assert isinstance(exchange.ask(order(SELLER, Side.SELL, 200)), OrderReply), "it is each account's own"
    bound(3, 4)
    assert isinstance(place(), OrderReply)
    assert reason(place()) is RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL
    bound(4, 0)
    assert isinstance(place(), OrderReply)


def test_maintenance_begins_at_its_time_and_leaves_cancels(exchange: SignedExchange) -> None:
    assert isinstance(exchange.ask(order(BUYER, Side.BUY)), OrderReply)
    config = ShardConfig(version=2, keys=KEYS, maintenance_from=TimeMs(exchange.now + 1_000))
    assert isinstance(exchange.tell(Role.OPERATOR, ConfigureShard(0, "", config)), Configured)
    assert isinstance(exchange.ask(order(BUYER, Side.BUY, 101)), OrderReply), "it is announced"
    exchange.now += 1_000
    assert reason(exchange.ask(order(BUYER, Side.BUY, 102))) is RejectReason.UNDER_MAINTENANCE
    exchange.shard, _ = decode_snapshot(encode_snapshot(exchange.shard, STREAM_START))
    assert reason(exchange.ask(order(BUYER, Side.BUY, 102))) is RejectReason.UNDER_MAINTENANCE
    assert isinstance(exchange.tell(Role.OPERATOR, CancelOrders(0, "", BUYER)), Canceling)
    over = ShardConfig(version=3, keys=KEYS)
    exchange.tell(Role.OPERATOR, ConfigureShard(0, "", over))
    assert isinstance(exchange.ask(order(BUYER, Side.BUY, 102)), OrderReply)


def test_accounts_stay_where_they_were_placed(exchange: SignedExchange) -> None:
    config = ShardConfig(version=2, keys=KEYS, slots=bytes(2_520))
    assert isinstance(exchange.tell(Role.OPERATOR, ConfigureShard(0, "", config)), Configured), (
        "it is the same table"
    )
    for slots in (bytes(2_519), bytes(2_519) + b"\1"):
        other = ShardConfig(version=3, keys=KEYS, slots=slots)
        reply = exchange.tell(Role.OPERATOR, ConfigureShard(0, "", other))
        assert reason(reply) is RejectReason.CONFIG_REFUSED


def test_a_new_shard_follows_the_table_that_it_is_given() -> None:
    """Slot 1 is on the first shard here, which no modulo would say."""
    slots = bytes([1, 0] * 1_260)
    made = SignedExchange(0, 2)
    made.write(ConfigureShard(1, "r", ShardConfig(keys=KEYS, slots=slots)), ConfigureMarket(2, "r", LISTED))
    deposit = Deposit(0, "", AccountId(1 + 2_520), "USDT", AssetUnits(1), "t")
    assert isinstance(made.tell(Role.TREASURY, deposit), FundsReply)
    made.write(msgspec.structs.replace(deposit, account_id=AccountId(2), reply_to=""))
    assert made.dead[0].reason == "account 2 is not one of shard 0"


def test_a_replay_verifies_signatures_again(exchange: SignedExchange) -> None:
    for role, body in BODIES:
        exchange.tell(role, body)
        exchange.tell(role, body, private=STRANGER)
        exchange.ask(body)
    exchange.write(Tick())
    twin = Shard(0, MarketMap.placed([], 1))
    for entry in exchange.entries:
        apply_entry(twin, entry)
        twin.take()
    assert state_hash(twin) == state_hash(exchange.shard)
    assert twin.digest() == exchange.shard.digest()


@dataclass(frozen=True)
class Crowd:
    """Accounts with one order each, all at one price."""

    exchange: SignedExchange
    count: int

    def place(self) -> "Crowd":
        for number in range(self.count):
            account = AccountId(1_000 + number)
            self.exchange.tell(Role.TREASURY, Deposit(0, "", account, "USDT", AssetUnits(10**12), "in"))
            assert isinstance(self.exchange.ask(order(account, Side.BUY)), OrderReply)
        return self


class TestDelisting:
    def test_cancels_a_hundred_with_each_command_and_ends_by_itself(self, exchange: SignedExchange) -> None:
        Crowd(exchange, 250).place()
        shard = exchange.shard
        assert isinstance(
            exchange.tell(Role.OPERATOR, ConfigureMarket(0, "", changed(status=MarketStatus.DELISTING))),
            Configured,
        )
        left = [len(shard.state.markets["BTCUSDT"].book.orders)]
        while shard.state.drains:
            exchange.shard, _ = decode_snapshot(encode_snapshot(shard, STREAM_START))
            shard = exchange.shard
            exchange.write(Tick())
            left.append(len(shard.state.markets["BTCUSDT"].book.orders))
        assert left == [150, 50, 0]
        assert shard.state.market_configs["BTCUSDT"] == changed(version=3, status=MarketStatus.DELISTED)
        assert all(not account.open_orders for account in shard.state.accounts.values())
        assert all(
            funds.held == 0 for account in shard.state.accounts.values() for funds in account.funds.values()
        )
        assert reason(exchange.ask(order(BUYER, Side.BUY))) is RejectReason.MARKET_CLOSED
        shard.check_invariants()

    def test_a_market_without_orders_is_delisted_at_once(self, exchange: SignedExchange) -> None:
        exchange.tell(Role.OPERATOR, ConfigureMarket(0, "", changed(status=MarketStatus.DELISTING)))
        assert exchange.shard.state.market_configs["BTCUSDT"].status is MarketStatus.DELISTED

    def test_it_may_be_listed_again_and_its_trades_go_on(self, exchange: SignedExchange) -> None:
        exchange.ask(order(BUYER, Side.BUY))
        exchange.ask(order(SELLER, Side.SELL))
        exchange.tell(Role.OPERATOR, ConfigureMarket(0, "", changed(status=MarketStatus.DELISTING)))
        again = changed(version=4, status=MarketStatus.TRADING)
        assert isinstance(exchange.tell(Role.OPERATOR, ConfigureMarket(0, "", again)), Configured)
        exchange.ask(order(BUYER, Side.BUY))
        exchange.ask(order(SELLER, Side.SELL))
        assert exchange.shard.state.markets["BTCUSDT"].trade_id == 2

    def test_nobody_says_that_a_market_is_delisted_but_the_shard(self, exchange: SignedExchange) -> None:
        for status in (MarketStatus.DELISTED,):
            reply = exchange.tell(Role.OPERATOR, ConfigureMarket(0, "", changed(status=status)))
            assert reason(reply) is RejectReason.CONFIG_REFUSED

    def test_it_can_be_taken_back_while_it_goes_on(self, exchange: SignedExchange) -> None:
        Crowd(exchange, 150).place()
        exchange.tell(Role.OPERATOR, ConfigureMarket(0, "", changed(status=MarketStatus.DELISTING)))
        again = changed(version=3, status=MarketStatus.TRADING)
        assert isinstance(exchange.tell(Role.OPERATOR, ConfigureMarket(0, "", again)), Configured)
        exchange.write(Tick())
        assert len(exchange.shard.state.markets["BTCUSDT"].book.orders) == 50
        assert exchange.shard.state.market_configs["BTCUSDT"].status is MarketStatus.TRADING


class TestCancelingOrders:
    def test_of_a_market_only_when_nobody_can_add_to_them(self, exchange: SignedExchange) -> None:
        Crowd(exchange, 150).place()
        body = CancelOrders(0, "", AccountId(0), "BTCUSDT")
        assert reason(exchange.tell(Role.OPERATOR, body)) is RejectReason.MARKET_OPEN
        exchange.tell(Role.OPERATOR, ConfigureMarket(0, "", changed(status=MarketStatus.HALTED)))
        reply = exchange.tell(Role.OPERATOR, body)
        assert isinstance(reply, Canceling)
        assert reply.orders == 150
        exchange.write(Tick())
        assert not exchange.shard.state.markets["BTCUSDT"].book.orders
        assert exchange.shard.state.market_configs["BTCUSDT"].status is MarketStatus.HALTED

    def test_of_an_account_only_those_that_were_there(self, exchange: SignedExchange) -> None:
        for price in range(100, 250):
            exchange.ask(order(BUYER, Side.BUY, price))
        exchange.tell(Role.OPERATOR, CancelOrders(0, "", BUYER))
        assert len(exchange.shard.state.accounts[BUYER].open_orders["BTCUSDT"]) == 50
        reply = exchange.ask(order(BUYER, Side.BUY, 99))
        assert isinstance(reply, OrderReply)
        (left,) = exchange.shard.state.accounts[BUYER].open_orders["BTCUSDT"]
        assert left == reply.order.order_id

    def test_of_a_market_that_there_is_not(self, exchange: SignedExchange) -> None:
        body = CancelOrders(0, "", AccountId(0), "NOWHERE")
        assert reason(exchange.tell(Role.OPERATOR, body)) is RejectReason.UNKNOWN_MARKET


def test_a_faucets_limit_for_every_asset_is_one_number_of_whole_ones() -> None:
    """Two whole ones at once and three a day: of USDT (8 decimals) and of YEN, which has none and is listed
    later."""
    everything = key_of(Role.FAUCET, None, KeyLimit("", AssetUnits(2 * 10**8), AssetUnits(3 * 10**8)))
    exchange = SignedExchange()
    exchange.write(
        ConfigureShard(1, "r", ShardConfig(keys=(KEYS[0], everything))), ConfigureMarket(2, "r", LISTED)
    )
    market = msgspec.structs.replace(
        LISTED.market, symbol="BTCYEN", quote="YEN", quote_scale=0, tick_size=10**13
    )
    assert isinstance(
        exchange.tell(Role.OPERATOR, ConfigureMarket(0, "", MarketConfig(market, 0))), Configured
    )
    for asset, one in (("USDT", 10**8), ("YEN", 1)):
        for name, amount, is_given in (
            ("a", 2 * one + 1, False),
            ("b", 2 * one, True),
            ("c", one + 1, False),
            ("d", one, True),
        ):
            reply = exchange.tell(
                Role.FAUCET, Deposit(0, "", BUYER, asset, AssetUnits(amount), f"{asset} {name}")
            )
            assert isinstance(reply, FundsReply) is is_given, (asset, name)
    unknown = exchange.tell(Role.FAUCET, Deposit(0, "", BUYER, "GOLD", AssetUnits(1), "gold"))
    assert reason(unknown) is RejectReason.UNKNOWN_ASSET
