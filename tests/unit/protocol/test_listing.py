"""What the shards say of their markets, read back and put together."""

import msgspec
import pytest

from protocol.codec import LaterFormatError, encode_frame
from protocol.configuration import MarketConfig, MarketStatus, ShardConfig
from protocol.listing import FORMAT, Listing, ShardConfiguration, decode_configuration, encode_configuration
from protocol.market import Market
from runtime.settings import Settings

BTC, ETH, SOL = Settings().market_map().markets


def shard(*configs: MarketConfig) -> ShardConfiguration:
    return ShardConfiguration("7-1", ShardConfig(), configs)


def listed(
    market: Market, on: int = 0, status: MarketStatus = MarketStatus.TRADING, version: int = 1
) -> MarketConfig:
    return MarketConfig(market, on, status, version)


def test_what_is_written_is_read() -> None:
    for each in (
        shard(listed(BTC), listed(ETH, 0, MarketStatus.DELISTED, 3)),
        ShardConfiguration("0-0", None, ()),
    ):
        assert decode_configuration(encode_configuration(each)) == each


@pytest.mark.parametrize("value", [b"", b"\xc1", encode_frame((FORMAT, "x")), encode_frame([])])
def test_what_is_no_configuration_is_refused(value: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_configuration(value)


def test_what_a_later_release_wrote_is_not_guessed_at() -> None:
    with pytest.raises(LaterFormatError):
        decode_configuration(encode_frame((FORMAT + 1, "something else")))


def test_markets_are_listed_by_symbol_on_the_shard_that_says_it_has_them() -> None:
    listing = Listing.of({0: shard(listed(SOL), listed(BTC)), 1: shard(listed(ETH, 1))}, 2)
    assert [market.symbol for market in listing.listed.markets] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert listing.listed.shards == {"BTCUSDT": 0, "ETHUSDT": 1, "SOLUSDT": 0}
    assert listing.unknown_shards == ()


def test_the_shard_that_allows_the_fewest_open_orders_is_told_of() -> None:
    def allows(*numbers: int) -> int:
        configs = [ShardConfiguration("7-1", ShardConfig(open_orders_max=most), ()) for most in numbers]
        return Listing.of(dict(enumerate(configs)), len(configs)).open_orders_max

    assert [allows(1_000, 900), allows(0, 1_000), allows(0, 0)] == [900, 1_000, 0]


def test_a_delisted_market_is_known_and_not_listed() -> None:
    listing = Listing.of(
        {0: shard(listed(BTC, 0, MarketStatus.DELISTED), listed(ETH, 0, MarketStatus.DELISTING))}, 1
    )
    assert listing.listed.by_symbol == {"ETHUSDT": ETH}
    assert listing.known.by_symbol == {"BTCUSDT": BTC, "ETHUSDT": ETH}
    assert listing.statuses == {"BTCUSDT": MarketStatus.DELISTED, "ETHUSDT": MarketStatus.DELISTING}


def test_shards_that_have_not_said_anything_are_named() -> None:
    assert Listing.of({}, 3).unknown_shards == (0, 1, 2)
    unconfigured = ShardConfiguration("0-0", None, ())
    listing = Listing.of({0: shard(listed(BTC)), 1: unconfigured}, 3)
    assert (listing.unknown_shards, listing.listed.unknown_shards) == ((1, 2), (1, 2))
    assert listing.listed.by_symbol == {"BTCUSDT": BTC}
