"""The layout of `exchange status --watch`: for 80 columns, with less on narrower terminals."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from cli.console import plain_table
from cli.live import Latency, MarketView, ProcessView, ShardView, View

_WAITING_S_MAX: Final = 1.0
_LAG_S_MAX: Final = 5.0
_GAP: Final = 2
"""Between two columns."""
_GOOD, _BAD, _DIM = "green", "bold red", "dim"
_MISSING: Final = Text("–", _DIM)


_NAMES: Final = ("leader", "state")
"""Columns of words."""


class _Column(NamedTuple):
    """A column; the larger its `rank`, the earlier it goes when there is no room."""

    title: str
    rank: int
    cell: Callable[[Any], Text | str]


def number(value: float | None) -> Text | str:
    """Return a number as short as it may be: 0.4, 12, 1,234, 56.7k."""
    if value is None:
        return _MISSING
    if value >= 100_000:
        return f"{value / 1_000_000:.2f}M" if value >= 1_000_000 else f"{value / 1_000:.1f}k"
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def duration(seconds: float | None, bad: float = float("inf")) -> Text | str:
    """Return a time as short as it may be; red from `bad` on."""
    if seconds is None:
        return _MISSING
    if 0 < seconds < 0.00095:
        text = f"{seconds * 1_000_000:.0f} µs"
    elif seconds < 0.0995:
        text = f"{seconds * 1_000:.1f} ms" if 0 < seconds < 0.00995 else f"{seconds * 1_000:.0f} ms"
    elif seconds < 99.5:
        text = f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    else:
        text = f"{seconds / 60:.0f} min" if seconds < 5_970 else f"{seconds / 3_600:.1f} h"
    return Text(text, _BAD) if seconds >= bad else text


def yes(value: bool | None, good: str, bad: str) -> Text:
    """Return `good` or `bad` in its color; a dash if it is unknown."""
    return _MISSING if value is None else Text(good, _GOOD) if value else Text(bad, _BAD)


_SHARD: Final = (
    _Column("shard", 0, lambda shard: str(shard.shard)),
    _Column("leader", 2, lambda shard: _leader(shard)),
    _Column("epoch", 7, lambda shard: number(shard.epoch)),
    _Column("stby", 6, lambda shard: number(shard.standbys)),
    _Column("waits", 1, lambda shard: duration(shard.waiting_s, _WAITING_S_MAX)),
    _Column("cmd/s", 3, lambda shard: number(shard.commands_rate)),
    _Column("resting", 9, lambda shard: number(shard.resting)),
    _Column("money", 1, lambda shard: yes(shard.conserved, "ok", "WRONG")),
    _Column("snap", 5, lambda shard: duration(shard.snapshot_age_s)),
    _Column("feeds", 4, lambda shard: duration(shard.feeds_lag_s, _LAG_S_MAX)),
    _Column("ingest", 4, lambda shard: duration(shard.ingest_lag_s, _LAG_S_MAX)),
    _Column("archive", 8, lambda shard: duration(shard.archive_lag_s, 12 * _LAG_S_MAX)),
    _Column("dead", 10, lambda shard: _alarm(shard.dead_letters)),
)
_MARKET: Final = (
    _Column("market", 0, lambda market: market.market),
    _Column("trades/s", 0, lambda market: number(market.trades_rate)),
    _Column("resting", 1, lambda market: number(market.resting)),
    _Column("quotes", 2, lambda market: number(market.quotes)),
    _Column(
        "spread", 1, lambda market: _MISSING if market.spread_ratio is None else f"{market.spread_ratio:.3%}"
    ),
)
_PROCESS: Final = (
    _Column("process", 0, lambda process: process.name),
    _Column("state", 0, lambda process: Text(process.state, _GOOD if process.state == "running" else _BAD)),
    _Column("ready", 1, lambda process: yes(process.ready, "yes", "NO")),
    _Column("pid", 4, lambda process: number_of(process.pid)),
    _Column("restarts", 2, lambda process: _alarm(process.restarts)),
    _Column("cpu", 2, lambda process: _MISSING if process.cpu is None else f"{process.cpu:.0%}"),
    _Column(
        "memory",
        3,
        lambda process: _MISSING if process.memory_bytes is None else f"{process.memory_bytes >> 20} MB",
    ),
)


def number_of(value: int | None) -> Text | str:
    """Return a count or a number without abbreviation; a dash if it is unknown."""
    return _MISSING if value is None else str(value)


def _alarm(count: int | None) -> Text | str:
    return Text(number_of(count).__str__(), _BAD) if count else number_of(count)


def _leader(shard: ShardView) -> Text | str:
    if shard.halted:
        return Text("HALTED", _BAD)
    return shard.leader or Text("NOBODY", _BAD)


class LiveView:
    """Draws a view with as many columns as the terminal is wide."""

    def __init__(self, view: View, title: str) -> None:
        self._view = view
        self._title = title

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield what fits."""
        view, width = self._view, options.max_width
        yield Text(self._title, "bold", overflow="ellipsis", no_wrap=True)
        yield _words(width, _flow(view))
        yield _words(width, _stages(view.stages))
        yield Text()
        yield _table(width, _SHARD, view.shards)
        yield Text()
        yield _table(width, _MARKET, view.markets)
        yield Text()
        yield _words(width, _edge(view))
        if view.maker_waits:
            yield Text(f"The market maker is paused: {', '.join(view.maker_waits)}", _BAD)
        yield Text()
        yield _table(width, _PROCESS, view.processes)


