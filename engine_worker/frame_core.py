"""The interface of a shard's core to its shell: frames in, frames out.

The worker, its standbys, replays and snapshots use a core only through this interface, so that it can be
replaced: every core must write the same bytes (docs/decisions/0029). `engine_worker/cores.py` lists the
cores.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.snapshot import SnapshotError, snapshot_format, snapshot_stream_id
from protocol.orders import OrderState
from protocol.replies import OrderQuery
from protocol.stream_id import StreamId
from protocol.units import TimeMs

__all__ = [
    "Answer",
    "Cores",
    "DeadItem",
    "FrameCore",
    "FrameOutput",
    "InvariantBroken",
    "MarketCounts",
    "MessageNotUnderstood",
    "NotUnderstoodError",
    "SnapshotError",
    "snapshot_format",
    "snapshot_stream_id",
]


class NotUnderstoodError(ValueError):
    """This shard cannot apply the entry; nothing of it was applied."""


class MessageNotUnderstood(InvariantBroken):
    """Another shard sent a message that this shard cannot apply.

    It may carry money, so the shard stops before it; nothing of it was applied.
    """


class DeadItem(NamedTuple):
    """A command that could not be applied, in a frame with others that were."""

    number: int
    """Its index in the frame, from 0."""
    payload: bytes
    reason: str


class FrameOutput(Protocol):
    """The output of a core since the last call. Read it before applying anything else."""

    @property
    def frame(self) -> bytes:
        """The frame of events; empty if there are none."""
        ...

    def replies(self) -> list[tuple[str, bytes]]:
        """Return (reply_to, frame of replies), in the order of each waiter's first reply."""
        ...

    def outbox(self) -> dict[int, bytes]:
        """Return target shard -> frame of messages."""
        ...

    def closed_orders(self) -> Sequence[OrderState]:
        """Return the last state of the orders that the events of the frame have closed, in order."""
        ...


class Answer(NamedTuple):
    """A core's answer to a query."""

    reply_to: str
    reply: bytes
    """One encoded reply."""
    unknown_order: OrderQuery | None = None
    """The query, if it asks for an order that is not open.

    The shell may know that order, see `UnstoredOrders`.
    """


class MarketCounts(NamedTuple):
    """Counts of a market of the shard."""

    resting: int
    """Resting orders."""
    trades: int
    """Trades since it was listed."""


class FrameCore(Protocol):
    """The state machine of one shard, behind bytes and plain values."""

    @property
    def index(self) -> int:
        """The shard's number."""
        ...

    @property
    def shard_count(self) -> int:
        """How many shards the exchange has."""
        ...

    def let_go(self) -> None:
        """Free the core, which is not used any more. Its process has no garbage collector that would."""
        ...

    @property
    def command_count(self) -> int:
        """How many commands and messages were applied."""
        ...

    @property
    def order_count(self) -> int:
        """How many orders were numbered."""
        ...

    @property
    def checksum(self) -> int:
        """The CRC of the encodings of all events up to the last `take`."""
        ...

    @property
    def time(self) -> TimeMs:
        """The shard's time."""
        ...

    @property
    def format(self) -> int:
        """The format of the frames that the shard writes."""
        ...

    @property
    def state_hash_interval(self) -> int:
        """How many commands there are between two `StateHashed`."""
        ...

    @property
    def is_configured(self) -> bool:
        """Whether the shard is configured."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether orders are to be canceled with the next commands."""
        ...

    @property
    def symbols(self) -> Collection[str]:
        """The markets that the shard knows, including those of other shards."""
        ...

    @property
    def configuration_number(self) -> int:
        """Changes with every change of `encode_configuration`."""
        ...

    def encode_configuration(self, stream_id: StreamId) -> bytes:
        """Return the value of `config:{k}` at the position `stream_id`."""
        ...

    @property
    def waiting_events(self) -> int:
        """The number of events that the next `take` returns."""
        ...

    def apply_frame(
        self, stream_id: StreamId, fields: Mapping[bytes, bytes], progressed: Callable[[], None] | None = None
    ) -> list[DeadItem]:
        """Apply everything in one entry of the shard's input; return the commands that could not be applied.

        Calls `progressed` in between, if the entry has many commands.

        Raises:
            NotUnderstoodError: it cannot be applied; nothing of it was.
            LaterFormatError: a later release wrote it, or it switches to a later release; nothing of it was
                applied.
            InvariantBroken: the state is wrong and must not be used or published; or a message of another
                shard is undecodable.
        """
        ...

    def why_not_followed(self, instruction: bytes) -> str | None:
        """Return why the shard does not follow an instruction to skip its next entry, or None.

        Raises:
            msgspec.MsgspecError, LaterFormatError: this program cannot decode the instruction.
        """
        ...

    def take(self) -> FrameOutput:
        """Return the output since the last call.

        Raises:
            InvariantBroken: the value of the output differs from that of the input.
        """
        ...

    def answer(self, queries: bytes, time: TimeMs, position: StreamId) -> list[Answer]:
        """Return the answers to a frame of queries at the shard's position. Changes nothing.

        Raises:
            msgspec.MsgspecError: it is not a frame of queries.
        """
        ...

    def encode_snapshot(self, stream_id: StreamId | None) -> bytes:
        """Return the whole state after the input up to `stream_id`; None: only for hashing."""
        ...

    def digest(self) -> str:
        """Return the digest of the state for a `StateHashed`."""
        ...

    def differences(self) -> dict[str, int]:
        """Return asset -> the difference in its accounting. O(assets)."""
        ...

    def market_counts(self) -> dict[str, MarketCounts]:
        """Return the counts of each of the shard's own markets. O(markets)."""
        ...

    def check_money(self) -> None:
        """Compare deposits, withdrawals and settlements with the balances. O(assets).

        Raises:
            InvariantBroken: they do not match.
        """
        ...

    def check_invariants(self) -> None:
        """Recompute all sums. O(state).

        Raises:
            InvariantBroken: names the violated invariant.
        """
        ...


class Cores(Protocol):
    """One implementation, which creates the cores of shards."""

    def new(self, index: int, shard_count: int) -> FrameCore:
        """Return the core of an unconfigured shard."""
        ...

    def restore(self, snapshot: bytes) -> tuple[FrameCore, StreamId]:
        """Return the core of a snapshot, and the last input entry that it had applied.

        Raises:
            SnapshotError: the bytes are torn, of another format, or describe an impossible state.
            LaterSnapshotError: a later release wrote them.
        """
        ...
