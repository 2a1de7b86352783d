"""One outcome per request: the window of requests, client order ids, and idempotency keys, by hand."""

import msgspec
import pytest

from engine_worker.core import replies
from engine_worker.core.outcomes import AnsweredRequests
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, state_hash
from protocol.commands import CancelAllOrders, CancelOrder, Command, Deposit, PlaceOrder, Withdraw
from protocol.orders import OrderStatus, OrderType, RejectReason, Side, TimeInForce
from protocol.replies import FundsReply, OrderReply, OrdersReply, Refused, Reply
from protocol.stream_id import STREAM_START
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from protocol.windows import Windows
from tests.oracle.driver import Engine, Produced
from tests.properties.markets import market_map

ALICE, BOB = AccountId(1), AccountId(2)
WINDOWS = Windows(request_ms=1_000, key_ms=5_000, keys_max=3)


class Exchange:
    """Engine and clock; `ask` gives a command and returns the replies to it."""

    def __init__(self, shard_count: int = 1) -> None:
        self.engine = Engine(market_map(shard_count), WINDOWS)
        self.now = 10_000
        for account_id in (ALICE, BOB):
            for asset in ("FIG", "PLUM"):
                self.ask(Deposit(0, "", account_id, asset, AssetUnits(90_000), f"start-{asset}"))

    def ask(self, command: Command) -> list[Reply]:
        return [reply for _, reply in self.engine.apply(command, self.now).replies]

    def one(self, command: Command) -> Reply:
        [reply] = self.ask(command)
        return reply

    def balance(self, account_id: AccountId) -> dict[str, tuple[int, int]]:
        return self.engine.balances(account_id)


@pytest.fixture(params=[1, 3])
def exchange(request: pytest.FixtureRequest) -> Exchange:
    return Exchange(request.param)


def order(
    request_id: int,
    name: str = "a",
    *,
    account_id: AccountId = ALICE,
    side: Side = Side.BUY,
    time_in_force: TimeInForce = TimeInForce.GTC,
    quantity: int = 10,
    key: str = "",
    price: int = 5,
    order_type: OrderType = OrderType.LIMIT,
) -> PlaceOrder:
    return PlaceOrder(
        request_id,
        "gateway",
        account_id,
        name,
        "FIGPLUM",
        side,
        order_type,
        time_in_force,
        PriceTicks(price),
        QuantityLots(quantity),
        idempotency_key=key,
    )


def cancel(request_id: int, name: str = "a") -> CancelOrder:
    return CancelOrder(request_id, "gateway", ALICE, "FIGPLUM", OrderId(0), name)


def reason(reply: Reply) -> RejectReason:
    assert isinstance(reply, Refused), reply
    return reply.reason


def test_a_repeated_order_gets_the_first_outcome_and_trades_once(exchange: Exchange) -> None:
    exchange.ask(order(1, "offer", account_id=BOB, side=Side.SELL, quantity=40))
    first = exchange.one(order(2, time_in_force=TimeInForce.IOC))
    assert isinstance(first, OrderReply)
    assert (first.order.status, len(first.fills)) == (OrderStatus.FILLED, 1)
    before = exchange.balance(ALICE)
    exchange.now += 1_000
    assert exchange.ask(order(2, time_in_force=TimeInForce.IOC)) == [first]
    assert exchange.balance(ALICE) == before


def test_a_repeated_cancel_is_told_that_it_worked(exchange: Exchange) -> None:
    exchange.ask(order(1))
    canceled = exchange.one(cancel(2))
    assert isinstance(canceled, OrderReply)
    assert canceled.order.status is OrderStatus.CANCELED
    assert exchange.ask(cancel(2)) == [canceled]
    assert reason(exchange.one(cancel(3))) is RejectReason.UNKNOWN_ORDER


def test_a_repeated_cancel_of_all_names_the_same_orders(exchange: Exchange) -> None:
    exchange.ask(order(1, "a"))
    exchange.ask(order(2, "b", price=4, quantity=20))
    everything = CancelAllOrders(3, "gateway", ALICE, "FIGPLUM")
    canceled = exchange.one(everything)
    assert isinstance(canceled, OrdersReply)
    assert [each.client_order_id for each in canceled.orders] == ["a", "b"]
    exchange.ask(order(4, "c"))
    assert exchange.ask(everything) == [canceled]
    assert [each.client_order_id for each in exchange.engine.open_orders(ALICE)] == ["c"]