def _flow(view: View) -> list[tuple[str, Text | str]]:
    p50_s, p99_s = (view.latency.p50_s, view.latency.p99_s) if view.latency else (None, None)
    return [
        ("orders/s", number(view.orders_rate)),
        ("refused/s", number(view.refused_rate)),
        ("trades/s", number(view.trades_rate)),
        ("req/s", number(view.requests_rate)),
        ("5xx/s", Text(str(number(view.failed_rate)), _BAD) if view.failed_rate else "0"),
        ("order p50", duration(p50_s)),
        ("p99", duration(p99_s)),
    ]


def _stages(stages: dict[str, Latency | None]) -> list[tuple[str, Text | str]]:
    return [("p99 of", "")] + [
        (name, duration(latency.p99_s if latency else None)) for name, latency in stages.items()
    ]


def _edge(view: View) -> list[tuple[str, Text | str]]:
    edge = view.edge
    return [
        ("edge: connections", number(edge.connections)),
        ("subscriptions", number(edge.subscriptions)),
        ("messages/s", number(edge.messages_rate)),
        ("conflated/s", number(edge.conflated_rate)),
        ("slow closed", number(edge.slow_closed)),
    ]


def _words(width: int, pairs: Sequence[tuple[str, Text | str]]) -> Group:
    """Return names and values in a line, or several where there is no room."""
    lines, line = list[Text](), Text()
    for name, value in pairs:
        pair = Text(name, _DIM)
        if value:
            pair.append(" ").append_text(value if isinstance(value, Text) else Text(value, "default"))
        if line and line.cell_len + 2 + pair.cell_len > width:
            lines.append(line)
            line = Text("  ")
        line.append_text(Text("  ") if line.plain.strip() else Text()).append_text(pair)
    return Group(*lines, line)


def _table(
    width: int, columns: Sequence[_Column], rows: Sequence[ShardView | MarketView | ProcessView]
) -> Table:
    cells = [[_text(column.cell(row)) for row in rows] for column in columns]
    widths = [
        max(len(column.title), *(cell.cell_len for cell in own), 0)
        for column, own in zip(columns, cells, strict=True)
    ]
    shown = sorted(range(len(columns)), key=lambda index: (columns[index].rank, index))
    while len(shown) > 1 and sum(widths[index] + _GAP for index in shown) - _GAP > width:
        shown.pop()
    shown.sort()
    table = plain_table(*(columns[index].title for index in shown))
    for column in table.columns:
        if column.header in _NAMES:
            column.justify = "left"
    for number_of_row in range(len(rows)):
        table.add_row(*(cells[index][number_of_row] for index in shown))
    return table


def _text(cell: Text | str) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)
