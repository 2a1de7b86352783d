"""How a shard and its markets are configured changes by commands, and stands in the log and in the snapshot.

Settings decide nothing.
"""

import msgspec
import pytest

from engine_worker.core.outcomes import Transfers
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import SnapshotError, decode_snapshot, encode_snapshot, state_hash
from engine_worker.entries import apply_entry
from protocol.codec import FORMAT
from protocol.commands import (
    CancelAllOrders,
    CancelOrder,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    KnowMarket,
    MatchOrder,
    TakerOutcome,
)
from protocol.configuration import RULES, MarketConfig, MarketStatus, ShardConfig
from protocol.events import MarketConfigured, OrderFilled
from protocol.market import MarketMap
from protocol.orders import OrderType, RejectReason, Side, TimeInForce
from protocol.replies import ConfigReply, Configured, OrderReply, OrdersReply, Refused
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from protocol.windows import Windows
from stream_log.interface import Entry
from tests.support.pure_exchange import BTC, BUYER, LISTED, SELLER, Exchange, changed, order


@pytest.fixture
def exchange() -> Exchange:
    made = Exchange()
    for index in range(2):
        assert isinstance(made.tell(index, ConfigureShard(0, "", ShardConfig())), Configured)
    return made


@pytest.fixture
def open_exchange(exchange: Exchange) -> Exchange:
    """With a market, and money."""
    exchange.configure()
    for account, asset in ((BUYER, "USDT"), (SELLER, "BTC"), (AccountId(3), "USDT")):
        exchange.tell(account % 2, Deposit(0, "", account, asset, AssetUnits(10**13), "in"))
    return exchange


def test_a_new_shard_knows_nothing_and_takes_nothing() -> None:
    new = Exchange()
    assert new.knows(0) == ConfigReply(1, TimeMs(0), None, ())
    assert new.refusal(0, order(BUYER, Side.BUY)) is RejectReason.UNKNOWN_MARKET
    assert new.refusal(0, Deposit(0, "", BUYER, "USDT", AssetUnits(5), "in")) is RejectReason.UNKNOWN_ASSET
    assert (
        new.refusal(0, ConfigureMarket(0, "", LISTED)) is RejectReason.CONFIG_REFUSED
    )  # before the shard itself


def test_a_market_is_listed_at_its_shard_which_tells_the_others(exchange: Exchange) -> None:
    reply = exchange.configure()
    assert isinstance(reply, Configured)
    assert reply.version == 1
    assert [event for event in exchange.events if isinstance(event, MarketConfigured)] == [
        MarketConfigured(TimeMs(exchange.time), LISTED)
    ]
    for shard in range(2):
        assert exchange.knows(shard).markets == (LISTED,)
    assert exchange.shards[0].state.markets.keys() == {"BTCUSDT"}
    assert exchange.shards[1].state.markets == {}
    assert isinstance(
        exchange.tell(1, Deposit(0, "", AccountId(3), "USDT", AssetUnits(10**13), "in")), object
    )
    assert isinstance(exchange.tell(1, order(AccountId(3), Side.BUY)), OrderReply)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LISTED, RejectReason.CONFIG_OUTDATED),
        (changed(version=3), RejectReason.CONFIG_OUTDATED),
        (changed(tick_size=AssetUnits(10**7)), RejectReason.CONFIG_REFUSED),
        (changed(lot_size=AssetUnits(10**4)), RejectReason.CONFIG_REFUSED),
        (changed(base="ETH"), RejectReason.CONFIG_REFUSED),
        (changed(quote="EUR"), RejectReason.CONFIG_REFUSED),
    ],
)
def test_what_may_not_change(exchange: Exchange, config: MarketConfig, reason: RejectReason) -> None:
    exchange.configure()
    before = [state_hash(shard) for shard in exchange.shards]
    assert exchange.refusal(0, ConfigureMarket(0, "", config)) is reason
    assert exchange.knows(0).markets == (LISTED,)
    assert exchange.shards[1].state.market_configs == {"BTCUSDT": LISTED}
    assert state_hash(exchange.shards[1]) == before[1]