def test_repeated_transfers_move_money_once(exchange: Exchange) -> None:
    for command in (
        Deposit(1, "gateway", ALICE, "FIG", AssetUnits(7), "t1"),
        Withdraw(2, "gateway", ALICE, "FIG", AssetUnits(7), "t2"),
    ):
        moved = exchange.one(command)
        assert isinstance(moved, FundsReply)
        assert exchange.ask(command) == [moved]
    assert exchange.balance(ALICE)["FIG"] == (90_000, 0)


def test_a_refusal_stays_one_although_it_would_be_accepted_now(exchange: Exchange) -> None:
    refused = exchange.one(cancel(1))
    exchange.ask(order(2))
    assert exchange.ask(cancel(1)) == [refused]


def test_the_window_ends_after_its_time(exchange: Exchange) -> None:
    refused = exchange.one(cancel(1))
    exchange.ask(order(2))
    exchange.now += 1_000
    assert exchange.ask(cancel(1)) == [refused]
    exchange.now += 1
    assert isinstance(exchange.one(cancel(1)), OrderReply)


def test_another_channel_or_number_is_another_request(exchange: Exchange) -> None:
    deposit = Deposit(1, "gateway", ALICE, "FIG", AssetUnits(7), "t1")
    exchange.ask(deposit)
    elsewhere = Deposit(1, "edge", ALICE, "FIG", AssetUnits(5), "t2")
    exchange.ask(elsewhere)
    assert exchange.balance(ALICE)["FIG"] == (90_012, 0)


def test_what_nobody_waits_for_is_not_remembered(exchange: Exchange) -> None:
    for number in range(3):
        exchange.ask(Deposit(0, "bench", ALICE, "FIG", AssetUnits(1), f"b{number}"))
        exchange.ask(Deposit(5, "", ALICE, "FIG", AssetUnits(1), f"c{number}"))
    assert exchange.balance(ALICE)["FIG"] == (90_006, 0)
    assert not any(
        len(shard.state.requests) or shard.state.requests_under_way for shard in exchange.engine.shards
    )


def test_old_outcomes_are_dropped_a_few_per_command(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "DROPS_PER_COMMAND", 2)
    shard = exchange.engine.shards[ALICE % exchange.engine.market_map.shard_count]
    for number in range(1, 11):
        exchange.ask(cancel(number))
    assert len(shard.state.requests) == 10
    exchange.now += 1_001
    for number in range(11, 16):
        exchange.ask(cancel(number))
    assert len(shard.state.requests) == 10 - 5 * 2 + 5


def test_a_request_that_came_again_after_its_window_stays_when_its_older_outcome_is_dropped() -> None:
    answered = AnsweredRequests(window_ms=10)
    first, second = (Refused(7, TimeMs(time), RejectReason.UNKNOWN_ORDER) for time in (0, 11))
    answered.remember(TimeMs(0), "gateway", first)
    answered.remember(TimeMs(11), "gateway", second)
    answered.drop_old(TimeMs(11), 64)
    assert answered.find("gateway", 7, TimeMs(21)) is second
    assert answered.find("gateway", 7, TimeMs(22)) is None
    answered.drop_old(TimeMs(22), 64)
    assert len(answered) == 0
    assert answered.by_channel == {}


