"""First outcomes of requests that may be repeated: by gateway, by idempotency key, by transfer id.

The first outcome is remembered for a window of the shard's time from when it was known. A request that still
waits for its outcome is not in a window; it stays until it is answered. Whether an outcome is too old depends
on the times alone. One that is too old has no effect and is in no snapshot, so it may be dropped at any time:
a few with every command, so that no command has to drop many.
"""

import hashlib
from collections import deque
from itertools import dropwhile
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from protocol.codec import encode_frame
from protocol.commands import Deposit, PlaceOrder, Withdraw
from protocol.orders import OrderType
from protocol.replies import Reply
from protocol.units import AssetUnits, TimeMs


class _Dated(Protocol):
    @property
    def key(self) -> Any: ...
    @property
    def time(self) -> TimeMs: ...


K = TypeVar("K")
D = TypeVar("D", bound=_Dated)

Request = tuple[str, int]
"""(reply channel, request id): who waits for a reply."""
KeyedCommand = PlaceOrder | Deposit | Withdraw
_DIGEST_BYTES: Final = 16


class FirstOutcome(msgspec.Struct, Generic[K], frozen=True, array_like=True, gc=False):
    """The reply to the first of several equal requests, and when it was given."""

    key: K
    time: TimeMs
    reply: Reply
    fingerprint: bytes = b""


class Transfer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Money that came in or went out, by the digest of its id."""

    key: bytes
    time: TimeMs
    asset: str
    amount: AssetUnits


class Remembered(Generic[K, D]):
    """What happened first under each key, for `window_ms` each."""

    __slots__ = ("_by_key", "oldest_first", "window_ms")

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.oldest_first: deque[D] = deque()
        """A key that was used again after its window may be here twice."""
        self._by_key: dict[K, D] = {}

    def __len__(self) -> int:
        """How many keys there are, with those that are too old and not dropped yet."""
        return len(self._by_key)

    def find(self, key: K, now: TimeMs) -> D | None:
        """Return what happened first, or None when there is none or it is too old."""
        outcome = self._by_key.get(key)
        return None if outcome is None or now - outcome.time > self.window_ms else outcome

    def remember(self, outcome: D) -> None:
        """Keep what has happened, the newest of all."""
        self._by_key[outcome.key] = outcome
        self.oldest_first.append(outcome)

    def kept(self, now: TimeMs) -> list[D]:
        """Return those that are not too old, oldest first."""
        return list(dropwhile(lambda outcome: now - outcome.time > self.window_ms, self.oldest_first))

    def is_empty(self, now: TimeMs) -> bool:
        """Return whether all are too old."""
        return not self.oldest_first or now - self.oldest_first[-1].time > self.window_ms

    def drop_old(self, now: TimeMs, most: int) -> int:
        """Drop up to `most` that are too old; return how many it were."""
        oldest_first, window_ms = self.oldest_first, self.window_ms
        dropped = 0
        while dropped < most and oldest_first and now - oldest_first[0].time > window_ms:
            outcome = oldest_first.popleft()
            if self._by_key.get(outcome.key) is outcome:
                del self._by_key[outcome.key]
            dropped += 1
        return dropped


class FirstOutcomes(Remembered[K, FirstOutcome[K]]):
    """First outcomes by key."""

    __slots__ = ()


class AnsweredRequest(msgspec.Struct, frozen=True, gc=False):
    """A request's first reply, and when it was given."""

    time: TimeMs
    reply_to: str
    reply: Reply


