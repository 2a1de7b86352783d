"""The one fault that is not survived: Redis comes back without the end of its log. It must be noticed."""

from typing import TYPE_CHECKING

from protocol import streams
from protocol.streams import StreamId, split_stream_id
from simulation.schedule import Dice

if TYPE_CHECKING:
    from simulation.run import Simulation


class Tail:
    """Cuts off the end of a shard's input or of its events, and ends everyone who remembers it."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self.lost = ""
        """What was lost, in words."""
        self.matters = False
        """Whether something is gone that a program needs, so that it has to be noticed."""

    def lose(self, shard: int, dice: Dice) -> None:
        """Lose the newest entries of one stream, and restart the processes, as a restart of Redis makes them."""
        simulation = self._simulation
        is_input = bool(dice.below(2))
        stream = streams.commands(shard) if is_input else streams.events(shard)
        kept = simulation.log._streams[stream]
        count = 1 + dice.below(6)
        gone = kept[len(kept) - min(count, len(kept)) :]
        if not gone or any(worker.busy for pair in simulation.workers for worker in pair):
            return
        del kept[len(kept) - len(gone) :]
        first = gone[0].stream_id
        last = kept[-1].stream_id if kept else StreamId("0-0")
        self.lost = f"{len(gone)} entries of {stream} from {first} on"
        simulation.surroundings.inject(f"tail lost ({stream.partition(':')[0]})")
        self.matters = self._is_needed(shard, is_input, last, gone[-1].stream_id)
        for process in simulation._processes():
            process.kill()

    def _is_needed(self, shard: int, is_input: bool, last: StreamId, gone: StreamId) -> bool:
        raise NotImplementedError
