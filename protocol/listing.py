"""The markets of the exchange: what a leader writes to `config:{k}`, and what all these keys list.

Code that converts, routes or displays a market reads it here, never from settings. A leader writes its
configuration before it reads the next input after a change. Every event about a market therefore finds it
there, except for events of the market's very first batch (docs/decisions/0024-configuration-is-commands.md).
"""

from collections.abc import Mapping
from typing import Final, Self

import msgspec

from protocol.codec import OLDEST_FORMAT, LaterFormatError, encode_as
from protocol.configuration import MarketConfig, MarketStatus, ShardConfig
from protocol.decoding import msgpack_decoder
from protocol.market import Market, MarketMap
from protocol.units import TimeMs

FORMAT: Final = 1


class ShardConfiguration(msgspec.Struct, frozen=True, array_like=True):
    """The contents of `config:{k}`.

    `config` is None, and there is no market, until the shard is configured.
    """

    stream_id: str
    """The shard's position when the configuration was written.

    The configuration is that of this entry, or of a later one that did not change it.
    """
    config: ShardConfig | None
    markets: tuple[MarketConfig, ...]
    """The markets that the shard matches, including delisted ones."""


class _Numbered(msgspec.Struct, array_like=True):
    number: int


class _Value(msgspec.Struct, array_like=True):
    number: int
    configuration: ShardConfiguration


_decode_number = msgpack_decoder(_Numbered)
_decode_value = msgpack_decoder(_Value)


def encode_configuration(configuration: ShardConfiguration) -> bytes:
    """Return the value of `config:{k}`, with the fields of the structs in the format of the shard's log."""
    config = configuration.config
    return encode_as(config.format if config is not None else OLDEST_FORMAT, (FORMAT, configuration))


def decode_configuration(value: bytes) -> ShardConfiguration:
    """Return the configuration in the value of `config:{k}`.

    Raises:
        msgspec.MsgspecError: it is not a configuration.
        LaterFormatError: a later release wrote it.
    """
    number = _decode_number(value).number
    if number > FORMAT:
        raise LaterFormatError(number)
    return _decode_value(value).configuration


class Listing(msgspec.Struct, frozen=True):
    """The markets of the exchange by symbol, as far as their shards have written their configurations."""

    known: MarketMap
    """Every market that exists or has existed; it converts the numbers of historical data."""
    listed: MarketMap
    """The markets that are not delisted."""
    statuses: dict[str, MarketStatus]
    maintenance_from: TimeMs = TimeMs(0)
    """The time from which some shard accepts only cancels; 0: no maintenance."""
    format: int = OLDEST_FORMAT
    """The format that every shard has been switched to, so that all their workers read it."""
    kinds: int = 1
    """The level of kinds that every shard has been switched to; not every shard understands a later one."""
    open_orders_max: int = 0
    """The smallest maximum, over the shards, of one account's open orders in all markets together.

    0: no shard has a maximum.
    """

    @classmethod
    def of(cls, configurations: Mapping[int, ShardConfiguration], shard_count: int) -> Self:
        """Return the markets that the shards list.

        Shards that are missing in `configurations`, or not configured yet, are `unknown_shards`.

        Raises:
            MarketError: a shard count outside 1 to SHARD_COUNT_MAX.
        """
        found: dict[str, tuple[Market, int, MarketConfig]] = {}
        for shard in range(shard_count):
            configuration = configurations.get(shard)
            for each in configuration.markets if configuration is not None else ():
                rival = found.get(each.market.symbol)
                if rival is None or rival[2].version < each.version:
                    found[each.market.symbol] = (each.market, shard, each)
        unknown = tuple(
            shard
            for shard in range(shard_count)
            if shard not in configurations or configurations[shard].config is None
        )
        rows = [found[symbol] for symbol in sorted(found)]
        known = [(market, shard) for market, shard, _ in rows]
        listed = [
            (market, shard) for market, shard, config in rows if config.status is not MarketStatus.DELISTED
        ]
        configs = [each.config for each in configurations.values() if each.config is not None]
        # Every shard has the same table of accounts, which never changes yet.
        slots = next((config.slots for config in configs), b"")
        return cls(
            MarketMap.placed(known, shard_count, slots, unknown),
            MarketMap.placed(listed, shard_count, slots, unknown),
            {config.market.symbol: config.status for _, _, config in rows},
            min(
                (config.maintenance_from for config in configs if config.maintenance_from), default=TimeMs(0)
            ),
            OLDEST_FORMAT if unknown else min(config.format for config in configs),
            1 if unknown else min(config.kinds for config in configs),
            min((config.open_orders_max for config in configs if config.open_orders_max), default=0),
        )

    @property
    def unknown_shards(self) -> tuple[int, ...]:
        """The shards whose markets are unknown."""
        return self.known.unknown_shards
