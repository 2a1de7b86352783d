"""The rows of usual events as data of COPY, from the extension persist/fast where it is built."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from persist.rows import Row
from protocol.codec import encode_frame
from protocol.decoding import msgpack_decoder
from protocol.events import TradeExecuted
from protocol.market import Market
from protocol.streams import EVENTS_FIELD
from runtime.extensions import PERSIST_ROWS, built
from stream_log.interface import Entry

if TYPE_CHECKING:
    from persist.fast import _rows
else:
    _rows = built(PERSIST_ROWS)

is_built: Final = _rows is not None
"""Whether this process has the extension."""

_decode_trades = msgpack_decoder(list[TradeExecuted])


class CompiledRows(msgspec.Struct):
    """As `persist.rows.Rows`, with the data of COPY in place of rows; an empty one has no rows."""

    trades: list[tuple[TradeExecuted, int]]
    """With the trade's quote units."""
    trade_data: bytes
    fills: bytes
    ledger_entries: bytes
    order_data: bytes
    event_count: int
    transfers: Sequence[Row] = ()
    prevented_matches: Sequence[Row] = ()

    @property
    def orders(self) -> bool:
        """Whether there are any."""
        return bool(self.order_data)

    def trade_rows(self) -> bytes:
        """Return the rows of `TRADES`."""
        return self.trade_data

    def order_rows(self) -> bytes:
        """Return the rows of `ORDERS`."""
        return self.order_data


class RowCompiler:
    """Makes the rows of one shard's events."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._markets: tuple[int, _rows.Markets] | None = None

    def rows_of(self, entries: Iterable[Entry], markets: Mapping[str, Market]) -> CompiledRows | None:
        """Return the rows of entries; None if there is no extension, or not everything in them is usual.

        `markets` may get more between two calls; those that it has do not change.
        """
        if not is_built:
            return None
        frames = [(str(entry.stream_id).encode(), entry.fields.get(EVENTS_FIELD, b"")) for entry in entries]
        made = _rows.copies(self._shard, frames, self._table(markets))
        if made is None:
            return None
        trade_data, fills, ledger_entries, orders, events, order_count, fill_count, event_count = made
        try:
            trades = _decode_trades(encode_frame([msgspec.Raw(event) for event in events]))
        except msgspec.MsgspecError:
            return None
        return CompiledRows(
            [(trade, markets[trade.market].notional(trade.price, trade.quantity)) for trade in trades],
            trade_data if trades else b"",
            fills if fill_count else b"",
            ledger_entries if fill_count else b"",
            orders if order_count else b"",
            event_count,
        )

    def _table(self, markets: Mapping[str, Market]) -> "_rows.Markets":
        if self._markets is None or self._markets[0] != len(markets):
            table = _rows.Markets(
                (market.symbol, market.base, market.quote, market.quote_per_tick_lot, market.base_per_lot)
                for market in markets.values()
            )
            self._markets = len(markets), table
        return self._markets[1]
