"""The markets of the shards, for commands; those of the settings where a shard has no configuration."""

from collections.abc import Mapping
from contextlib import closing

import msgspec
import redis

from cli.inquiries import connect_log
from protocol.codec import LaterFormatError
from protocol.configuration import MarketConfig, ShardConfig
from protocol.listing import Listing, ShardConfiguration, decode_configuration
from protocol.stream_id import STREAM_START
from runtime.settings import Settings, SettingsError
from stream_log.interface import StreamLog


def listing_of(settings: Settings) -> Listing:
    """Return the markets of the exchange that the settings name, whether it runs or not."""
    try:
        with closing(connect_log(settings)) as log:
            return read_listing(log, settings)
    except (redis.RedisError, SettingsError):
        return _listing({}, settings)


def read_listing(log: StreamLog, settings: Settings) -> Listing:
    """Return the markets of the exchange on `log`; those of the settings for shards that have none there."""
    read: dict[int, ShardConfiguration] = {}
    for shard in range(settings.shard_count):
        value = log.configuration(shard)
        try:
            configuration = decode_configuration(value) if value is not None else None
        except (msgspec.MsgspecError, LaterFormatError):
            configuration = None
        if configuration is not None and configuration.config is not None:
            read[shard] = configuration
    return _listing(read, settings)


def _listing(read: Mapping[int, ShardConfiguration], settings: Settings) -> Listing:
    market_map = settings.market_map()
    wanted = {
        shard: ShardConfiguration(
            str(STREAM_START),
            ShardConfig(),
            tuple(MarketConfig(market, shard) for market in market_map.markets_of_shard(shard)),
        )
        for shard in range(settings.shard_count)
    }
    return Listing.of({**wanted, **read}, settings.shard_count)
