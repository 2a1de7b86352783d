"""What a shard produced since the last `take`, as bytes: its event frame, checksum and state hashes.

Decision: docs/decisions/0013-state-hash-and-halt.md.
"""

import zlib
from typing import Final, NamedTuple

import msgspec

from engine_worker.core import conservation as audit
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard_state import ShardState
from protocol.codec import encode_as, encode_events, frame_items
from protocol.commands import ShardMessage
from protocol.decoding import array_items
from protocol.events import Event, StateHashed
from protocol.orders import OrderState
from protocol.release import this_release, too_new
from protocol.replies import Reply

STATE_HASH_INTERVAL: Final = 10_000
"""Commands between two `StateHashed`.

Replays of a log depend on it: with another one they produce other events.
"""


class Output(NamedTuple):
    """What a shard produced since it was last asked, each in order."""

    events: list[Event]
    replies: list[tuple[str, Reply]]
    """(reply_to, reply)."""
    outbox: list[tuple[int, int, ShardMessage]]
    """(target shard, sequence, message)."""
    frame: bytes
    """The events as a frame; empty when there are none."""
    closed: list[OrderState]
    """The orders that the events have closed."""


class Journal:
    """Encodes and counts the events of one shard, in the order in which they were produced."""

    __slots__ = ("_checksummed", "_state", "_switched", "hash_due")

    def __init__(self, state: ShardState) -> None:
        self._state = state
        self.hash_due = STATE_HASH_INTERVAL
        """The number of the command after which the state is hashed."""
        self._checksummed = 0
        """How many of the state's `events` are in the checksum."""
        self._switched: list[msgspec.Raw] = []
        """The first of the state's `events`, encoded, when the shard was switched to another format behind
        them."""

    def take(self) -> Output:
        """Return what was produced since the last call.

        Raises:
            InvariantBroken: what came of it is not worth what went in.
        """
        state = self._state
        events = state.events
        frame = b""
        if state.config is not None and state.config.kinds < this_release().kinds:
            self._check_kinds(state.config.kinds)
        if events:
            number = state.format
            items = encode_as(
                number, [*self._switched, *events[len(self._switched) :]] if self._switched else events
            )
            frame = encode_events(items, state.time * 1_000, number)
            if self._checksummed:  # rarely: some of them came before a `StateHashed`
                self.checksum_events()
            else:
                state.checksum = zlib.crc32(frame_items(items, len(events)), state.checksum)
        output = Output(events, state.replies, state.outbox, frame, state.closed)
        state.events, state.replies, state.outbox, state.closed = [], [], [], []
        self._checksummed, self._switched = 0, []
        return output

    def _check_kinds(self, kinds: int) -> None:
        """Refuse to tell anything that processes of the release before do not understand.

        Raises:
            InvariantBroken: something was produced before the shard was switched to its level.
        """
        state = self._state
        for produced in (state.events, (message for _, _, message in state.outbox)):
            if (name := too_new(produced, kinds)) is not None:
                raise InvariantBroken(
                    f"{name} was produced before the shard was switched to it; its kinds are of level {kinds}"
                )

    def go_on_from(self, command_count: int, checksum: int) -> None:
        """Take over the counts of the shard that this one is restored from."""
        state = self._state
        state.command_count, state.checksum = command_count, checksum
        self.hash_due = command_count - command_count % STATE_HASH_INTERVAL + STATE_HASH_INTERVAL

    def checksum_events(self) -> None:
        """Count the events so far in the checksum, in the format that the shard has now."""
        state = self._state
        new = state.events[self._checksummed :]
        state.checksum = zlib.crc32(frame_items(encode_as(state.format, new), len(new)), state.checksum)
        self._checksummed = len(state.events)

    def switch_format(self) -> None:
        """Encode the events so far in the format that the shard has now.

        Those that follow have another one.
        """
        state = self._state
        self.checksum_events()
        self._switched += map(
            msgspec.Raw, array_items(encode_as(state.format, state.events))[len(self._switched) :]
        )

    def hash_state(self) -> None:
        """Append a `StateHashed`."""
        state = self._state
        self.hash_due += STATE_HASH_INTERVAL
        # Before the digest, which covers the checksum of everything in front of it.
        self.checksum_events()
        state.events.append(StateHashed(state.time, state.command_count, audit.digest(state)))
