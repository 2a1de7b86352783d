"""The markets that events are about, as their shards say it: in the events themselves, and in
`config:{k}`.
"""

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
    """Every market that was ever heard of.

    Any version of its configuration will do: its assets and its grid never change.
    """

    def __init__(self, log: StreamLog, shard_count: int) -> None:
        self._log = log
        self._shard_count = shard_count
        self.by_symbol: dict[str, Market] = {}

    def learn(self, batches: Iterable[EventBatch]) -> bool:
        """Learn what `batches` and the shards say of markets; return whether one of these is new.

        A market that is in neither does not exist: whatever follows on a market's first entry was written
        after its configuration.

        Raises:
            MarketsUnknownError: none is new, but not all shards have said which they have.
        """
        known = len(self.by_symbol)
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
                self.by_symbol |= {each.market.symbol: each.market for each in configuration.markets}
        if len(self.by_symbol) > known:
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
