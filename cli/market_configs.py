"""The markets' configurations, those that the settings ask for, and the commands that change the former."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import redis

from cli.inquiries import ask, connect
from cli.listed_markets import listing_of
from cli.operating import tell
from protocol.commands import ConfigureMarket
from protocol.configuration import MarketConfig, MarketStatus, Role
from protocol.market import Asset, Market, MarketMap, assets_of
from protocol.replies import ConfigQuery, ConfigReply
from runtime.settings import Settings

_FIXED = ("base", "quote", "tick_size", "lot_size", "base_scale", "quote_scale")
_DERIVED = ("quote_per_tick_lot", "base_per_lot")


class Change(NamedTuple):
    """A market whose configuration is to change, or which is to be listed."""

    config: MarketConfig
    differences: tuple[tuple[str, object, object], ...]
    """(field, now, then); empty: it is listed."""
    contradiction: str = ""
    """How a new market contradicts the known ones, in a sentence; empty: it does not."""

    @property
    def is_possible(self) -> bool:
        """Whether a shard would accept it: a listed market's grid and an asset's scale never change."""
        return not self.contradiction and not any(name in _FIXED for name, _, _ in self.differences)


def known_configs(client: redis.Redis, shards: Sequence[int]) -> dict[int, ConfigReply]:
    """Return each shard's configuration; shards that do not answer are missing."""
    return {
        shard: reply
        for shard, reply in ask(client, shards, ConfigQuery).items()
        if isinstance(reply, ConfigReply)
    }


def all_know_all(replies: Mapping[int, ConfigReply], shards: Sequence[int]) -> bool:
    """Return whether every shard is configured, and they know the same markets."""
    symbols = [
        {config.market.symbol for config in replies[shard].markets} for shard in shards if shard in replies
    ]
    configured = all(shard in replies and replies[shard].shard is not None for shard in shards)
    return configured and bool(symbols[0]) and all(market_symbols == symbols[0] for market_symbols in symbols)


def by_symbol(replies: Iterable[ConfigReply]) -> dict[str, MarketConfig]:
    """Return each market as its own shard has it, which is the newest version."""
    configs: dict[str, MarketConfig] = {}
    for reply in replies:
        for config in reply.markets:
            have = configs.get(config.market.symbol)
            if have is None or have.version < config.version:
                configs[config.market.symbol] = config
    return configs


def plan(
    configs: Mapping[str, MarketConfig], wanted: MarketMap, status: MarketStatus = MarketStatus.TRADING
) -> list[Change]:
    """Return the changes after which every wanted market has its configuration.

    New ones begin with `status`.

    Markets that are not wanted are unchanged.
    """
    changes = []
    assets = assets_of(config.market for config in configs.values())
    for market in wanted.markets:
        now = configs.get(market.symbol)
        if now is None:
            config = MarketConfig(market, wanted.shard_of_market(market.symbol), status)
            changes.append(Change(config, (), _contradiction(market, assets)))
            continue
        differences = tuple(
            (name, getattr(now.market, name), getattr(market, name))
            for name in market.__struct_fields__
            if name not in _DERIVED and getattr(now.market, name) != getattr(market, name)
        )
        if differences:
            changes.append(
                Change(msgspec.structs.replace(now, market=market, version=now.version + 1), differences)
            )
    return changes


def _contradiction(market: Market, assets: Mapping[str, Asset]) -> str:
    for asset in market.assets:
        have = assets.get(asset.symbol, asset)
        if have.scale != asset.scale:
            return (
                f"{asset.symbol} has {have.scale} decimals in the markets that are listed, and would have "
                f"{asset.scale} in this one; declare scale = {have.scale} for it under [[assets]]"
            )
    return ""


def with_status(config: MarketConfig, status: MarketStatus) -> MarketConfig:
    """Return the next version of a market's configuration, with another status."""
    return msgspec.structs.replace(config, status=status, version=config.version + 1)


def apply(client: redis.Redis, settings: Settings, config: MarketConfig) -> None:
    """Let the market's shard configure it so, and wait until it has.

    Raises:
        OperatingError: it refused, or did not answer.
    """

    def command(request_id: int, reply_to: str) -> ConfigureMarket:
        return ConfigureMarket(request_id, reply_to, config)

    purpose, number = f"configure {config.market.symbol} so", listing_of(settings).format
    tell(client, settings, config.shard, Role.OPERATOR, command, purpose, number)


def markets_are_known(settings: Settings) -> bool:
    """Return whether every shard is configured, and knows all markets."""
    shards = range(settings.shard_count)
    try:
        with connect(settings) as client:
            return all_know_all(known_configs(client, shards), shards)
    except redis.RedisError:
        return False
