"""What `exchange markets plan` finds: the difference between how markets are configured and what the settings
want."""

import msgspec

from cli.market_configs import all_know_all, by_symbol, plan, with_status
from protocol.configuration import MarketConfig, MarketStatus, ShardConfig
from protocol.market import MarketMap
from protocol.replies import ConfigReply
from protocol.units import AssetUnits, TimeMs
from runtime.settings import Settings

WANTED = Settings(shard_count=2).market_map()
CONFIGS = {
    market.symbol: MarketConfig(market, WANTED.shard_of_market(market.symbol), version=3)
    for market in WANTED.markets
}
FIRST = WANTED.markets[0]


def changed(**fields: object) -> dict[str, MarketConfig]:
    """The configurations, with another one of the first market."""
    market = msgspec.structs.replace(FIRST, **fields)
    return CONFIGS | {FIRST.symbol: MarketConfig(market, 0, version=3)}


def test_nothing_is_to_be_done_when_all_is_as_it_should_be() -> None:
    assert plan(CONFIGS, WANTED) == []


def test_a_fee_and_a_limit_are_changed() -> None:
    (change,) = plan(changed(taker_fee_ppm=FIRST.taker_fee_ppm + 5, open_orders_max=7), WANTED)
    assert change.config == MarketConfig(FIRST, 0, version=4)
    assert sorted(change.differences) == [
        ("open_orders_max", 7, FIRST.open_orders_max),
        ("taker_fee_ppm", FIRST.taker_fee_ppm + 5, FIRST.taker_fee_ppm),
    ]
    assert change.is_possible


def test_another_grid_is_impossible() -> None:
    (change,) = plan(changed(tick_size=AssetUnits(FIRST.tick_size // 10)), WANTED)
    assert not change.is_possible


def test_a_market_that_is_not_there_is_listed_where_the_settings_say() -> None:
    configs = {symbol: config for symbol, config in CONFIGS.items() if symbol != FIRST.symbol}
    (change,) = plan(configs, WANTED)
    assert (change.config, change.differences, change.is_possible) == (MarketConfig(FIRST, 0), (), True)


def test_what_the_settings_do_not_name_stays() -> None:
    assert plan(CONFIGS, MarketMap.of(WANTED.markets[:1], 2)) == []


def test_a_halted_market_stays_halted_when_its_fee_changes() -> None:
    halted = with_status(CONFIGS[FIRST.symbol], MarketStatus.HALTED)
    other = msgspec.structs.replace(halted, market=msgspec.structs.replace(FIRST, maker_fee_ppm=1))
    (change,) = plan(CONFIGS | {FIRST.symbol: other}, WANTED)
    assert (change.config.status, change.config.version) == (MarketStatus.HALTED, 5)


def reply(*configs: MarketConfig, shard: ShardConfig | None = ShardConfig()) -> ConfigReply:  # noqa: B008 - it is frozen
    return ConfigReply(1, TimeMs(1), shard, configs)


def test_the_newest_version_that_any_shard_knows_counts() -> None:
    old = CONFIGS[FIRST.symbol]
    new = with_status(old, MarketStatus.CANCEL_ONLY)
    assert by_symbol([reply(old), reply(new), reply(old)]) == {FIRST.symbol: new}


def test_an_exchange_is_ready_when_all_shards_know_all_markets() -> None:
    one, two = (CONFIGS[market.symbol] for market in WANTED.markets[:2])
    assert all_know_all({0: reply(one, two), 1: reply(one, two)}, [0, 1])
    assert not all_know_all({0: reply(one, two), 1: reply(one)}, [0, 1])
    assert not all_know_all({0: reply(one, two)}, [0, 1])
    assert not all_know_all({0: reply(), 1: reply()}, [0, 1])
    assert not all_know_all({0: reply(one, two), 1: reply(one, two, shard=None)}, [0, 1])


def test_another_scale_is_impossible_and_another_supply_is_not() -> None:
    (change,) = plan(changed(base_scale=5), WANTED)
    assert not change.is_possible
    assert change.differences == (("base_scale", 5, 8),)
    (change,) = plan(changed(base_supply=21_000_000), WANTED)
    assert change.is_possible
    assert change.differences == (("base_supply", 21_000_000, 0),)


def test_a_new_market_may_not_contradict_what_any_shard_has() -> None:
    """USDT has eight decimals in the markets that are listed; those of another shard count as well."""
    new = msgspec.structs.replace(FIRST, symbol="BNBUSDT", base="BNB", quote_scale=7)
    configs = {FIRST.symbol: CONFIGS[FIRST.symbol]}
    (change,) = plan(configs, MarketMap.of([new], 2))
    assert not change.is_possible
    assert change.contradiction == (
        "USDT has 8 decimals in the markets that are listed, and would have 7 in this one; declare scale = 8 "
        "for it under [[assets]]"
    )
    (change,) = plan(configs, MarketMap.of([msgspec.structs.replace(new, quote_scale=8)], 2))
    assert change.is_possible
