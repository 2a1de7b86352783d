"""The one fault that is not survived: a stream comes back from a restart without its end. It must be noticed.

Only such losses are tried that leave something behind which knows of what is gone: a position beyond the end
of the input (then the worker must refuse to start), or a mark of the feeds beyond the end of the events (then
the feeds must). Nor are losses tried while Redis's clock is behind the log: the next entry would get the id
of a lost one, and if neither changes anything nobody can tell them apart.
"""

from typing import TYPE_CHECKING

from engine_worker.core.snapshot import SnapshotError, decode_snapshot
from lab.simulation.schedule import Dice
from protocol import streams
from protocol.stream_id import STREAM_START, StreamId

if TYPE_CHECKING:
    from lab.simulation.run import Simulation


class Tail:
    """Cuts off the end of a shard's input or of its events, and ends everyone who remembers it."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self.lost = ""
        """What was lost, in words; empty: nothing yet."""

    def lose(self, shard: int, dice: Dice) -> None:
        """Lose the newest entries of a stream, and restart all processes, as a restart of Redis makes them.

        If that matters.
        """
        simulation = self._simulation
        is_input = bool(dice.below(2))
        stream = streams.commands(shard) if is_input else streams.events(shard)
        needed_to, kept = self._bounds(shard, is_input)
        entries = simulation.log.entries(stream)
        needed = [entry for entry in entries if kept < entry.stream_id <= needed_to]
        is_clock_behind = bool(entries) and simulation.log.now_ms() <= entries[-1].stream_id.ms
        if not needed or self.lost or is_clock_behind:
            return
        first = needed[-1 - dice.below(len(needed))].stream_id
        count = simulation.log.lose(stream, first)
        self.lost = f"{count} entries of {stream} from {first} on"
        simulation.surroundings.inject(f"tail lost ({stream.partition(':')[0]})")
        simulation.end_everything()

    def _bounds(self, shard: int, is_input: bool) -> tuple[StreamId, StreamId]:
        """Return up to where the stream is known to have been, and from where on a start needs it."""
        simulation = self._simulation
        if is_input:
            reached = [self._reach(snapshot) for snapshot in simulation.log.snapshots(shard)]
            needed = max(reached, default=STREAM_START)
            return simulation.log.position(shard).stream_id, needed
        feeds_hash = simulation.feeds_stores.hashes[shard]
        return feeds_hash.mark.stream_id, feeds_hash.saved_id

    def _reach(self, snapshot: bytes) -> StreamId:
        try:
            return decode_snapshot(snapshot)[1]
        except SnapshotError:
            return STREAM_START