def test_a_market_is_configured_by_its_own_shard_only(exchange: Exchange) -> None:
    assert exchange.refusal(1, ConfigureMarket(0, "", LISTED)) is RejectReason.CONFIG_REFUSED
    exchange.configure()
    moved = MarketConfig(BTC, 1, version=2)
    assert exchange.refusal(1, ConfigureMarket(0, "", moved)) is RejectReason.CONFIG_REFUSED


def test_a_market_that_two_shards_were_told_to_list_is_the_first_ones(exchange: Exchange) -> None:
    exchange.configure()
    exchange.shards[0].apply(KnowMarket(MarketConfig(BTC, 1)), TimeMs(99))
    assert exchange.knows(0).markets == (LISTED,)


def test_a_fee_counts_from_its_command_on(open_exchange: Exchange) -> None:
    """Taker 2,000 ppm, then 10,000 ppm.

    A lot is 0.00001 BTC, so 1,000,000 lots are 10 BTC, which is 10^9 units.
    """
    fees = []
    for version in (1, 2):
        if version == 2:
            assert isinstance(open_exchange.configure(changed(taker_fee_ppm=10_000)), Configured)
        open_exchange.tell(0, order(SELLER, Side.SELL, 100 + version))
        reply = open_exchange.tell(0, order(BUYER, Side.BUY, 100 + version))
        assert isinstance(reply, OrderReply)
        fees += [fill.fee for fill in reply.fills]
    assert fees == [2_000_000, 10_000_000]


@pytest.mark.parametrize("status", [MarketStatus.HALTED, MarketStatus.CANCEL_ONLY, MarketStatus.ANNOUNCED])
def test_new_orders_are_refused_where_nobody_trades(open_exchange: Exchange, status: MarketStatus) -> None:
    open_exchange.tell(0, order(SELLER, Side.SELL))
    open_exchange.configure(changed(status=status))
    for shard, account in ((0, BUYER), (1, AccountId(3))):
        assert open_exchange.refusal(shard, order(account, Side.BUY)) is RejectReason.MARKET_CLOSED
    open_exchange.configure(changed(version=3))
    assert isinstance(open_exchange.tell(0, order(BUYER, Side.BUY)), OrderReply)
    assert any(isinstance(event, OrderFilled) for event in open_exchange.events)


def test_an_order_on_its_way_to_a_market_that_was_halted_gets_its_money_back(open_exchange: Exchange) -> None:
    """Its account's shard has not heard of the halt yet."""
    open_exchange.shards[0].configuration.set_market(changed(status=MarketStatus.HALTED))
    assert open_exchange.refusal(1, order(AccountId(3), Side.BUY)) is RejectReason.MARKET_CLOSED
    funds = open_exchange.shards[1].state.accounts[AccountId(3)].funds["USDT"]
    assert (funds.available, funds.held) == (10**13, 0)


def test_what_rests_can_be_canceled_but_in_a_halt(open_exchange: Exchange) -> None:
    for price in (100, 101, 102):
        open_exchange.tell(0, order(SELLER, Side.SELL, price))
    cancel = CancelOrder(0, "", SELLER, "BTCUSDT", OrderId(0), f"{SELLER} {Side.SELL} 100")
    cancel_all = CancelAllOrders(0, "", SELLER, "BTCUSDT")
    open_exchange.configure(changed(status=MarketStatus.HALTED))
    assert open_exchange.refusal(0, cancel) is RejectReason.MARKET_CLOSED
    assert open_exchange.refusal(0, cancel_all) is RejectReason.MARKET_CLOSED
    open_exchange.configure(changed(version=3, status=MarketStatus.CANCEL_ONLY))
    assert isinstance(open_exchange.tell(0, cancel), OrderReply)
    assert isinstance(open_exchange.tell(0, cancel_all), OrdersReply)


