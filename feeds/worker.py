"""The shell around the feeds: read the shards' events, apply them, and commit outputs and position.

Restart is start-up: load the saved state, apply the events up to the last commit without publishing anything,
and continue. So a process may die between any two steps.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram

from feeds.state import ShardFeeds
from feeds.store import FeedsStore, Mark
from protocol import streams
from protocol.codec import LaterFormatError
from protocol.stream_id import STREAM_START, StreamId
from protocol.violations import InvariantBroken, MarketsUnknownError, UnknownMarketError
from runtime.portion import Portion
from runtime.tracing import Tracer, trace_events
from stream_log.interface import LETTERS_PER_ENTRY_MAX, DeadLetter

READ_ENTRIES = 200
"""Maximum of entries of a shard that are read at once, if they are small."""
COMMIT_EVENTS = 5_000
"""Events after which a batch is committed, which bounds the writes of one script."""
_HELD_S = 0.2
"""Pause before reading again when the next event is of a later format."""
_IDLE_WAIT_MS = 1_000
"""The time until the next look when nothing has happened."""

_log = structlog.get_logger()

_EVENTS = Counter("feeds_events_applied", "Events applied since the start", ["shard"])
_MESSAGES = Counter(
    "feeds_messages_published", "Messages published: market data, and accounts' events", ["shard"]
)
_BATCH = Histogram(
    "feeds_batch_events",
    "Events that were applied together",
    ["shard"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000),
)
_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_STEP = Histogram(
    "feeds_step_seconds", "How long it took to apply, write and publish a batch", ["shard"], buckets=_BUCKETS
)
_DELAY = Histogram(
    "feeds_delay_seconds",
    "From an order's arrival in its shard's input until what came of it is published, of the oldest of a "
    "batch",
    ["shard"],
    buckets=_BUCKETS,
)
_LAG = Gauge("feeds_lag_seconds", "How far the feeds are behind the present", ["shard"])
_HELD = Gauge(
    "feeds_held_format",
    "The format of an entry that this process cannot read and waits with; 0: there is none",
    ["shard"],
)
_EPOCH = Gauge("feeds_epoch", "The how manieth process this is that has the shard's feeds", ["shard"])
_DEAD = Counter("feeds_dead_entries", "Stream entries that could not be understood", ["shard"])


class _ShardFollower:
    """One shard's feeds, and their published and saved positions."""

    def __init__(self, store: FeedsStore, shard: int, save_period_ms: int, tracer: Tracer | None) -> None:
        self._store = store
        self._shard = shard
        self._save_period_ms = save_period_ms
        self._tracer = tracer
        self._save_due = 0
        self._saved_id = STREAM_START
        self._dead_letters: list[DeadLetter] = []
        self.feeds = ShardFeeds(shard, ())
        self.mark = Mark(STREAM_START, 0)
        self._events, self._messages = _EVENTS.labels(shard), _MESSAGES.labels(shard)
        self._batch_events, self._step, self._delay = (
            _BATCH.labels(shard),
            _STEP.labels(shard),
            _DELAY.labels(shard),
        )
        _DEAD.labels(shard)  # at 0, so that the first one is visible as an increase
        self._portion = Portion(READ_ENTRIES)
        self._has_read_all = False
        """Whether the last read found nothing new."""
        _LAG.labels(shard).set_function(lambda: self.behind_ms() / 1_000)

    def restore(self) -> None:
        """Bring the feeds to the last commit.

        Raises:
            Fenced: another process has taken over.
            InvariantBroken: the log contradicts itself, or its required part is gone.
            MarketsUnknownError: the shard's markets are not known yet.
        """
        saved, markets = self._store.load(self._shard), self._store.markets(self._shard) or ()
        if saved.state:
            try:
                self.feeds = ShardFeeds.decode(self._shard, markets, saved.state, saved.chunks)
            except msgspec.MsgspecError as error:
                raise InvariantBroken(
                    f"shard {self._shard}: the saved state cannot be read: {error}"
                ) from error
            if self.feeds.undefined:
                raise _markets_unknown(self._shard, ", ".join(sorted(self.feeds.undefined)))
        else:
            self.feeds = ShardFeeds(self._shard, markets)
        self._saved_id = self.feeds.position
        self.mark = Mark(saved.published_id, saved.published_time)
        end = saved.published_id
        # Up to the published position, without outputs: subscribers have received them.
        while self.feeds.position < end:
            entries = self._store.read({self._shard: self.feeds.position}, self._portion.count, 0)
            self._portion.note(len(entries), sum(len(frame) for _, _, frame in entries))
            published = [entry for entry in entries if entry[1] <= end]
            for _, stream_id, frame in published:
                self._apply(stream_id, frame)
            self.feeds.skip_outputs()
            if not published:
                raise InvariantBroken(
                    f"shard {self._shard}: the log does not reach {saved.published_id}, which was published"
                )
        # Time has advanced without events, too: the seconds and candles that closed then were published.
        self.feeds.advance(saved.published_time)
        self.feeds.skip_outputs()
        if saved.is_lost:
            self.feeds.repeat_all()
        self._dead_letters.clear()
        _log.info(
            "feeds restored",
            shard=self._shard,
            saved=str(self._saved_id),
            published=str(saved.published_id),
            time=self.mark.time,
        )

    def follow(self, entries: Sequence[tuple[StreamId, bytes]], now: int) -> int:
        """Apply and commit new entries; return their number of events."""
        self._has_read_all = False
        count = uncommitted = 0
        began = time.perf_counter()
        for stream_id, frame in entries:
            try:
                uncommitted += self._apply(stream_id, frame)
            except LaterFormatError as error:
                # The events before the held entry are still committed below; the next step reads it again.
                self._hold(stream_id, error)
                break
            except MarketsUnknownError as error:
                _log.warning(
                    "the events wait", shard=self._shard, stream_id=str(stream_id), reason=str(error)
                )
                time.sleep(_HELD_S)
                break
            # In portions, so that subscribers do not wait for the end of a long backlog.
            if uncommitted >= COMMIT_EVENTS:
                self._commit(now)
                count, uncommitted = count + uncommitted, 0
        else:
            _HELD.labels(self._shard).set(0)
        self._commit(now)
        count += uncommitted
        self._events.inc(count)
        self._batch_events.observe(count)
        step_s = time.perf_counter() - began
        self._step.observe(step_s)
        if self._tracer is not None:
            trace_events(self._tracer, "publish", (frame for _, frame in entries), step_s, shard=self._shard)
        if entries:
            self._delay.observe(max(0.0, time.time() - entries[0][0].ms / 1_000))
        return count

    def behind_ms(self) -> int:
        """Return the lag of the feeds in the shard's time, while there are unread entries."""
        return 0 if self._has_read_all else max(0, time.time_ns() // 1_000_000 - self.feeds.time)

    def idle(self, now: int) -> None:
        """Publish what becomes due without new entries."""
        self._has_read_all = True
        self._commit(now)

    def wait_ms(self, now: int) -> int:
        """Return the time until something is due."""
        due = self.feeds.wait_ms(now)
        return _IDLE_WAIT_MS if due is None else due

    def finish(self, now: int) -> None:
        """Commit and save everything."""
        self._save_due = now
        self._commit(now)

    def _apply(self, stream_id: StreamId, frame: bytes) -> int:
        source = streams.events(self._shard)
        try:
            count = self._apply_known(stream_id, frame)
        except msgspec.MsgspecError as error:
            self._dead_letters.append(DeadLetter(source, stream_id, str(error), frame))
            self.feeds.skip(stream_id)
            return 0
        unread = self.feeds.unread
        if len(unread) > LETTERS_PER_ENTRY_MAX:
            reason = f"{len(unread)} events of the frame are not understood; the first: {unread[0].reason}"
            self._dead_letters.append(DeadLetter(source, stream_id, reason, frame))
        else:
            self._dead_letters += [
                DeadLetter(source, stream_id, item.reason, item.payload, item.number) for item in unread
            ]
        return count

    def _apply_known(self, stream_id: StreamId, frame: bytes) -> int:
        try:
            return self.feeds.apply(stream_id, frame)
        except UnknownMarketError as error:
            # The market may have been listed before everything that this process has read: then the leader
            # has written it since.
            markets = self._store.markets(self._shard)
            if markets is None:
                raise _markets_unknown(self._shard, str(error)) from error
            self.feeds.know(markets)
            return self.feeds.apply(stream_id, frame, are_markets_known=True)

    def _hold(self, stream_id: StreamId, error: LaterFormatError) -> None:
        """Leave an entry, and all after it, to a program that can read it.

        Its trades must not be missing from the streams.
        """
        _HELD.labels(self._shard).set(error.number)
        _log.critical("the events are held", shard=self._shard, stream_id=str(stream_id), reason=str(error))
        time.sleep(_HELD_S)

    def _commit(self, now: int) -> None:
        outputs = self.feeds.take_outputs(now)
        following = Mark(self.feeds.position, self.feeds.time)
        saved = None
        if now >= self._save_due and following.stream_id != self._saved_id:
            saved = self.feeds.save()
            self._save_due = now + self._save_period_ms
        if not outputs and saved is None and following.stream_id == self.mark.stream_id:
            return
        self._store.commit(self._shard, self.mark, following, outputs, self._dead_letters, saved)
        self._messages.inc(len(outputs.messages))
        _DEAD.labels(self._shard).inc(len(self._dead_letters))
        self.mark = following
        self._dead_letters = []
        if saved is not None:
            self._saved_id = following.stream_id


class FeedsWorker:
    """Runs the feeds of several shards.

    After an error it must not be used before `restore`: the outcome of the last write is unknown, and the
    state in memory is ahead.
    """

    def __init__(
        self,
        store: FeedsStore,
        shards: Iterable[int],
        save_period_ms: int,
        tracer: Tracer | None = None,
    ) -> None:
        self._store = store
        self._portion = Portion(READ_ENTRIES)
        self._followers = {shard: _ShardFollower(store, shard, save_period_ms, tracer) for shard in shards}

    def start(self) -> None:
        """Become the only writer of the shards' feeds. Call `restore` next."""
        for shard in self._followers:
            _EPOCH.labels(shard).set(self._store.take_over(shard))

    def restore(self) -> None:
        """Bring every shard's feeds to their last commit.

        Raises:
            Fenced: another process has taken over.
            InvariantBroken: the log contradicts itself, or its required part is gone.
            MarketsUnknownError: a shard's markets are not known yet.
        """
        for shard, follower in self._followers.items():
            with self._unless_superseded(shard):
                follower.restore()

    def step(self, now: int, block_ms: int) -> int:
        """Wait up to `block_ms` for events, apply and commit them; return their number.

        `now` is in ms, from any origin.

        Raises:
            Fenced: another process has taken over.
            InvariantBroken: the log contradicts itself.
        """
        block = min([block_ms, *(follower.wait_ms(now) for follower in self._followers.values())])
        after = {shard: follower.feeds.position for shard, follower in self._followers.items()}
        entries: dict[int, list[tuple[StreamId, bytes]]] = {}
        size = 0
        for shard, stream_id, frame in self._store.read(after, self._portion.count, block):
            entries.setdefault(shard, []).append((stream_id, frame))
            size += len(frame)
        self._portion.note(max(map(len, entries.values()), default=0), size)
        count = 0
        for shard, follower in self._followers.items():
            with self._unless_superseded(shard):
                if shard in entries:
                    count += follower.follow(entries[shard], now)
                else:
                    follower.idle(now)
        return count

    @contextmanager
    def _unless_superseded(self, shard: int) -> Iterator[None]:
        """Raise `Fenced` for errors of a process that stood still while another one took over.

        The entries that it missed may be trimmed, which looks like a gap.
        """
        try:
            yield
        except InvariantBroken:
            self._store.load(shard)
            raise

    def behind_ms(self) -> int:
        """Return the largest lag of the shards' feeds."""
        return max(follower.behind_ms() for follower in self._followers.values())

    def finish(self, now: int) -> None:
        """Save every shard's state, for a quick start."""
        for follower in self._followers.values():
            follower.finish(now)


def _markets_unknown(shard: int, reason: str) -> MarketsUnknownError:
    return MarketsUnknownError(f"shard {shard} has not said yet which markets it has: {reason}")