class AnsweredRequests:
    """First outcomes by reply channel and request id, for `window_ms` each.

    Every command comes by here, so this is `Remembered` for that case only: no key is made, and the ids of a
    channel, which follow each other, lie side by side in the channel's dict.
    """

    __slots__ = ("by_channel", "oldest_first", "window_ms")

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.oldest_first: deque[AnsweredRequest] = deque()
        """A request that came again after its window may be here twice."""
        self.by_channel: dict[str, dict[int, AnsweredRequest]] = {}
        """No channel is empty. Whether one that is here still counts, `find` says."""

    def __len__(self) -> int:
        """How many requests there are, with those that are too old and not dropped yet."""
        return sum(map(len, self.by_channel.values()))

    def find(self, reply_to: str, request_id: int, now: TimeMs) -> Reply | None:
        """Return the first reply, or None when there is none or it is too old."""
        channel = self.by_channel.get(reply_to)
        answered = channel.get(request_id) if channel is not None else None
        return None if answered is None or now - answered.time > self.window_ms else answered.reply

    def remember(self, time: TimeMs, reply_to: str, reply: Reply) -> None:
        """Keep the reply that was given at `time`, the newest of all."""
        answered = AnsweredRequest(time, reply_to, reply)
        channel = self.by_channel.get(reply_to)
        if channel is None:
            channel = self.by_channel[reply_to] = {}
        channel[reply.request_id] = answered
        self.oldest_first.append(answered)

    def kept(self, now: TimeMs) -> list[FirstOutcome[Request]]:
        """Return those that are not too old, oldest first."""
        kept = dropwhile(lambda answered: now - answered.time > self.window_ms, self.oldest_first)
        return [FirstOutcome((each.reply_to, each.reply.request_id), each.time, each.reply) for each in kept]

    def drop_old(self, now: TimeMs, most: int) -> None:
        """Drop up to `most` that are too old."""
        oldest_first, window_ms = self.oldest_first, self.window_ms
        for _ in range(most):
            if not oldest_first or now - oldest_first[0].time <= window_ms:
                return
            answered = oldest_first.popleft()
            channel = self.by_channel[answered.reply_to]
            if channel.get(answered.reply.request_id) is answered:
                del channel[answered.reply.request_id]
                if not channel:
                    del self.by_channel[answered.reply_to]


class Transfers(Remembered[bytes, Transfer]):
    """Transfers by the digest of their ids.

    Deposits, withdrawals and fees have ids of their own, and so has every account.
    """

    __slots__ = ()


class KeyedRequest:
    """A request with an idempotency key that waits for its outcome, and the repetitions that wait with it."""

    __slots__ = ("fingerprint", "repeated_by")

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.repeated_by: list[Request] = []


class KeyedRequests:
    """The idempotency keys of one account."""

    __slots__ = ("outcomes", "under_way")

    def __init__(self, window_ms: int) -> None:
        self.outcomes: FirstOutcomes[str] = FirstOutcomes(window_ms)
        self.under_way: dict[str, KeyedRequest] = {}

    def has_room(self, now: TimeMs, keys_max: int) -> bool:
        """Return whether the account may use one more key; drops what is in the way and too old."""
        while len(self.outcomes) + len(self.under_way) >= keys_max:
            if not self.outcomes.drop_old(now, 1):
                return False
        return True


def transfer_key(kind: str, account_id: int, transfer_id: str) -> bytes:
    """Return the digest of a transfer's id: ids may be long, and there are many."""
    return _digest((kind, account_id, transfer_id))


def fingerprint_of(command: KeyedCommand) -> bytes:
    """Return a hash of what the client asked for: two requests with one key must agree in it.

    The protective price of a MARKET order is not the client's, and it moves with the book. Fields that are
    appended to commands later belong here only when they differ from their defaults, or an upgrade would tell
    equal requests apart.
    """
    match command:
        case PlaceOrder():
            asked: tuple[object, ...] = (
                command.client_order_id,
                command.market,
                command.side,
                command.order_type,
                command.time_in_force,
                0 if command.order_type is OrderType.MARKET else command.price,
                command.quantity,
                command.quote_quantity,
                command.self_trade_prevention,
            )
            if command.terms is not None:
                asked += (command.terms,)
        case Deposit() | Withdraw():
            asked = (command.asset, command.amount, command.transfer_id)
    return _digest((type(command).__name__, asked))


def _digest(parts: tuple[object, ...]) -> bytes:
    return hashlib.blake2b(encode_frame(parts), digest_size=_DIGEST_BYTES).digest()
