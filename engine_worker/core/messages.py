"""Numbered messages between the shards, and between the two halves of an order on one shard.

The halves speak only by messages (docs/decisions/0001-two-halves-of-an-order.md). `Messages.send` hands a
message to this very shard at once when it is the target, otherwise it goes to the outbox; so one shard and
many run the same steps in the same order.
"""

from collections.abc import Callable, Iterator
from typing import Any

from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard_state import ShardState
from protocol.commands import MessageFrame, ShardMessage


class Messages:
    """The messages to and from the other shards.

    Their numbers are in the state, so a replay counts them alike.
    """

    __slots__ = ("_index", "_state", "handlers")

    def __init__(self, state: ShardState) -> None:
        self._state = state
        self._index = state.index
        self.handlers: dict[type, Callable[[Any], None]] = {}
        """Who takes which message, when this shard is the target."""

    def new_messages(self, frame: MessageFrame) -> Iterator[ShardMessage]:
        """Yield the messages that were not applied before, and count each as applied, which the caller does.

        Raises:
            InvariantBroken: a message is missing, or the frame is for another shard.
        """
        state = self._state
        if frame.target != state.index:
            raise InvariantBroken(f"a frame for shard {frame.target} reached shard {state.index}")
        seen = state.received.get(frame.source, 0)
        if frame.first_sequence > seen + 1:
            raise InvariantBroken(
                f"messages {seen + 1} to {frame.first_sequence - 1} from shard {frame.source} are missing"
            )
        # What was received before is passed over: a new leader delivers again what may have arrived
        # (docs/decisions/0001-two-halves-of-an-order.md).
        for message in frame.messages[seen + 1 - frame.first_sequence :]:
            seen += 1
            state.received[frame.source] = seen
            yield message

    def send(self, target: int, message: ShardMessage) -> None:
        """Hand a message to this shard at once, or put it into the outbox for another one."""
        if target == self._index:
            self.handlers[type(message)](message)
        else:
            state = self._state
            if not 0 <= target < state.shard_count:
                raise InvariantBroken(f"a {type(message).__name__} for shard {target} of {state.shard_count}")
            sequence = state.sent[target] = state.sent.get(target, 0) + 1
            state.outbox.append((target, sequence, message))
