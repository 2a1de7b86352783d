"""`exchange status --watch`: a view of the running exchange that is brought up to date every second."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Final

import structlog
from rich.live import Live

from cli.console import CommandError, console, print_json
from cli.live import Between, Look, View, Watcher, view_of
from cli.live_view import LiveView, duration
from cli.local.state_file import ProcessStatus, State, read_state
from runtime.settings import PREFIX, Settings

EVERY_S: Final = 1.0
LOOKS: Final = 6
"""So many looks, the newest and those of the last seconds, make a view."""

_log = structlog.get_logger()


def watch(settings: Settings, *, as_json: bool) -> None:
    """Show the views until Ctrl-C.

    Raises:
        CommandError: there is nothing to see.
    """
    state = read_state(settings)
    if state is None:
        raise CommandError("The exchange is not running; `exchange up` starts it.")
    with closing(Watcher(settings)) as watcher:
        if not watcher.has_metrics:
            raise CommandError(
                f"This exchange has no metrics: it was started with {PREFIX}UP_METRICS_PORT=0."
            )
        try:
            if as_json:
                for view, _ in views(settings, watcher):
                    print_json(view)
                return
            with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
                for view, state in views(settings, watcher):
                    live.update(LiveView(view, title(view, state)), refresh=True)
        except KeyboardInterrupt:
            pass
    if read_state(settings) is None:
        raise CommandError("The exchange has stopped.")


def views(settings: Settings, watcher: Watcher) -> Iterator[tuple[View, State]]:
    """Yield a view every second, for as long as the exchange runs."""
    looks: deque[Look] = deque([watcher.look()], LOOKS)
    while (state := read_state(settings)) is not None:
        time.sleep(max(0.0, looks[-1].time_s + EVERY_S - time.monotonic()))
        looks.append(watcher.look())
        yield view_of(Between(looks[0], looks[-1]), state, settings, time.time()), state


def title(view: View, state: State) -> str:
    """Return the first line of the screen: whether all is well, and what is not."""
    troubled = [
        process.name
        for process in view.processes
        if process.state != ProcessStatus.RUNNING or process.ready is False
    ]
    wrong = [
        f"shard {shard.shard}"
        for shard in view.shards
        if shard.halted or shard.leader is None or shard.conserved is False
    ]
    verdict = f"look at {', '.join(wrong + troubled)}" if wrong or troubled else "all is well"
    since = duration(time.time() - state.started)
    return (
        f"Exchange  {datetime.now(UTC):%H:%M:%S} UTC  up {since}  {verdict}  (the last {view.seconds:.0f} s)"
    )
