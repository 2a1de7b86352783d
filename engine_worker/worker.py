"""The shell around a shard: read a batch, apply it, commit it atomically, then publish the results.

Recovery is start-up: restore the newest snapshot, apply the input up to the committed position, take the
shard over, deliver committed but undelivered messages, and continue. A standby follows between the second and
the third step for as long as another worker leads. A step publishes its results (replies, messages to other
shards, answers to queries) after its commit.

A follower compares its state with the checksum of the leader's commits, and never leads with a different
state (checksum.py).
"""

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import msgspec
import structlog

from engine_worker.checksum import StateDiffers, compare, state_checksum
from engine_worker.conversion import convert, is_convertible
from engine_worker.cores import CORES, OBJECTS, Shard, chosen_core, shard_of
from engine_worker.first_configuration import DEFAULT_CONFIG, first_configuration
from engine_worker.frame_core import (
    Answer,
    Cores,
    DeadItem,
    FrameCore,
    FrameOutput,
    InvariantBroken,
    MessageNotUnderstood,
    NotUnderstoodError,
    SnapshotError,
)
from engine_worker.leadership import Renewals
from engine_worker.metrics import TAKEOVERS, BatchMetrics
from engine_worker.order_traces import trace_batch
from engine_worker.outbox import outgoing_frames
from engine_worker.unstored_orders import UnstoredOrders, closed_orders
from protocol import streams
from protocol.codec import (
    LaterFormatError,
    decode_readable_events,
    decode_skip,
    encode_commands,
    encode_frame,
    event_items,
)
from protocol.commands import Tick
from protocol.configuration import ShardConfig
from protocol.lease import Leader
from protocol.market import MarketMap
from protocol.orders import OrderState
from protocol.positions import NEW_SHARD, ShardPosition, StateChecksum
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import (
    COMMANDS_FIELD,
    EVENTS_FIELD,
    QUERIES_FIELD,
    SKIPPED_ENTRY_FIELD,
    SKIPPED_FIELD,
    EventReader,
)
from protocol.units import TimeMs
from runtime.operator_keys import first_config
from runtime.settings import Settings
from runtime.tracing import Tracer
from stream_log.interface import (
    LETTERS_PER_ENTRY_MAX,
    Commit,
    DeadLetter,
    Entry,
    Outgoing,
    Rewound,
    Skip,
    StreamLog,
    as_skipped,
)

_log = structlog.get_logger()

REPLAY_ENTRIES = 1_000
"""Entries read at once while catching up."""
OUTBOX_ENTRIES = 100
FOLLOW_ENTRIES = 100
"""Entries read at once while following; small, because a standby must also look at the lease."""
_HELD_S = 0.2
"""Pause before reading again when the next entry is of a later format."""
_RENEW_ENTRIES = 32
"""A leader checks after this many entries of a batch whether its lease is due.

It also checks within an entry of many commands.
"""
STEP_COMMANDS_MAX, STEP_EVENTS_MAX = 2_048, 8_192
"""A step ends with this many commands or events: about 30 ms of work, and two megabytes."""
BATCH_COMMANDS_MAX, BATCH_EVENTS_MAX = 256, 1_024
"""A batch with this many commands or events is committed.

The next batch is applied while Redis writes it, so that neither waits for the other.
"""
_STORED_INTERVAL_MS = 1_000
"""Interval at which a worker reads the position of the database in the shard's events."""
_WRITTEN_AGAIN_MS = 30_000
"""Interval at which a leader rewrites its shard's configuration without a change."""
_EVENT_ENTRIES = 100
"""Entries of events read at once at a start."""


def monotonic_ms() -> int:
    """Return the milliseconds of the clock that never goes back."""
    return time.monotonic_ns() // 1_000_000


class LogDamaged(Exception):  # noqa: N818 - a verdict on the data; the message says what to do
    """The log and the snapshots do not reach the committed position."""