def test_narrower_limits_leave_what_rests_where_it_is(open_exchange: Exchange) -> None:
    open_exchange.tell(0, order(SELLER, Side.SELL))
    open_exchange.configure(changed(quantity_max=QuantityLots(10)))
    assert open_exchange.refusal(0, order(BUYER, Side.BUY)) is RejectReason.QUANTITY_OUT_OF_RANGE
    assert open_exchange.shards[0].depth("BTCUSDT").asks == ((100, 1_000_000),)


def test_a_shard_follows_other_windows_from_the_command_on(exchange: Exchange) -> None:
    windows = Windows(request_ms=10)
    assert isinstance(
        exchange.tell(0, ConfigureShard(0, "", ShardConfig(windows=windows, version=2))), Configured
    )
    assert exchange.knows(0).shard == ShardConfig(windows=windows, version=2)
    assert exchange.shards[0].state.requests.window_ms == 10


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ShardConfig(), RejectReason.CONFIG_OUTDATED),
        (ShardConfig(version=3), RejectReason.CONFIG_OUTDATED),
        (ShardConfig(rules=0, version=2), RejectReason.CONFIG_REFUSED),
        (ShardConfig(windows=Windows(request_ms=0), version=2), RejectReason.CONFIG_REFUSED),
    ],
)
def test_what_a_shard_does_not_follow(exchange: Exchange, config: ShardConfig, reason: RejectReason) -> None:
    assert exchange.refusal(0, ConfigureShard(0, "", config)) is reason
    assert exchange.knows(0).shard == ShardConfig()


def test_a_snapshot_brings_the_configuration_along(open_exchange: Exchange) -> None:
    open_exchange.configure(changed(status=MarketStatus.CANCEL_ONLY, maker_fee_ppm=1, open_orders_max=3))
    for shard in open_exchange.shards:
        again, _ = decode_snapshot(encode_snapshot(shard, STREAM_START))
        assert again.state.market_configs == shard.state.market_configs
        assert again.state.config == shard.state.config
        assert again.digest() == shard.digest()
        assert encode_snapshot(again, STREAM_START) == encode_snapshot(shard, STREAM_START)
        assert shard.state.index or again.state.markets["BTCUSDT"].market.open_orders_max == 3


def test_two_shards_that_differ_only_in_their_configuration_are_not_the_same(exchange: Exchange) -> None:
    exchange.configure()
    one, _ = decode_snapshot(encode_snapshot(exchange.shards[0], STREAM_START))
    one.configuration.set_market(changed(taker_fee_ppm=3_000))
    assert one.digest() != exchange.shards[0].digest()
    assert state_hash(one) != state_hash(exchange.shards[0])


def test_the_bytes_of_a_snapshot_do_not_tell_how_the_state_came_about() -> None:
    """Accounts, assets and markets in other orders of arrival; only queues stand in theirs."""
    eth = MarketConfig(msgspec.structs.replace(BTC, symbol="ETHUSDT", base="ETH"), 0)
    snapshots = []
    for configs, accounts in (((LISTED, eth), (BUYER, SELLER)), ((eth, LISTED), (SELLER, BUYER))):
        shard = Shard(0, MarketMap.placed([], 1))
        shard.apply(ConfigureShard(0, "", ShardConfig()), TimeMs(1))
        for config in configs:
            shard.apply(ConfigureMarket(0, "", config), TimeMs(1))
        for account in accounts:
            for asset in ("BTC", "ETH", "USDT")[:: 1 if account == accounts[0] else -1]:
                shard.apply(Deposit(0, "", account, asset, AssetUnits(5), "in " + asset), TimeMs(1))
        shard.take()
        shard.state.checksum = 0  # of the events, which came in another order
        shard.state.transfers = Transfers(1)  # a queue
        snapshots.append(encode_snapshot(shard, STREAM_START))
    assert snapshots[0] == snapshots[1]


