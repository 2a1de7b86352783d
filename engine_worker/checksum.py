"""The checksum of each commit, and the comparison with a follower's state.

The checksum is the CRC of all events that the shard has ever produced, with the numbers of commands and
orders, which also count commands without events. None of the three depends on how the input was divided into
batches, so all workers that have applied the log up to the same entry can compare. `Shard.digest` is not
included: it costs ten times as much, and its additional information is in the next `StateHashed`, so in the
CRC.
"""

from typing import Protocol

from engine_worker.frame_core import InvariantBroken
from protocol.positions import StateChecksum
from protocol.units import TimeMs


class StateDiffers(InvariantBroken):
    """A follower's state differs from the leader's at the same entry.

    The leader's state was published, so the follower must stop.
    """


class _Counts(Protocol):
    """What a `FrameCore` counts."""

    @property
    def index(self) -> int: ...

    @property
    def checksum(self) -> int: ...

    @property
    def command_count(self) -> int: ...

    @property
    def order_count(self) -> int: ...

    @property
    def time(self) -> TimeMs: ...


def state_checksum(core: _Counts) -> str:
    """Return the checksum of a state whose output was taken.

    O(1) in the size of the state.
    """
    return f"{core.checksum:08x}-{core.command_count}-{core.order_count}-{core.time}"


def compare(core: _Counts, committed: StateChecksum) -> None:
    """Compare a state with the commit at the same entry.

    Raises:
        StateDiffers: they differ.
    """
    own = state_checksum(core)
    if own != committed.checksum:
        raise StateDiffers(
            f"shard {core.index}: the state at {committed.stream_id} has the checksum {own} here, and "
            f"{committed.checksum} was committed. A worker with this state must not lead; one that leads "
            "already goes on. Compare the program's version with that of the worker that committed it; no "
            "setting but EXCHANGE_SHARD_COUNT decides an outcome"
        )
