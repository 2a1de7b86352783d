"""The feeds' read models in Redis, for the functions."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
import redis.asyncio
import structlog

from adapters.outages import redis_outages
from adapters.pipelined import pipelined
from protocol import streams
from protocol.decoding import msgpack_decoder
from protocol.depth import DIFFS_AFTER_BASE_MAX, book_after, diffs_after
from protocol.events import TradeExecuted
from protocol.listing import Listing
from protocol.market_data import BookTicker, DepthDiff, DepthSnapshot, Ticker

T = TypeVar("T")

_depth: Final = msgpack_decoder(DepthSnapshot)
_diff: Final = msgpack_decoder(DepthDiff)
_book_ticker: Final = msgpack_decoder(BookTicker)
_ticker: Final = msgpack_decoder(Ticker)
_trade: Final = msgpack_decoder(TradeExecuted)

_log = structlog.get_logger()


class RedisReadModels:
    """Implements `functions.api.ports.ReadModels`. An undecodable value counts as missing."""

    def __init__(self, client: redis.asyncio.Redis, listing: Callable[[], Listing]) -> None:
        self._client = client
        self._listing = listing

    def _shard_of(self, symbol: str) -> int:
        return self._listing().known.shard_of_market(symbol)

    async def depth(self, symbol: str, limit: int) -> DepthSnapshot | None:
        """Return the best `limit` levels of each side, 5,000 at most, after the last batch of the feeds."""
        shard = self._shard_of(symbol)
        key, diffs_key = streams.depth(shard, symbol), streams.depth_diffs(shard, symbol)
        base: DepthSnapshot | None = None
        # Usually the newest diffs suffice to reach the base; all of them are read only if they do not.
        for last in (DIFFS_AFTER_BASE_MAX - 1, -1):
            with redis_outages():
                commands: list[tuple[str | int, ...]] = [("GET", key), ("LRANGE", diffs_key, 0, last)]
                value, newest = await pipelined(self._client, commands, at_once=True)
            base = _understood(_depth, key, value)
            if base is None:
                return None
            try:
                diffs = diffs_after(base.sequence, map(_diff, newest))
            except msgspec.MsgspecError as error:
                _log.warning("read model not understood", key=diffs_key, error=str(error))
                break
            if diffs is not None:
                return book_after(base, diffs, limit)
        # Consistent, but slightly out of date.
        _log.warning("diffs of the depth are missing", market=symbol)
        return book_after(base, (), limit) if base is not None else None

    async def book_tickers(self, symbols: Sequence[str]) -> list[BookTicker | None]:
        """Return best bid and ask of each market."""
        return await self._values(
            _book_ticker, [streams.book_ticker(self._shard_of(it), it) for it in symbols]
        )

    async def tickers(self, symbols: Sequence[str]) -> list[Ticker | None]:
        """Return the 24 h ticker of each market."""
        return await self._values(_ticker, [streams.ticker(self._shard_of(it), it) for it in symbols])

    async def trades(self, symbol: str, limit: int) -> list[TradeExecuted]:
        """Return the newest trades, oldest first."""
        key = streams.trades(self._shard_of(symbol), symbol)
        with redis_outages():
            values = await self._client.lrange(key, 0, limit - 1)
        trades = [_understood(_trade, key, value) for value in reversed(values)]
        return [trade for trade in trades if trade is not None]

    async def _values(self, decode: Callable[[bytes], T], keys: Sequence[str]) -> list[T | None]:
        if len(keys) == 1:
            with redis_outages():
                return [_understood(decode, keys[0], await self._client.get(keys[0]))]
        # Not MGET: the keys of several shards may be on several nodes of a cluster.
        with redis_outages():
            values = await pipelined(self._client, [("GET", key) for key in keys])
        return [_understood(decode, key, value) for key, value in zip(keys, values, strict=True)]


def _understood(decode: Callable[[bytes], T], key: str, value: bytes | str | None) -> T | None:
    if not isinstance(value, bytes):
        return None
    try:
        return decode(value)
    except msgspec.MsgspecError as error:
        _log.warning("read model not understood", key=key, error=str(error))
        return None
