"""What the leader of a shard tells it that nobody has configured yet."""

from protocol.commands import ConfigCommand, ConfigureMarket, ConfigureShard
from protocol.configuration import MarketConfig, ShardConfig
from protocol.market import MarketMap
from protocol.windows import DEFAULT_WINDOWS, Windows


def first_configuration(shard: int, market_map: MarketMap, windows: Windows = DEFAULT_WINDOWS) -> list[ConfigCommand]:
    """Return the commands that configure a new shard and list its markets. A shard that is configured already refuses them all."""
    markets = market_map.markets_of_shard(shard)
    return [
        ConfigureShard(0, "", ShardConfig(windows=windows)),
        *(ConfigureMarket(0, "", MarketConfig(market, shard)) for market in markets),
    ]
