"""The markets of events, from the events themselves and from `config:{k}`."""

from collections.abc import Iterable

import msgspec
import structlog

from persist.rows import EventBatch
from protocol.codec import LaterFormatError
from protocol.events import MarketConfigured
from protocol.listing import ShardConfiguration, decode_configuration
from protocol.market import Market
from protocol.violations import MarketsUnknownError
from stream_log.interface import StreamLog

_log = structlog.get_logger()


class KnownMarkets:
    """Every market that was ever seen.

    Any version of its configuration suffices: its assets and its grid never change.
    """

    def __init__(self, log: StreamLog, shard_count: int) -> None:
        self._log = log
        self._shard_count = shard_count
        self.by_symbol: dict[str, Market] = {}

    def learn(self, batches: Iterable[EventBatch]) -> bool:
        """Learn markets from `batches` and the shards' configurations; return whether there is a new one.

        A market that is in neither does not exist: everything after a market's first entry was written after
        its configuration.

        Raises:
            MarketsUnknownError: there is no new one, but not all shards have published their configurations.
        """
        count_before = len(self.by_symbol)
        for batch in batches:
            for event in batch.events:
                if isinstance(event, MarketConfigured):
                    self.by_symbol[event.config.market.symbol] = event.config.market
        silent = []
        for shard in range(self._shard_count):
            configuration = self._configuration(shard)
            if configuration is None or configuration.config is None:
                silent.append(shard)
            else:
                self.by_symbol |= {
                    definition.market.symbol: definition.market for definition in configuration.markets
                }
        if len(self.by_symbol) > count_before:
            return True
        if silent:
            names = ", ".join(map(str, silent))
            raise MarketsUnknownError(f"these shards have not said yet which markets they have: {names}")
        return False

    def _configuration(self, shard: int) -> ShardConfiguration | None:
        value = self._log.configuration(shard)
        if value is None:
            return None
        try:
            return decode_configuration(value)
        except (msgspec.MsgspecError, LaterFormatError) as error:
            _log.error("the configuration cannot be read", shard=shard, reason=str(error))
            return None
