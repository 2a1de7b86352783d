"""The commands with which the leader configures a new shard."""

from typing import Final

import msgspec

from protocol.commands import ConfigCommand, ConfigureMarket, ConfigureShard
from protocol.configuration import IN_FLIGHT_MAX, OPEN_ORDERS_MAX, MarketConfig, ShardConfig
from protocol.market import MarketMap
from protocol.release import this_release

DEFAULT_CONFIG: Final = ShardConfig(open_orders_max=OPEN_ORDERS_MAX, in_flight_max=IN_FLIGHT_MAX)


def first_configuration(
    shard: int, market_map: MarketMap, config: ShardConfig = DEFAULT_CONFIG
) -> list[ConfigCommand]:
    """Return the commands that configure a new shard and list its markets.

    A shard that is already configured refuses all of them.

    A new shard begins with its program's newest format, kinds and rules.
    """
    newest = this_release()._asdict()
    markets = market_map.markets_of_shard(shard)
    return [
        ConfigureShard(0, "", msgspec.structs.replace(config, slots=market_map.slots, **newest)),
        *(ConfigureMarket(0, "", MarketConfig(market, shard)) for market in markets),
    ]
