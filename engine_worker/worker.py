"""The shell around a shard: read a batch, apply it, commit it whole, then say what came of it.

Recovery is start-up: restore the newest snapshot, apply the input up to the committed position, deliver what was committed but not
delivered, and go on. What a step says – replies, messages to other shards, answers to queries – it says after its commit.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import structlog

from engine_worker.core.shard import Output, Shard
from engine_worker.core.snapshot import SnapshotError, decode_snapshot
from engine_worker.input import NotUnderstoodError, apply_entry
from protocol import streams
from protocol.codec import decode_queries, encode_frame
from protocol.commands import MessageFrame, ShardMessage
from protocol.market import MarketMap
from protocol.replies import AuditReply, Query, Reply
from protocol.streams import QUERIES_FIELD, STREAM_START, StreamId, split_stream_id
from protocol.units import TimeMs
from runtime.stream_log import Commit, DeadLetter, Entry, Outgoing, ShardPosition, StreamLog

_log = structlog.get_logger()

REPLAY_ENTRIES = 1_000
"""Entries read at once while catching up."""


class LogDamaged(Exception):  # noqa: N818 - a verdict on the data; the message says what to do
    """The log and the snapshots do not reach the committed position."""


class Worker:
    """Runs one shard on a stream log."""

    def __init__(
        self, log: StreamLog, index: int, market_map: MarketMap, *, closed_orders_max: int, batch_entries_max: int
    ) -> None:
        """Make the worker of shard `index`; `start` gives it its state."""
        self._streams = log
        self._index = index
        self._market_map = market_map
        self._closed_orders_max = closed_orders_max
        self._batch_entries_max = batch_entries_max
        self._inputs = streams.commands(index)
        self.shard = Shard(index, market_map, closed_orders_max)
        self.position = ShardPosition(0, STREAM_START)
        self._to_say: list[tuple[str, bytes]] = []
        """Replies that go out with the next read: a round trip less for each batch."""
        self._delivery_unsure = False
        """Whether the last commit's messages may not have reached their targets; later ones must not overtake them."""

    def start(self) -> None:
        """Take the shard over and bring it to its committed position.

        Raises:
            LogDamaged: that position cannot be reached.
            InvariantBroken: the state that was committed is wrong.
        """
        self.position = self._streams.take_over(self._index)
        restored = self._restore()
        replayed = self._replay(restored)
        self._deliver_rest()
        _log.info(
            "shard started",
            shard=self._index,
            epoch=self.position.epoch,
            position=self.position.stream_id,
            snapshot=restored,
            replayed_entries=replayed,
        )

    def _restore(self) -> StreamId:
        for snapshot in self._streams.snapshots(self._index):
            try:
                self.shard, stream_id = decode_snapshot(snapshot, self._market_map, self._closed_orders_max)
            except SnapshotError as error:
                _log.warning("snapshot not used", shard=self._index, reason=str(error))
                continue
            if split_stream_id(stream_id) <= split_stream_id(self.position.stream_id):
                return stream_id
            _log.warning("snapshot not used", shard=self._index, reason="it is newer than the committed position")
        self.shard = Shard(self._index, self._market_map, self._closed_orders_max)
        return STREAM_START

    def _replay(self, after: StreamId) -> int:
        goal = split_stream_id(self.position.stream_id)
        replayed = 0
        while split_stream_id(after) < goal:
            entries = self._streams.read({self._inputs: after}, REPLAY_ENTRIES, block_ms=0)
            entries = [entry for entry in entries if split_stream_id(entry.stream_id) <= goal]
            if not entries:
                raise LogDamaged(
                    f"shard {self._index} is committed up to {self.position.stream_id}, but its input ends at {after}; "
                    "restore the Redis data from a backup"
                )
            for entry in entries:
                self._apply(entry)
            self.shard.take()
            after = entries[-1].stream_id
            replayed += len(entries)
        return replayed

    def _deliver_rest(self) -> None:
        """Deliver what is still in the outbox; the targets drop what they have seen."""
        for outgoing in self._streams.undelivered(self._index):
            self._streams.deliver(self._index, outgoing)
        self._delivery_unsure = False

    def step(self, block_ms: int) -> int:
        """Say what came of the last step; process what has come in since, waiting up to `block_ms` for something.

        Returns the number of entries processed.

        Raises:
            Fenced: another worker has taken the shard over.
            InvariantBroken: the batch leads to a wrong state; nothing of it was published.
        """
        if self._delivery_unsure:
            self._deliver_rest()
        entries = self._streams.read_inputs(self._index, self.position, self._batch_entries_max, block_ms, self._to_say)
        self._to_say = []
        if not entries:
            return 0
        inputs = [entry for entry in entries if entry.stream == self._inputs]
        if inputs:
            self._process(inputs)
        if len(inputs) < len(entries):
            self._answer(entry for entry in entries if entry.stream != self._inputs)
        return len(entries)

    def _process(self, entries: Sequence[Entry]) -> None:
        dead_letters = [letter for entry in entries if (letter := self._apply(entry)) is not None]
        output = self.shard.take()
        stream_id = entries[-1].stream_id
        outbox = self._frames(output)
        self._streams.commit(
            Commit(
                self._index,
                self.position,
                stream_id,
                output.frame,
                outbox,
                dead_letters,
            )
        )
        self.position = ShardPosition(self.position.epoch, stream_id)
        self._delivery_unsure = bool(outbox)
        self._to_say += _reply_frames(output.replies)
        if outbox:
            self._streams.deliver(self._index, Outgoing(stream_id, outbox))
            self._delivery_unsure = False

    def _apply(self, entry: Entry) -> DeadLetter | None:
        """Apply one entry; return why it could not be understood, if so. Nothing of such an entry is applied."""
        try:
            apply_entry(self.shard, entry)
        except NotUnderstoodError as error:
            return _dead_letter(entry, str(error))
        return None

    def _frames(self, output: Output) -> dict[int, bytes]:
        by_target: defaultdict[int, list[tuple[int, ShardMessage]]] = defaultdict(list)
        for target, sequence, message in output.outbox:
            by_target[target].append((sequence, message))
        return {
            target: encode_frame(
                MessageFrame(self._index, target, numbered[0][0], tuple(message for _, message in numbered))
            )
            for target, numbered in by_target.items()
        }

    def _answer(self, entries: Iterable[Entry]) -> None:
        replies: list[tuple[str, Reply]] = []
        time = TimeMs(split_stream_id(self.position.stream_id)[0])
        for entry in entries:
            try:
                queries = decode_queries(entry.fields.get(QUERIES_FIELD, b""))
            except msgspec.MsgspecError as error:
                # A query is no part of the log, so there is no commit to write this with.
                letter = _dead_letter(entry, str(error))
                self._streams.append(streams.dead_letters(self._index), letter.fields())
                continue
            replies.extend(self._reply_to(query, time) for query in queries)
        self._to_say += _reply_frames(replies)

    def _reply_to(self, query: Query, time: TimeMs) -> tuple[str, Reply]:
        reply_to, reply = self.shard.answer(query, time)
        if isinstance(reply, AuditReply):
            reply = msgspec.structs.replace(reply, position=self.position.stream_id)
        return reply_to, reply

    def finish(self) -> None:
        """Say what is left to say."""
        self._streams.publish(self._to_say)
        self._to_say = []


def _dead_letter(entry: Entry, reason: str) -> DeadLetter:
    _log.warning("entry not understood", stream=entry.stream, stream_id=entry.stream_id, reason=reason)
    return DeadLetter(entry.stream, entry.stream_id, reason, msgspec.msgpack.encode(entry.fields))


def _reply_frames(replies: Iterable[tuple[str, Any]]) -> list[tuple[str, bytes]]:
    by_waiter: defaultdict[str, list[Any]] = defaultdict(list)
    for reply_to, reply in replies:
        by_waiter[reply_to].append(reply)
    return [(streams.replies(reply_to), encode_frame(each)) for reply_to, each in by_waiter.items()]