@pytest.mark.parametrize("shard_count", [1, 3])
def test_how_many_are_dropped_at_once_changes_nothing(
    shard_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = []
    for drops in (0, 1, 1_000):
        monkeypatch.setattr(replies, "DROPS_PER_COMMAND", drops)
        exchange = Exchange(shard_count)
        for number in range(1, 61):
            exchange.now += 290
            exchange.ask(order(number, f"o{number % 7}", key=f"k{number}" if number % 3 else ""))
            exchange.ask(cancel(1_000 + number, f"o{number % 5}"))
            if drops == 1 and number % 20 == 0:
                exchange.engine.restart()
        hashes.append((exchange.engine.state_hashes(), [shard.digest() for shard in exchange.engine.shards]))
    assert hashes[0] == hashes[1] == hashes[2]


def test_a_client_order_id_may_be_used_again_when_its_order_is_closed(exchange: Exchange) -> None:
    assert isinstance(exchange.one(order(1)), OrderReply)
    assert reason(exchange.one(order(2))) is RejectReason.DUPLICATE_CLIENT_ORDER_ID
    exchange.ask(cancel(3))
    again = exchange.one(order(4))
    assert isinstance(again, OrderReply)
    assert again.order.status is OrderStatus.NEW
    exchange.ask(order(5, "taker", account_id=BOB, side=Side.SELL))
    assert isinstance(exchange.one(order(6)), OrderReply), "the one before is filled"


# Idempotency keys.


def test_a_repeated_key_gets_the_first_outcome_under_its_own_number(exchange: Exchange) -> None:
    exchange.ask(order(1, "offer", account_id=BOB, side=Side.SELL, quantity=40))
    first = exchange.one(order(2, time_in_force=TimeInForce.IOC, key="k"))
    assert isinstance(first, OrderReply)
    exchange.now += 5_000
    again = exchange.one(order(3, time_in_force=TimeInForce.IOC, key="k"))
    assert again == OrderReply(3, first.time, first.order, first.fills)
    exchange.now += 1
    later = exchange.one(order(4, time_in_force=TimeInForce.IOC, key="k"))
    assert isinstance(later, OrderReply)
    assert later.order.order_id != first.order.order_id, "the key's ten minutes are over"


def test_a_key_for_something_else_is_refused(exchange: Exchange) -> None:
    first = exchange.one(order(1, key="k"))
    others: list[Command] = [
        order(2, key="k", quantity=11),
        order(3, key="k", name="b"),
        order(4, key="k", price=6),
        order(5, key="k", side=Side.SELL),
        Deposit(6, "gateway", ALICE, "FIG", AssetUnits(7), "t1", "k"),
    ]
    for other in others:
        assert reason(exchange.one(other)) is RejectReason.IDEMPOTENCY_KEY_REUSED, other
    assert isinstance(first, OrderReply)
    assert exchange.one(order(7, key="k")) == OrderReply(7, first.time, first.order)
    assert isinstance(exchange.one(order(8, key="k", account_id=BOB)), OrderReply), (
        "keys are the account's own"
    )


def test_the_protective_price_is_not_the_clients(exchange: Exchange) -> None:
    def by_market(request_id: int, price: int) -> PlaceOrder:
        return order(
            request_id, order_type=OrderType.MARKET, time_in_force=TimeInForce.IOC, price=price, key="k"
        )

    first = exchange.one(by_market(1, 5))
    assert isinstance(first, OrderReply)
    assert exchange.one(by_market(2, 6)) == OrderReply(2, first.time, first.order)
    # A gateway of a later release asks its market's shard for the bound; the client asks for the same.
    again = msgspec.structs.replace(by_market(3, 6), bound_by_book=True)
    assert exchange.one(again) == OrderReply(3, first.time, first.order)


def test_a_refusal_is_kept_under_its_key(exchange: Exchange) -> None:
    nobody = AccountId(7)  # it has no money, and no account at its shard
    refused = exchange.one(order(1, account_id=nobody, key="k"))
    assert reason(refused) is RejectReason.INSUFFICIENT_BALANCE
    exchange.ask(Deposit(2, "gateway", nobody, "PLUM", AssetUnits(90_000), "t"))
    assert exchange.one(order(3, account_id=nobody, key="k")) == Refused(
        3, TimeMs(exchange.now), reason(refused)
    )


def test_too_many_keys_are_refused_and_none_is_forgotten_early(exchange: Exchange) -> None:
    first = exchange.one(order(1, "a", key="k1"))
    assert isinstance(first, OrderReply)
    exchange.now += 1_000
    exchange.ask(order(2, "b", key="k2"))
    exchange.ask(order(3, "c", key="k3"))
    assert reason(exchange.one(order(4, "d", key="k4"))) is RejectReason.TOO_MANY_IDEMPOTENCY_KEYS
    exchange.now += 4_000
    assert exchange.one(order(5, "a", key="k1")) == OrderReply(5, first.time, first.order)
    assert reason(exchange.one(order(6, "d", key="k4"))) is RejectReason.TOO_MANY_IDEMPOTENCY_KEYS
    exchange.now += 1
    assert isinstance(exchange.one(order(7, "d", key="k4")), OrderReply), "k1 has ended, so there is room"
    assert reason(exchange.one(order(8, "e", key="k5"))) is RejectReason.TOO_MANY_IDEMPOTENCY_KEYS


def test_keys_of_an_account_that_is_silent_are_dropped() -> None:
    exchange = Exchange()
    exchange.ask(order(1, key="k"))
    account = exchange.engine.shards[0].state.accounts[ALICE]
    assert account.keyed is not None
    exchange.now += 5_001
    exchange.ask(Deposit(2, "gateway", BOB, "FIG", AssetUnits(1), "t"))
    assert account.keyed is None


# Requests under way: the account is on another shard than the market.


def under_way() -> tuple[Exchange, Produced, AccountId]:
    """Return an exchange of three shards, and an account whose orders in FIGPLUM are matched by another
    shard."""
    exchange, produced = Exchange(3), Produced()
    account_id = AccountId(3 + (exchange.engine.market_map.shard_of_market("FIGPLUM") + 1) % 3)
    exchange.ask(Deposit(0, "", account_id, "PLUM", AssetUnits(90_000), "start"))
    return exchange, produced, account_id


def arrive(exchange: Exchange, produced: Produced) -> list[tuple[str, int]]:
    while exchange.engine.mail:
        exchange.engine.deliver(min(exchange.engine.mail), exchange.now, produced)
    return [(reply_to, reply.request_id) for reply_to, reply in produced.replies]


def test_a_repetition_of_what_is_under_way_waits_for_its_one_answer() -> None:
    exchange, produced, account_id = under_way()
    place = order(1, account_id=account_id)
    for _ in range(2):
        exchange.engine.submit(place, exchange.now, produced)
    exchange.engine.restart()
    exchange.engine.submit(place, exchange.now, produced)
    assert not produced.replies
    assert arrive(exchange, produced) == [("gateway", 1)]
    assert len(exchange.engine.open_orders(account_id)) == 1


def test_what_is_under_way_is_not_forgotten_however_long_it_takes() -> None:
    exchange, produced, account_id = under_way()
    place = order(1, account_id=account_id, key="k")
    exchange.engine.submit(place, exchange.now, produced)
    exchange.now += 60_000
    exchange.engine.submit(place, exchange.now, produced)
    exchange.engine.submit(order(2, account_id=account_id, key="k"), exchange.now, produced)
    exchange.engine.submit(order(3, account_id=account_id, key="k", quantity=11), exchange.now, produced)
    assert [(reply.request_id, reason(reply)) for _, reply in produced.replies] == [
        (3, RejectReason.IDEMPOTENCY_KEY_REUSED)
    ]
    produced.replies.clear()
    exchange.engine.restart()
    assert arrive(exchange, produced) == [("gateway", 1), ("gateway", 2)]
    assert exchange.ask(order(2, account_id=account_id, key="k")) == [produced.replies[1][1]]
    assert len(exchange.engine.open_orders(account_id)) == 1


def test_a_snapshot_has_it_all() -> None:
    exchange, produced, account_id = under_way()
    exchange.ask(order(1, "a", key="k1", account_id=account_id))
    exchange.ask(cancel(2))
    exchange.engine.submit(order(3, "b", key="k2", account_id=account_id, price=4), exchange.now, produced)
    exchange.engine.submit(order(4, "b", key="k2", account_id=account_id, price=4), exchange.now, produced)
    before = exchange.engine.state_hashes()
    exchange.engine.restart()
    assert exchange.engine.state_hashes() == before
    for shard in exchange.engine.shards:
        restored, _ = decode_snapshot(encode_snapshot(shard, STREAM_START))
        assert state_hash(restored) == state_hash(shard)
        assert restored.digest() == shard.digest()