def test_a_taker_from_another_shard_is_answered_when_the_market_is_not_open(open_exchange: Exchange) -> None:
    shard = open_exchange.shards[0]
    shard.configuration.set_market(changed(status=MarketStatus.ANNOUNCED))
    taker = MatchOrder(
        OrderId(301), AccountId(3), "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(100),
        QuantityLots(5), AssetUnits(0), False, order(BUYER, Side.BUY).self_trade_prevention,
    )  # fmt: skip
    shard.apply(taker, TimeMs(100))
    ((target, _, message),) = shard.take().outbox
    refused = TakerOutcome(
        OrderId(301), AccountId(3), "BTCUSDT", (), False, False, RejectReason.MARKET_CLOSED
    )
    assert (target, message) == (1, refused)


def test_a_program_does_not_go_on_with_rules_that_it_does_not_know(exchange: Exchange) -> None:
    shard = exchange.shards[0]
    shard.configuration.set_config(ShardConfig(rules=RULES + 1, version=2))
    with pytest.raises(
        SnapshotError, match=f"follows rules {RULES + 1}, this program knows them up to {RULES}"
    ):
        decode_snapshot(encode_snapshot(shard, STREAM_START))


@pytest.mark.parametrize(
    "wrong",
    [
        {"symbol": ""}, {"symbol": "BTC\0USDT"}, {"symbol": "B" * 21}, {"symbol": "btcusdt"}, {"base": "B/C"},
        {"quote": "BTC"},
        {"price_max": 0}, {"price_max": -5}, {"quantity_max": 2**63}, {"tick_size": 2**64 - 1},
        {"maker_fee_ppm": 10**6},
        {"open_orders_max": 0}, {"band_up_ppm": 1},
    ],
)  # fmt: skip
def test_a_market_that_contradicts_itself_is_a_dead_letter(wrong: dict[str, object]) -> None:
    """Whoever writes it: nothing of it is applied, its sender is told, and the shard goes on."""
    fields = {name: getattr(BTC, name) for name in BTC.__struct_fields__} | wrong
    config = [[*fields.values()], 0, int(MarketStatus.TRADING), 1]
    frame = msgspec.msgpack.encode((FORMAT, 1, [[8, 1, "r", config]]))
    shard = Shard(0, MarketMap.placed([], 1))
    shard.apply(ConfigureShard(1, "r", ShardConfig()), TimeMs(1))
    shard.take()
    (dead,) = apply_entry(shard, Entry("in:{0}", StreamId(5), {COMMANDS_FIELD: frame}))
    assert (dead.number, msgspec.msgpack.decode(dead.payload)) == (0, [8, 1, "r", config])
    assert shard.take().replies == [("r", Refused(1, TimeMs(1), RejectReason.NOT_UNDERSTOOD))]
    assert shard.state.market_configs == {}
    right = msgspec.msgpack.encode((FORMAT, 1, [[8, 2, "r", [list(msgspec.structs.astuple(BTC)), 0, 1, 1]]]))
    apply_entry(shard, Entry("in:{0}", StreamId(6), {COMMANDS_FIELD: right}))
    assert shard.state.market_configs == {"BTCUSDT": LISTED}


ETH = MarketConfig(msgspec.structs.replace(BTC, symbol="ETHUSDT", base="ETH"), 1)


@pytest.mark.parametrize("config", [changed(base_scale=5), changed(quote_scale=7)])
def test_the_scale_of_a_listed_asset_never_changes(exchange: Exchange, config: MarketConfig) -> None:
    """A lot of BTC is 0.00001, and a tick for a lot 0.0000001 USDT: five and seven decimals would do."""
    exchange.configure()
    assert exchange.refusal(0, ConfigureMarket(0, "", config)) is RejectReason.CONFIG_REFUSED
    assert exchange.knows(0).markets == (LISTED,)


def test_an_asset_has_one_scale_in_all_markets_that_a_shard_knows(exchange: Exchange) -> None:
    exchange.configure()
    other = changed(ETH, version=1, quote_scale=7)
    assert exchange.refusal(1, ConfigureMarket(0, "", other)) is RejectReason.CONFIG_REFUSED
    assert isinstance(exchange.configure(ETH), Configured)
    assert exchange.shards[0].state.market_map.by_asset.keys() == {"BTC", "USDT", "ETH"}