class Worker:
    """Runs one shard on a stream log."""

    def __init__(
        self,
        log: StreamLog,
        index: int,
        market_map: MarketMap,
        *,
        batch_entries_max: int,
        config: ShardConfig = DEFAULT_CONFIG,
        unstored_orders_max: int = 500_000,
        now_ms: Callable[[], int] = monotonic_ms,
        tracer: Tracer | None = None,
        cores: Cores | None = None,
    ) -> None:
        """Make the worker of shard `index`; `join` restores its state, `lead` takes the shard over.

        `now_ms` is the clock for its lease.

        `cores` creates its core; None: the default one.

        The leader of a new, unconfigured shard configures it with `market_map` and `config`, by commands in
        its input.
        """
        self._streams = log
        self._index = index
        self._market_map = market_map
        self._config = config
        self._batch_entries_max = self._read_max = batch_entries_max
        self._inputs = streams.commands(index)
        self._now_ms = now_ms
        self._metrics = BatchMetrics(index)
        self._tracer = tracer
        self._cores = cores or CORES[OBJECTS]
        self.core = self._new_core()
        """The state machine of the shard."""
        self.unstored_orders = UnstoredOrders(unstored_orders_max)
        """Closed orders that the shard no longer has and the database may not have yet."""
        self._stored_due_ms = 0
        self._collected_to = STREAM_START
        """The position up to which closed orders were read from the events; a replay need not add them."""
        self.position = NEW_SHARD
        """The position that this worker has committed.

        Of a standby: the position up to which it has followed, in epoch 0, in which nobody may write.
        """
        self.lag_ms = 0
        """A standby's last known distance from the position."""
        self.event_bytes = 0
        """The size of the events of the entries that it has applied; the log has grown by more than that."""
        self._committed: StateChecksum | None = None
        """The checksum to compare with when its entry is reached.

        The next one is chosen only then: a worker that is far behind would otherwise always wait for the
        newest and never compare.
        """
        self._differs: StateDiffers | None = None
        self._renewals: Renewals | None = None
        """The renewals of the lease, while this worker has one."""
        self._to_say: list[tuple[str, bytes]] = []
        """Replies that are published with the next read, which saves a round trip per batch."""
        self._answers: list[tuple[str, bytes]] = []
        """Answers to queries, published with the next read if this worker still leads then."""
        self._told_second = self._ticked_second = 0
        """The seconds of the last event, and of the last tick, of this worker."""
        self._drained_at: ShardPosition | None = None
        """The position at which a tick was written for orders to be canceled."""
        self._written: tuple[int, bytes] | None = None
        """The configuration that this worker has written to `config:{k}` as leader, and its number."""
        self._written_due_ms = 0
        self._single_entries = 0
        """How many more entries are committed singly: after a halt, the next must name the exact entry."""
        self._skip: _OrderedSkip | None = None
        """The entry that an operator wants skipped; it must be the very next one."""
        self._delivery_unsure = False
        """Whether the last commit's messages may not have reached their targets.

        Later messages must not overtake them.
        """

    def _new_core(self) -> FrameCore:
        return self._cores.new(self._index, self._market_map.shard_count)

    @classmethod
    def of(cls, settings: Settings, log: StreamLog, tracer: Tracer | None = None) -> Self:
        """Make the worker of the settings, on `log`."""
        return cls(
            log,
            settings.shard,
            settings.market_map(),
            batch_entries_max=settings.batch_commands_max,
            config=first_config(settings),
            cores=CORES[chosen_core(settings)],
            unstored_orders_max=settings.unstored_orders_max,
            tracer=tracer,
        )

    @property
    def index(self) -> int:
        """The number of its shard."""
        return self._index

    @property
    def shard(self) -> Shard:
        """The shard object of the object core, for tools and tests."""
        return shard_of(self.core)

    @property
    def leads(self) -> bool:
        """Whether this worker has taken its shard over.

        Another worker may have done so since; the next step detects that.
        """
        return self.position.epoch > 0

    @property
    def is_compared(self) -> bool:
        """Whether its state equals the leader's: compared at its position, or nothing to compare."""
        return self._differs is None and self._committed is None

    def start(self) -> None:
        """Bring the shard to its committed position and take it over, whoever leads it.

        Raises:
            LogDamaged: that position cannot be reached.
            InvariantBroken: the state that was committed is wrong.
        """
        self.join()
        self.lead()

    def join(self) -> None:
        """Restore the newest snapshot and follow up to the committed position; nobody else notices.

        Raises:
            LogDamaged: that position cannot be reached.
            InvariantBroken: the state that was committed is wrong.
            LaterFormatError: the shard was switched to what only a later release reads.
            StateDiffers: this worker's state is not the one that was committed.
        """
        restored = self._restore()
        followed = self._follow_to(self._streams.position(self._index))
        _log.info(
            "shard restored",
            shard=self._index,
            position=str(self.position.stream_id),
            snapshot=str(restored),
            followed_entries=followed,
        )

    def follow(self, entries_max: int = FOLLOW_ENTRIES) -> int:
        """Apply the commits since the last call without publishing; return the number of entries. 0: in step.

        Raises:
            Rewound: Redis has lost entries that this worker has applied.
            LogDamaged: the input does not reach the position, or not as far back as the newest usable
                snapshot.
            InvariantBroken: the committed state is wrong.
            LaterFormatError: a later release has led in the meantime; this program must not lead after it.
            StateDiffers: this worker's state differs from the committed one; it will neither follow nor lead
                any more.
        """
        self._check_agrees()
        after = self.position.stream_id
        entries, goal, trimmed_to, checksum = self._streams.read_committed(self._index, after, entries_max)
        self._check_not_behind(goal)
        if trimmed_to > after:
            # This worker was away for so long that entries it has not applied yet may be gone.
            restored = self._restore()
            if trimmed_to > restored:
                raise LogDamaged(
                    f"the input of shard {self._index} begins at {trimmed_to}, and no snapshot that reaches "
                    "there can be used; restore the Redis data from a backup"
                )
            return self.follow(entries_max)
        if not entries and after < goal.stream_id:
            raise LogDamaged(
                f"shard {self._index} is committed up to {goal.stream_id}, but its input ends at {after}; "
                "restore the Redis data from a backup"
            )
        # Compared before and after: the checksum may belong to the entry that was applied last, or to one of
        # these. Nothing beyond its entry is applied now: the state must be compared as it was there.
        self._committed = self._due(checksum, goal)
        self._compare()
        entries = self._up_to_due(entries)
        is_new = after >= self._collected_to
        for entry in entries:
            if not is_new and entry.stream_id > self._collected_to:
                is_new = True
                self._take()
            self._apply(entry, [])
        output = self._take()
        if entries:
            self.position = ShardPosition(0, entries[-1].stream_id)
            if is_new:
                self.unstored_orders.add(output.closed_orders())
        self._look_what_is_stored()
        self._compare()
        self.lag_ms = goal.stream_id.ms - self.position.stream_id.ms
        return len(entries)

    def _due(self, newest: StateChecksum | None, goal: ShardPosition) -> StateChecksum | None:
        """Return the checksum to compare next: the awaited one, unless Redis has lost it, or the newest."""
        begin, end = self.position.stream_id, goal.stream_id
        for checksum in (self._committed, newest):
            # The newest is behind if a leader of a release without checksums has led since.
            if checksum is not None and begin <= checksum.stream_id <= end:
                return checksum
        return None

    def _up_to_due(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries up to the one at which to compare; the others are read again."""
        if self._committed is None:
            return entries
        return entries[: bisect_right(entries, self._committed.stream_id, key=lambda entry: entry.stream_id)]

    def _compare(self) -> None:
        """Compare if the entry is reached, and clear the awaited checksum."""
        if self._committed is None or self._committed.stream_id != self.position.stream_id:
            return
        committed, self._committed = self._committed, None
        try:
            compare(self.core, committed)
        except StateDiffers as error:
            self._differs = error
            raise

    def _check_agrees(self) -> None:
        if self._differs is not None:
            raise self._differs

    def lead(
        self, candidate: Leader | None = None, over: Leader | None = None, usual_lease_ms: int | None = None
    ) -> None:
        """Take the shard over, apply the previous leader's last commits, deliver its outbox, and go live.

        A `candidate` takes the lease, from `over` if necessary, and `step` renews it; for `usual_lease_ms` at
        a time after the first commit.

        Raises:
            Fenced: another worker holds the lease; this one may go on following.
            Rewound: Redis has lost entries that this worker has applied.
            LogDamaged: the committed position cannot be reached.
            InvariantBroken: the committed state is wrong.
            StateDiffers: this worker's state differs from the committed one.
        """
        # From an attempt that an outage of Redis has ended: renewing that lease now would keep all others
        # from taking it.
        self._renewals = None
        # Before and after: a worker that must not lead must not replace one that does, and the last commit
        # may come in between.
        self._follow_to(self._streams.position(self._index))
        position = self._streams.take_over(self._index, candidate, over)
        if candidate is not None:
            self._renewals = Renewals(
                candidate._replace(epoch=position.epoch), self._now_ms(), usual_lease_ms
            )
        self._check_not_behind(position)
        followed = self._follow_to(position)
        self._deliver_rest()
        if not self.core.is_configured:
            self._check_is_new()
            self._configure()
        self.position = position
        self._written = None
        self._skip = self._ordered_skip()
        self._single_entries = self._batch_entries_max if self._streams.is_halted(self._index) else 0
        self.lag_ms = 0
        TAKEOVERS.labels(self._index).inc()
        _log.info(
            "shard started",
            shard=self._index,
            epoch=position.epoch,
            position=str(position.stream_id),
            followed_entries=followed,
        )

    def _restore(self) -> StreamId:
        restored = self._restore_shard()
        self._collect_unstored_orders()
        return restored

    def _collect_unstored_orders(self) -> None:
        """Read the closed orders that the database may lack from the events, which are kept until then."""
        self._collected_to = self._streams.position(self._index).stream_id
        stream, after = streams.events(self._index), self._stored_to()
        while entries := self._streams.read({stream: after}, _EVENT_ENTRIES, block_ms=0):
            for entry in entries:
                after = entry.stream_id
                try:
                    events = decode_readable_events(event_items(entry.fields.get(EVENTS_FIELD, b"")))
                except msgspec.MsgspecError:
                    continue  # a foreign entry, which the readers of the events report
                self.unstored_orders.add(closed_orders(events))

    def _look_what_is_stored(self) -> None:
        """Read about once a second the database's position in the events, and drop the orders that it has."""
        now_ms = self._now_ms()
        if now_ms >= self._stored_due_ms:
            self._stored_due_ms = now_ms + _STORED_INTERVAL_MS
            newest_id = self._streams.last_id(streams.events(self._index))
            self.unstored_orders.look(newest_id, self._stored_to())
        self.unstored_orders.drop_stored()

    def _stored_to(self) -> StreamId:
        return self._streams.passed(self._index).get(EventReader.PERSIST, STREAM_START)

    def let_go(self) -> None:
        """Free the state; the worker is not used any more."""
        self.core.let_go()

    def _restore_shard(self) -> StreamId:
        # Before another one is created: the process may not have memory for two. If Redis becomes unreachable
        # now, it starts from nothing.
        self.core.let_go()
        self.core, self.position = self._new_core(), NEW_SHARD
        goal = self._streams.position(self._index).stream_id
        for saved in self._streams.saved_snapshots(self._index):
            try:
                snapshot = self._streams.read_snapshot(self._index, saved)
                if is_convertible(snapshot):
                    snapshot = convert(self._streams, self._index, self._market_map, self._config, snapshot)
                    _log.info("snapshot converted", shard=self._index, position=str(saved.stream_id))
                core, stream_id = self._cores.restore(snapshot)
                self._check_is_of_this_exchange(core)
            except LaterFormatError:
                raise  # an older snapshot leads to entries that this program cannot read
            except SnapshotError as error:
                _log.warning("snapshot not used", shard=self._index, reason=str(error))
                continue
            if stream_id <= goal:
                self.core, self.position = core, ShardPosition(0, stream_id)
                return stream_id
            _log.warning(
                "snapshot not used", shard=self._index, reason="it is newer than the committed position"
            )
            core.let_go()
        return STREAM_START

    def _check_is_of_this_exchange(self, core: FrameCore) -> None:
        # The number of shards, which is not part of the configuration, determines the shard's accounts.
        here = (self._index, self._market_map.shard_count)
        if (core.index, core.shard_count) != here:
            raise SnapshotError(
                f"the snapshot is of shard {core.index} of {core.shard_count}, this is shard {here[0]} of "
                f"{here[1]}; a running exchange cannot change its number of shards"
            )

    def _check_not_behind(self, goal: ShardPosition) -> None:
        if goal.stream_id < self.position.stream_id:
            raise Rewound(
                f"shard {self._index} is back at {goal.stream_id}; this worker has applied "
                f"{self.position.stream_id}"
            )

    def _follow_to(self, goal: ShardPosition) -> int:
        """Follow at least up to `goal`, and on to an entry at which the state has been compared.

        Also if there is nothing to follow.
        """
        followed = 0
        while True:
            followed += self.follow(REPLAY_ENTRIES)
            self._keep_lease()
            if self._committed is None and self.position.stream_id >= goal.stream_id:
                return followed

    def _deliver_rest(self) -> None:
        """Deliver the remaining outbox; the targets drop messages that they have received before.

        An entry that is not a message is a dead letter.
        """
        outbox = streams.outbox(self._index)
        while entries := self._streams.read({outbox: STREAM_START}, OUTBOX_ENTRIES, block_ms=0):
            for entry in entries:
                try:
                    frames = outgoing_frames(entry, self._index, self._market_map.shard_count)
                except NotUnderstoodError as error:
                    self._bury(entry, str(error))
                    frames = {}
                self._streams.deliver(self._index, Outgoing(entry.stream_id, frames))
        self._delivery_unsure = False

    def clean_outbox(self) -> None:
        """Clean the outbox of foreign entries and of entries under another id: all it has between steps."""
        self._deliver_rest()

    def step(self, block_ms: int) -> int:
        """Publish the results of the last step.

        Process the new input, waiting up to `block_ms` for some.

        Returns the number of entries processed.

        Raises:
            Fenced: another worker has taken the shard over.
            InvariantBroken: the batch leads to a wrong state; nothing of it was published.
        """
        if self._delivery_unsure:
            self._deliver_rest()
        self._write_configuration()
        self._look_what_is_stored()
        entries = self._streams.read_inputs(
            self._index,
            self.position,
            1 if self._single_entries else self._read_max,
            block_ms,
            self._to_say,
            answers=self._answers,
            renew=self._renewals.due(self._now_ms()) if self._renewals is not None else None,
        )
        self._to_say, self._answers = [], []
        count = len(entries)
        while count and entries[count - 1].stream != self._inputs:  # the queries come last
            count -= 1
        if count:
            self._process(entries[:count])
            self._single_entries = max(0, self._single_entries - count)
        if count < len(entries):
            self._answer(entries[count:])
        return len(entries)

    def _write_configuration(self) -> None:
        """Publish the shard's configuration before anything for which readers need it.

        Repeated now and then: a Redis that has lost its last writes may have lost only this one.
        """
        number, now_ms, written = self.core.configuration_number, self._now_ms(), self._written
        if written is not None and written[0] == number:
            if now_ms < self._written_due_ms:
                return
            value = written[1]
        else:
            value = self.core.encode_configuration(self.position.stream_id)
        if self._streams.write_configuration(self._index, self.position, value):
            self._written, self._written_due_ms = (number, value), now_ms + _WRITTEN_AGAIN_MS

    def _check_is_new(self) -> None:
        """Refuse a log whose commands were decided by settings: a shard without any would refuse them all."""
        if self._streams.last_id(streams.events(self._index)) != STREAM_START:
            raise LogDamaged(
                f"the log of shard {self._index} was written by an earlier release, which had no "
                "configuration in it, and no snapshot of it can be used: start that release again and stop "
                "all its engine workers, so that the last one saves its state"
            )

    def _configure(self) -> None:
        """Configure an unconfigured shard with the settings.

        From then on only commands change the configuration.

        If this is done twice, the second time is refused.
        """
        commands = first_configuration(self._index, self._market_map, self._config)
        # In the oldest format: the shard's format is not known yet.
        self._streams.append(
            self._inputs, {COMMANDS_FIELD: encode_commands(commands, time.time_ns() // 1_000)}
        )

    def _ordered_skip(self) -> "_OrderedSkip | None":
        """Return the entry that an operator wants skipped.

        Read when a shard is taken over, and while it is held: a halt ends the process.
        """
        frame = self._streams.skip(self._index)
        if frame is None:
            return None
        try:
            return _OrderedSkip(decode_skip(frame).stream_id, frame)
        except (msgspec.MsgspecError, LaterFormatError) as error:
            self._drop_skip(frame, str(error))
            return None

    def _drop_skip(self, frame: bytes, reason: str) -> None:
        _log.error("instruction to skip an entry not followed", shard=self._index, reason=reason)
        self._streams.drop_skip(self._index, frame)

    def _with_skip(self, entries: Sequence[Entry]) -> tuple[Sequence[Entry], Skip | None]:
        """Return the entries with the first one skipped if an operator ordered that, and the instruction."""
        ordered, self._skip = self._skip, None
        if ordered is None:
            return entries, None
        skip = Skip(entries[0].stream_id, ordered.frame)
        if ordered.named_id != str(skip.stream_id):
            self._drop_skip(skip.frame, f"it names {ordered.named_id}, and {skip.stream_id} comes next")
            return entries, None
        if (reason := self.core.why_not_followed(skip.frame)) is not None:
            self._drop_skip(skip.frame, reason)
            return entries, None
        _log.warning("entry skipped", shard=self._index, stream_id=ordered.named_id)
        return [as_skipped(entries[0], skip.frame), *entries[1:]], skip

    def _process(self, entries: Sequence[Entry]) -> None:
        """Apply entries and commit them, in one batch or in several.

        Each of several batches is applied while Redis writes the previous one.
        """
        step = _Step(*self._with_skip(entries))
        try:
            while (batch := self._next_batch(step)) is not None:
                self._finish_commit(step)
                self._begin_commit(step, batch)
            self._finish_commit(step)
        except InvariantBroken:
            self._end_before(step)
            raise
        if step.is_full:  # the rest is read again, so that the next step reads no more than it processes
            self._read_max = step.applied
        elif step.applied == len(step.entries):
            self._read_max = min(2 * self._read_max, self._batch_entries_max)
        self._deliver(step.outgoing)

    def _next_batch(self, step: "_Step") -> "_Batch | None":
        """Apply as many of the step's entries as form a batch; None: none are left, or they must wait."""
        if step.is_over:
            return None
        began, core, entries = time.perf_counter(), self.core, step.entries
        count_before, first = core.command_count, step.applied
        applied = first
        events_max = min(BATCH_EVENTS_MAX, STEP_EVENTS_MAX - step.events)
        commands_max = count_before + min(BATCH_COMMANDS_MAX, STEP_COMMANDS_MAX - step.commands)
        letters: list[DeadLetter] = []
        while applied < len(entries):
            entry = entries[applied]
            try:
                self._apply(entry, letters, self._keep_lease)
            except LaterFormatError as error:
                # The entries before it are committed first, so that it is the first one of a step when it is
                # held.
                if not applied:
                    self._hold(entry, error)
                step.is_over = True
                break
            except MessageNotUnderstood:
                # Likewise: nothing of it was applied, and it halts the next step.
                if not applied:
                    raise
                step.is_over = True
                break
            applied += 1
            if not applied % _RENEW_ENTRIES:
                self._keep_lease()
            if core.waiting_events >= events_max or core.command_count >= commands_max:
                break
        if applied == first:
            return None
        self._metrics.held(0)
        self._keep_lease()
        commands = core.command_count - count_before
        step.add(applied - first, commands, core.waiting_events)
        output = self._take()
        waited_s = time.time() - entries[first].stream_id.ms / 1_000
        return _Batch(
            entries[first:applied],
            output.frame,
            output.outbox(),
            output.replies(),
            output.closed_orders(),
            letters,
            state_checksum(core),
            core.time,
            commands,
            waited_s,
            time.perf_counter() - began,
        )

    def _begin_commit(self, step: "_Step", batch: "_Batch") -> None:
        skip, step.skip = step.skip, None
        step.in_flight, began = batch, time.perf_counter()
        self._streams.begin_commit(
            Commit(
                self._index,
                self.position,
                batch.entries[-1].stream_id,
                batch.events,
                batch.outbox,
                batch.dead_letters,
                batch.checksum,
                skip,
            ),
            self._to_say,
        )
        step.sent_s = time.perf_counter() - began

    def _finish_commit(self, step: "_Step") -> None:
        batch, step.in_flight = step.in_flight, None
        if batch is None:
            return
        began = time.perf_counter()
        self._streams.finish_commit()
        commit_s = step.sent_s + time.perf_counter() - began
        stream_id = batch.entries[-1].stream_id
        self.position = ShardPosition(self.position.epoch, stream_id)
        if self._renewals is not None:
            self._renewals.committed()
        if batch.events:
            self._told_second = batch.time // 1_000
        self.unstored_orders.add(batch.closed_orders)
        self._metrics.committed(len(batch.entries), batch.commands, batch.waited_s, batch.apply_s, commit_s)
        if self._tracer is not None:
            trace_batch(self._tracer, self._index, batch.entries, batch.apply_s, commit_s)
        self._to_say = [(streams.replies(reply_to), frame) for reply_to, frame in batch.replies]
        if batch.outbox:
            self._delivery_unsure = True
            step.outgoing.append(Outgoing(stream_id, batch.outbox))

    def _end_before(self, step: "_Step") -> None:
        """Commit, publish and deliver the entries before the one that stops the shard."""
        try:
            self._finish_commit(step)
            self._streams.publish(self._to_say)
            self._deliver(step.outgoing)
        except Exception as error:
            _log.warning(
                "not said before the halt", shard=self._index, reason=f"{type(error).__name__}: {error}"
            )

    def _deliver(self, outgoing: Iterable[Outgoing]) -> None:
        for message in outgoing:
            began = time.perf_counter()
            self._streams.deliver(self._index, message)
            self._metrics.delivered(time.perf_counter() - began)
        self._delivery_unsure = False

    def _hold(self, entry: Entry, error: LaterFormatError) -> None:
        """Leave an entry, and all after it, to a program that can read it; nothing but time is lost."""
        self._metrics.held(error.number)
        _log.critical(
            "the input is held", shard=self._index, stream_id=str(entry.stream_id), reason=str(error)
        )
        time.sleep(_HELD_S)
        self._skip = self._ordered_skip()

    def _keep_lease(self) -> None:
        """Renew the lease when it is due, which costs a round trip; for work that takes long."""
        if self._renewals is not None and (leader := self._renewals.due(self._now_ms())) is not None:
            self._streams.renew_lease(self._index, leader)

    def _apply(
        self, entry: Entry, letters: list[DeadLetter], progressed: Callable[[], None] | None = None
    ) -> None:
        """Apply one entry; add its undecodable or skipped items to `letters`.

        None of these is applied.
        """
        try:
            dead = self.core.apply_frame(entry.stream_id, entry.fields, progressed)
        except NotUnderstoodError as error:
            letters.append(_dead_letter(entry, str(error)))
            return
        except LaterFormatError:
            raise
        except InvariantBroken as error:
            # An operator needs the id to have the entry skipped.
            raise type(error)(f"entry {entry.stream_id}: {error}") from error
        except Exception as error:
            # The core is pure: the same entry raises at every start. A halt reports it once, instead of an
            # endless series of restarts.
            raise InvariantBroken(f"entry {entry.stream_id}: {type(error).__name__}: {error}") from error
        if dead:
            letters += _item_letters(entry, dead)
        elif SKIPPED_FIELD in entry.fields:
            letters.append(_skipped_letter(entry))

    def _take(self) -> FrameOutput:
        try:
            output = self.core.take()
        except InvariantBroken:
            raise
        except Exception as error:
            raise InvariantBroken(
                f"what was applied cannot be written: {type(error).__name__}: {error}"
            ) from error
        self.event_bytes += len(output.frame)
        return output

    def _answer(self, entries: Iterable[Entry]) -> None:
        replies: list[tuple[str, bytes]] = []
        time = TimeMs(self.position.stream_id.ms)
        for entry in entries:
            try:
                answers = self.core.answer(
                    entry.fields.get(QUERIES_FIELD, b""), time, self.position.stream_id
                )
                replies += [(answer.reply_to, self._reply_of(answer, time)) for answer in answers]
            except msgspec.MsgspecError as error:
                # A query is not part of the log, so there is no commit to write this with.
                self._bury(entry, str(error))
            except Exception as error:
                # A query changes nothing, so the query is at fault, not the state.
                _log.exception("query not answered", shard=self._index)
                self._bury(entry, f"{type(error).__name__}: {error}")
        self._answers += _reply_frames(replies)

    def _reply_of(self, answer: Answer, time: TimeMs) -> bytes:
        if answer.unknown_order is None:
            return answer.reply
        return encode_frame(self.unstored_orders.answer(answer.unknown_order, time))

    def _bury(self, entry: Entry, reason: str) -> None:
        letter = _dead_letter(entry, reason)
        self._streams.append(streams.dead_letters(self._index), letter.fields())

    def tick(self, now_us: int) -> None:
        """Advance the shard's time when a new second has begun without an event in it.

        `now_us` is this process's clock.

        Candles close by this: about at the second's end on an idle shard, with the next event on a busy one.
        """
        second = now_us // 1_000_000
        if self.core.has_work and self._drained_at != self.position:
            # Each command cancels a portion of the orders to be canceled; without commands, a tick does.
            self._drained_at = self.position
            self._streams.append(self._inputs, {COMMANDS_FIELD: self._tick(now_us)})
        if second > max(self._told_second, self._ticked_second):
            self._ticked_second = second
            self._streams.append(self._inputs, {COMMANDS_FIELD: self._tick(now_us)})

    def _tick(self, now_us: int) -> bytes:
        return encode_commands([Tick()], now_us, self.core.format)

    def finish(self) -> None:
        """Publish pending results, and release the lease: a standby need not wait for it to expire."""
        if self._to_say:
            self._streams.publish(self._to_say)
        self._streams.publish_answers(self._index, self.position, self._answers)
        self._to_say, self._answers = [], []
        if self._renewals is not None:
            self._streams.release_lease(self._index, self._renewals.leader)
            self._renewals = None


class _OrderedSkip(NamedTuple):
    """An operator's instruction to skip an entry."""

    named_id: str
    """As the operator entered it: possibly not an entry's id."""
    frame: bytes


class _Batch(NamedTuple):
    """Applied entries that are committed together, with all results."""

    entries: Sequence[Entry]
    events: bytes
    outbox: Mapping[int, bytes]
    replies: Sequence[tuple[str, bytes]]
    closed_orders: Sequence[OrderState]
    dead_letters: Sequence[DeadLetter]
    checksum: str
    time: TimeMs
    """The shard's."""
    commands: int
    waited_s: float
    """How long the first entry was in the stream before the batch was begun."""
    apply_s: float


class _Step:
    """The progress of a step through the entries that it has read."""

    __slots__ = (
        "applied",
        "commands",
        "entries",
        "events",
        "in_flight",
        "is_full",
        "is_over",
        "outgoing",
        "sent_s",
        "skip",
    )

    def __init__(self, entries: Sequence[Entry], skip: Skip | None) -> None:
        self.entries = entries
        self.skip = skip
        """The instruction by which the first entry is skipped."""
        self.applied = self.commands = self.events = 0
        """Entries, and their commands and events."""
        self.is_full = self.is_over = False
        """Whether the step's maximum is reached.

        The second: whether nothing more is applied in it, for this or another reason.
        """
        self.in_flight: _Batch | None = None
        """The batch that Redis is writing."""
        self.sent_s = 0.0
        """How long sending it took."""
        self.outgoing: list[Outgoing] = []
        """The committed messages for other shards.

        They are delivered at the end of the step: while Redis writes, the connection must not be used.
        """

    def add(self, entries: int, commands: int, events: int) -> None:
        """Count applied entries."""
        self.applied += entries
        self.commands += commands
        self.events += events
        if self.commands >= STEP_COMMANDS_MAX or self.events >= STEP_EVENTS_MAX:
            self.is_full = self.is_over = True


def _dead_letter(entry: Entry, reason: str) -> DeadLetter:
    _log.warning("entry not understood", stream=entry.stream, stream_id=str(entry.stream_id), reason=reason)
    return DeadLetter(entry.stream, entry.stream_id, reason, msgspec.msgpack.encode(entry.fields))


def _item_letters(entry: Entry, dead: Sequence[DeadItem]) -> list[DeadLetter]:
    """Return a letter for each item, or one if they are too many."""
    if len(dead) > LETTERS_PER_ENTRY_MAX:
        return [
            _dead_letter(
                entry, f"{len(dead)} commands of the frame are not understood; the first: {dead[0].reason}"
            )
        ]
    for item in dead:
        _log.warning(
            "command not understood",
            stream=entry.stream,
            stream_id=str(entry.stream_id),
            item=item.number,
            reason=item.reason,
        )
    return [
        DeadLetter(entry.stream, entry.stream_id, item.reason, item.payload, item.number) for item in dead
    ]


def _skipped_letter(entry: Entry) -> DeadLetter:
    skip = decode_skip(entry.fields[SKIPPED_FIELD])
    reason = f"skipped by {skip.operator}: {skip.reason}"
    return DeadLetter(entry.stream, entry.stream_id, reason, entry.fields[SKIPPED_ENTRY_FIELD])


def _reply_frames(replies: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return (channel, frame) of (reply_to, encoded reply)."""
    by_waiter: defaultdict[str, list[msgspec.Raw]] = defaultdict(list)
    for reply_to, reply in replies:
        if reply_to:
            by_waiter[reply_to].append(msgspec.Raw(reply))
    return [
        (streams.replies(reply_to), encode_frame(waiter_replies))
        for reply_to, waiter_replies in by_waiter.items()
    ]
