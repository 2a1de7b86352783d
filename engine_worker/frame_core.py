"""The core of a shard as its shell knows it: frames in, frames out.

The worker, its standbys, replays and snapshots use a core only by what is here, so another one may take its
place: what it writes must be the same bytes (docs/decisions/0029). `engine_worker/cores.py` says which cores
there are.
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
    """The entry is not one that this shard can apply; nothing of it was."""


class MessageNotUnderstood(InvariantBroken):
    """Another shard sent what this one cannot apply.

    It may carry money, so the shard stops before it; nothing of it was applied.
    """


class DeadItem(NamedTuple):
    """A command that could not be applied, beside others of its frame that were."""

    number: int
    """Its place in the frame, from 0 on."""
    payload: bytes
    reason: str


class FrameOutput(Protocol):
    """What a core produced since it was last asked. It is read before anything else is applied."""

    @property
    def frame(self) -> bytes:
        """The frame of events; empty when there are none."""
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
    """What a core says to a query."""

    reply_to: str
    reply: bytes
    """One encoded reply."""
    unknown_order: OrderQuery | None = None
    """The query, when it asks for an order that is not open.

    The shell may know that order, see `UnstoredOrders`.
    """


class MarketCounts(NamedTuple):
    """How much there is in a market of the shard."""

    resting: int
    """Orders."""
    trades: int
    """Since it was listed."""


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
        """Free what the core has; it is not used any more. Its process has no collector that would."""
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
        """Whether somebody has configured the shard."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether orders are to be canceled with the next commands."""
        ...

    @property
    def symbols(self) -> Collection[str]:
        """The markets that the shard knows, its own and those of others."""
        ...

    @property
    def configuration_number(self) -> int:
        """Another one after each change of what `encode_configuration` says."""
        ...

    def encode_configuration(self, stream_id: StreamId) -> bytes:
        """Return the value of `config:{k}` at the position `stream_id`."""
        ...

    @property
    def waiting_events(self) -> int:
        """How many events the next `take` returns."""
        ...

    def apply_frame(
        self, stream_id: StreamId, fields: Mapping[bytes, bytes], progressed: Callable[[], None] | None = None
    ) -> list[DeadItem]:
        """Apply everything in one entry of the shard's input; return those of its commands that could not be.

        Calls `progressed` in between, when the entry has many commands.

        Raises:
            NotUnderstoodError: it cannot be applied; nothing of it was. LaterFormatError: a later release
            wrote it, or switches to what that does; nothing of it was applied. InvariantBroken: the state is
            wrong, it must not be used or published; or a message of another shard is not understood.
        """
        ...

    def why_not_followed(self, instruction: bytes) -> str | None:
        """Return why the shard does not follow an instruction to skip its next entry; None: it does.

        Raises:
            msgspec.MsgspecError, LaterFormatError: the frame is no instruction that this program reads.
        """
        ...

    def take(self) -> FrameOutput:
        """Return what was produced since the last call.

        Raises:
            InvariantBroken: what came of it is not worth what went in.
        """
        ...

    def answer(self, queries: bytes, time: TimeMs, position: StreamId) -> list[Answer]:
        """Return the answers to a frame of queries at the shard's position. Changes nothing.

        Raises:
            msgspec.MsgspecError: it is no frame of queries.
        """
        ...

    def encode_snapshot(self, stream_id: StreamId | None) -> bytes:
        """Return the whole state, after the input up to `stream_id`; None: only to be hashed, wherever in the
        log it is.
        """
        ...

    def digest(self) -> str:
        """Return what a `StateHashed` says of the state."""
        ...

    def differences(self) -> dict[str, int]:
        """Return asset -> by how much its money does not add up. O(assets)."""
        ...

    def market_counts(self) -> dict[str, MarketCounts]:
        """Return how much there is in each of the shard's own markets. O(markets)."""
        ...

    def check_money(self) -> None:
        """Compare what came in, went out and was settled with what there is. O(assets).

        Raises:
            InvariantBroken: it does not add up.
        """
        ...

    def check_invariants(self) -> None:
        """Add everything up anew. O(state).

        Raises:
            InvariantBroken: naming what is not as it must always be.
        """
        ...


class Cores(Protocol):
    """One implementation: makes the cores of shards."""

    def new(self, index: int, shard_count: int) -> FrameCore:
        """Return the core of a shard that nobody has configured yet."""
        ...

    def restore(self, snapshot: bytes) -> tuple[FrameCore, StreamId]:
        """Return the core that wrote a snapshot, as it was then, and up to where it had applied its input.

        Raises:
            SnapshotError: the bytes are torn, of another format, or describe an impossible state.
            LaterSnapshotError: a later release wrote them.
        """
        ...