def test_the_scale_of_an_asset_stays_when_its_markets_are_delisted(exchange: Exchange) -> None:
    """Balances are counted in it."""
    exchange.configure()
    assert isinstance(exchange.configure(changed(status=MarketStatus.DELISTING)), Configured)
    assert exchange.knows(1).markets[0].status is MarketStatus.DELISTED
    other = changed(ETH, version=1, quote_scale=7)
    assert exchange.refusal(1, ConfigureMarket(0, "", other)) is RejectReason.CONFIG_REFUSED


def test_two_shards_that_are_told_other_scales_at_once_never_trade_with_each_other(
    exchange: Exchange,
) -> None:
    """Each counts as its own market says, and knows the other's market not at all.

    Who hears of both later knows the first.
    """
    other = changed(ETH, version=1, quote_scale=7)
    for shard, config in ((0, LISTED), (1, other)):
        exchange.shards[shard].apply(ConfigureMarket(77, "r", config), exchange.shards[shard].state.time)
    mail = [(source, exchange.shards[source].take().outbox) for source in range(2)]
    for _, outbox in mail:
        for target, _, message in outbox:
            exchange.shards[target].apply(message, exchange.shards[target].state.time)
    assert exchange.knows(0).markets == (LISTED,)
    assert exchange.knows(1).markets == (other,)
    third = Shard(2, MarketMap.placed([], 3))
    for config in (other, LISTED):
        third.apply(KnowMarket(config), TimeMs(100))
    assert third.state.market_configs == {"ETHUSDT": other}
    for each in exchange.shards:
        restored, _ = decode_snapshot(encode_snapshot(each, STREAM_START))
        assert state_hash(restored) == state_hash(each)
    assert exchange.refusal(0, order(BUYER, Side.BUY)) is RejectReason.INSUFFICIENT_BALANCE
    assert exchange.refusal(1, order(AccountId(3), Side.BUY)) is RejectReason.UNKNOWN_MARKET


def test_a_supply_counts_from_its_command_on(exchange: Exchange) -> None:
    """1,000 BTC of eight decimals over two shards: each admits 500. Raised, there is room; lowered, no more
    comes in, and all that is there stays."""

    def deposit(name: str, btc: int) -> object:
        return exchange.tell(0, Deposit(0, "", SELLER, "BTC", AssetUnits(btc * 10**8), name))

    exchange.configure(changed(version=1, base_supply=1_000))
    assert not isinstance(deposit("a", 400), Refused)
    assert isinstance(deposit("b", 101), Refused)
    assert not isinstance(deposit("c", 100), Refused)
    exchange.configure(changed(version=2, base_supply=1_002))
    assert isinstance(deposit("d", 2), Refused)
    assert not isinstance(deposit("e", 1), Refused)
    exchange.configure(changed(version=3, base_supply=600))
    assert isinstance(deposit("f", 1), Refused)
    assert exchange.shards[0].state.accounts[SELLER].funds["BTC"].available == 501 * 10**8
    exchange.shards[0].check_invariants()


def test_the_largest_supply_of_the_listed_markets_counts(exchange: Exchange) -> None:
    """They differ for as long as an operator changes one after the other."""
    exchange.configure(changed(version=1, quote_supply=100))
    exchange.configure(changed(ETH, version=1, quote_supply=300))
    for shard in exchange.shards:
        assert shard.state.market_map.supply("USDT") == 300 * 10**8
    delisting = changed(ETH, status=MarketStatus.DELISTED, quote_supply=300)
    exchange.shards[0].configuration.set_market(delisting)
    assert exchange.shards[0].state.market_map.supply("USDT") == 100 * 10**8
    exchange.shards[0].configuration.set_market(changed(status=MarketStatus.DELISTED, quote_supply=100))
    assert exchange.shards[0].state.market_map.supply("USDT") == 300 * 10**8
