"""The queue to the shards: commands and queries of one event-loop tick are sent together.

They form one stream entry per target shard. Under load a tick collects many commands, so the cost of an entry
is shared; at light load a tick is one command, and nothing waits for a timer. A busy shard gets no more
commands until it answers; meanwhile commands wait here, where accounts take turns (fair_queue.py). A command
is refused before it is enqueued (`overloaded`, `unavailable`: nothing happened), or is enqueued and answered,
or its outcome is unknown.

A command whose answer may be lost is sent again with its number: the shard answers a repetition with the
first outcome (docs/decisions/0005). This happens when the connection is lost during the append, when the
reply channel was not subscribed for a while, and when the shard is long past the command. Only commands with
a waiting client are sent again, that is within one reply timeout; the shard remembers outcomes for ten.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.backlog import Backlog, allowed
from adapters.fair_queue import FairQueue, Window
from adapters.metrics import APPEND, BATCH, REPEATED
from adapters.redis_link import RedisLink, packed
from adapters.redis_links import RedisLinks
from adapters.replies import ReplyWaiter
from functions.api.errors import ApiError, halted, overloaded, unavailable
from protocol import streams
from protocol.codec import encode_commands, encode_frame
from protocol.commands import CancelAllOrders, CancelOrder, Command, Deposit, LoggedCommand, PlaceOrder
from protocol.configuration import Role
from protocol.listing import Listing
from protocol.replies import Query, Reply
from protocol.signing import sign
from protocol.streams import COMMANDS_FIELD, QUERIES_FIELD
from protocol.units import AccountId, TimeMs
from protocol.windows import REPLY_TIMEOUTS
from runtime.operator_keys import key_name, public_half
from runtime.settings import Settings
from runtime.tasks import end_tasks
from runtime.tracing import Tracer

_WITH_DEADLINE: Final = (PlaceOrder, CancelOrder, CancelAllOrders)
_CANCELS: Final = (CancelOrder, CancelAllOrders)
_SAME_CANCELS_MAX: Final = 10
"""Maximum of requests to cancel all of the same orders that may wait for the one in progress."""
_ADAPTED_S: Final = 0.1
_QUERIES_KEPT: Final = 10_000
"""The approximate maximum length of a query stream: the senders of older queries have given up."""

_BACKLOG_STALE_MS: Final = 500
"""The maximum age of a backlog measurement that is used."""
_TOGETHER: Final = 500
"""Maximum of commands in one frame; readers read many entries at once."""

_Pack = Callable[[int, Sequence[Any]], bytes]
"""(shard, batch) -> the Redis command that appends it."""

_log = structlog.get_logger()


class CommandQueue:
    """Implements `functions.api.ports.Shards`; `reply_to` names this process's reply channel."""

    def __init__(
        self,
        links: RedisLinks,
        replies_link: RedisLink,
        replies: ReplyWaiter,
        backlog: Backlog,
        reply_to: str,
        listing: Callable[[], Listing],
        settings: Settings,
        tracer: Tracer | None = None,
        faucet: Ed25519PrivateKey | None = None,
    ) -> None:
        self.reply_to = reply_to
        self.next_request_id: Callable[[], int] = replies.next_request_id
        self._links = links
        self._replies_link = replies_link
        self._replies = replies
        self._backlog = backlog
        self._listing = listing
        self._age_ms_max = settings.backlog_age_ms_max
        self._pending_max = settings.pending_requests_max
        self._tracer = tracer
        self._faucet = faucet
        """The key that signs deposits; None: this process has none, and shards refuse its deposits."""
        self._faucet_name = key_name(Role.FAUCET, public_half(faucet)) if faucet is not None else ""
        self._signed_ms = settings.reply_timeout_ms * REPLY_TIMEOUTS // 2
        """How long a signature is valid: as long as a command may be repeated."""
        self._loop = asyncio.get_running_loop()
        self._commands: dict[int, list[Command]] = {}
        shards = range(settings.shard_count)
        self._waiting = [FairQueue[Command]() for _ in shards]
        """Shard -> commands that wait until the shard is less busy."""
        self._windows = [Window() for _ in shards]
        self._in_flight = [0] * settings.shard_count
        """Shard -> its unanswered commands, including those about to be sent."""
        self._settled = [partial(self._answered, shard) for shard in shards]
        self._canceling_all: dict[tuple[AccountId, str], deque[_Later]] = {}
        """Account and market whose orders are being canceled -> the waiting requests for the same.

        They are sent one at a time. Each order costs its market's shard a message, even if its cancel is
        already in progress.
        """
        self._queries: dict[int, list[Query]] = {}
        self._flush_is_due = False
        self._began_s = 0.0
        """The time of the first command or query of this tick."""
        self._to_retry: list[tuple[int, _Pack, Sequence[Any]]] = []
        self._overdue_s = settings.reply_timeout_ms / 1_000 / 2
        self._repeated_to = [0] * settings.shard_count
        """Shard -> the last request id that was repeated because it was overdue; one repetition suffices."""
        self._repeater = self._loop.create_task(self._repeat_overdue())
        self._adapter = self._loop.create_task(self._adapt_windows())

    def submit(self, command: Command, deadline_us: int = 0) -> asyncio.Future[Reply]:
        """Enqueue a command at its account's shard; see `functions.api.ports.Shards`."""
        if isinstance(command, CancelAllOrders):
            return self._submit_one_by_one(command, deadline_us)
        return self._submit(command, deadline_us)

    def _submit_one_by_one(self, command: CancelAllOrders, deadline_us: int) -> asyncio.Future[Reply]:
        """Enqueue a request to cancel all orders of an account in a market, after the previous one."""
        key = (command.account_id, command.market)
        later = self._canceling_all.get(key)
        if later is None:
            reply = self._submit(command, deadline_us)
            self._canceling_all[key] = deque()
            # Not the shard's answer itself: the cancellation by a client must not end the turn.
            promise: asyncio.Future[Reply] = self._loop.create_future()
            reply.add_done_callback(partial(_pass_on, promise))
            reply.add_done_callback(lambda _: self._next_of(key))
            return promise
        if len(later) >= _SAME_CANCELS_MAX:
            raise overloaded()
        promise = self._loop.create_future()
        later.append(_Later(command, deadline_us, promise))
        return promise

    def _next_of(self, key: tuple[AccountId, str]) -> None:
        later = self._canceling_all[key]
        while later:
            command, deadline_us, promise = later.popleft()
            if promise.done():
                continue  # the client has disconnected
            try:
                reply = self._submit(command, deadline_us)
            except ApiError as error:
                promise.set_exception(error)
                continue
            reply.add_done_callback(partial(_pass_on, promise))
            reply.add_done_callback(lambda _: self._next_of(key))
            return
        del self._canceling_all[key]

    def _submit(self, command: Command, deadline_us: int) -> asyncio.Future[Reply]:
        self._backlog.note_use()
        shard = self._shard_of_account(command.account_id)
        if deadline_us and isinstance(command, _WITH_DEADLINE):
            deadline_ms = max(1, deadline_us // 1_000 + self._backlog.clock_offset_ms[shard])
            command = msgspec.structs.replace(command, deadline_ms=deadline_ms)
        self._refuse_when_not_possible(shard)
        concerned = self._concerned(shard, command)
        if not self._backlog.halted.isdisjoint(concerned):
            raise halted()
        is_cancel = isinstance(command, _CANCELS)
        self._refuse_when_behind(concerned, allowed(is_cancel=is_cancel))
        waiting = self._waiting[shard]
        if waiting or self._in_flight[shard] >= self._windows[shard].size:
            if not waiting.put(command.account_id, command, is_urgent=is_cancel):
                raise overloaded()
        else:
            self._commands.setdefault(shard, []).append(command)
            self._in_flight[shard] += 1
        self._flush_soon()
        reply = self._replies.wait_for(command.request_id, command)
        reply.add_done_callback(self._settled[shard])
        if self._tracer is not None and isinstance(command, PlaceOrder):
            self._trace(self._tracer, command, reply)
        return reply

    def _shard_of_account(self, account_id: AccountId) -> int:
        return self._listing().known.shard_of_account(account_id)

    def query(self, shard: int, query: Query) -> asyncio.Future[Reply]:
        """Query a shard."""
        self._backlog.note_use()
        self._refuse_when_not_possible(shard)
        if shard in self._backlog.halted:
            raise halted()
        self._queries.setdefault(shard, []).append(query)
        self._flush_soon()
        return self._replies.wait_for(query.request_id)

    def retry_lost(self) -> None:
        """Send again what was lost with the last connection and still has a waiting client.

        For a link's `on_ready`.
        """
        lost, self._to_retry = self._to_retry, []
        for shard, pack, batch in lost:
            if not self._links.of(shard).ready:
                self._to_retry.append((shard, pack, batch))
            elif waiting := [command for command in batch if self._replies.is_waiting(command.request_id)]:
                self._send(shard, pack, waiting, is_retry=True)

    def repeat_unanswered(self) -> None:
        """Send all waiting commands again, because their replies may have been published to nobody.

        For the reply link's `on_ready`.
        """
        lost = {command.request_id for _, _, batch in self._to_retry for command in batch}
        unsent = {
            command.request_id for batch in self._commands.values() for command in batch
        } | self._waiting_here()
        self._repeat(
            command for _, command in self._replies.commands() if command.request_id not in lost | unsent
        )

    def repeat_overdue(self) -> None:
        """Send again, once, commands that are overdue although their shard has no backlog of that age.

        Overdue is half of the reply timeout. The worker may have ended between its commit and its reply.
        """
        overdue = []
        unsent = self._waiting_here()
        for waited_s, command in self._replies.commands(self._overdue_s):
            shard = self._shard_of_account(command.account_id)
            is_passed = self._backlog.age_ms[shard] < waited_s * 1_000 - _BACKLOG_STALE_MS
            if (
                command.request_id > self._repeated_to[shard]
                and is_passed
                and command.request_id not in unsent
            ):
                self._repeated_to[shard] = command.request_id
                overdue.append(command)
        self._repeat(overdue)

    async def _repeat_overdue(self) -> None:
        while True:
            await asyncio.sleep(self._overdue_s / 5)
            self.repeat_overdue()
            self._to_retry = [
                (shard, pack, batch)
                for shard, pack, batch in self._to_retry
                if any(self._replies.is_waiting(command.request_id) for command in batch)
            ]

    def _repeat(self, commands: Iterable[Command]) -> None:
        by_shard: dict[int, list[Command]] = {}
        for command in commands:
            by_shard.setdefault(self._shard_of_account(command.account_id), []).append(command)
        for shard, batch in by_shard.items():
            for frame in _frames(batch):
                self._send(shard, self._commands_entry, frame, is_retry=True)

    async def close(self) -> None:
        """Stop repeating."""
        await end_tasks([self._repeater, self._adapter])

    def _concerned(self, shard: int, command: Command) -> tuple[int, ...]:
        """Return the shards that must answer a command: the account's, and the market's if it names one."""
        of_market = self._listing().known.shards.get(getattr(command, "market", ""), shard)
        return (shard,) if of_market == shard else (shard, of_market)

    def _refuse_when_behind(self, concerned: tuple[int, ...], may: float) -> None:
        """Refuse a command that would wait for a lagging shard or fill a full one; `may`: see `allowed`.

        A market's shard counts like the account's. Otherwise all traders of that market would wait until
        their requests time out with an unknown status, and its input would keep growing.
        """
        for shard in concerned:
            if not self._links.of(shard).ready:
                raise unavailable()
            if self._backlog.age_ms[shard] > self._age_ms_max * may or self._backlog.filled[shard] > may:
                raise overloaded()

    def _refuse_when_not_possible(self, shard: int) -> None:
        if not self._links.of(shard).ready or not self._replies_link.ready:
            raise unavailable()
        if len(self._replies) >= self._pending_max:
            raise overloaded()

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._began_s = self._loop.time()
            self._loop.call_soon(self._flush)

    def _waiting_here(self) -> set[int]:
        return {command.request_id for waiting in self._waiting for command in waiting}

    def _answered(self, shard: int, _reply: object) -> None:
        self._in_flight[shard] -= 1
        if self._waiting[shard]:
            self._flush_soon()

    def _take_waiting(self) -> None:
        """Send as many waiting commands as their shards may have."""
        for shard, waiting in enumerate(self._waiting):
            room = self._windows[shard].size - self._in_flight[shard]
            if waiting and room > 0:
                taken = waiting.take(room)
                self._commands.setdefault(shard, []).extend(taken)
                self._in_flight[shard] += len(taken)

    async def _adapt_windows(self) -> None:
        while True:
            await asyncio.sleep(_ADAPTED_S)
            self.adapt_windows()

    def adapt_windows(self) -> None:
        """Adapt the windows of the shards to their latency, and refuse commands that have waited too long.

        Nothing of a refused command was executed.
        """
        still = self._replies.waiting_for(self._age_ms_max / 1_000) if any(self._waiting) else set()
        for shard, waiting in enumerate(self._waiting):
            self._windows[shard].adapt(self._backlog.age_ms[shard], is_full=bool(waiting))
            for command in waiting.drop(lambda command: command.request_id not in still):
                self._in_flight[shard] += 1  # the answer subtracts it again
                self._replies.fail(command.request_id, overloaded())
            if waiting:
                self._flush_soon()

    def _flush(self) -> None:
        self._flush_is_due = False
        self._take_waiting()
        commands, self._commands = self._commands, {}
        queries, self._queries = self._queries, {}
        for shard, batch in commands.items():
            BATCH.observe(len(batch))
            for frame in _frames(batch):
                self._send(shard, self._commands_entry, frame)
        for shard, shard_queries in queries.items():
            self._send(shard, _queries_entry, shard_queries)

    def _send(self, shard: int, pack: _Pack, batch: Sequence[Any], *, is_retry: bool = False) -> None:
        if is_retry:
            REPEATED.inc(len(batch))
        try:
            on_reply = partial(self._appended, shard, pack, batch, is_retry, self._began_s)
            self._links.of(shard).send(pack(shard, batch), on_reply)
        except ConnectionError:
            if is_retry:
                self._to_retry.append((shard, pack, batch))
            else:
                self._fail(batch)

    def _appended(
        self, shard: int, pack: _Pack, batch: Sequence[Any], is_retry: bool, began_s: float, reply: object
    ) -> None:
        if isinstance(reply, bytes):
            if pack == self._commands_entry and not is_retry:
                append_s = self._loop.time() - began_s
                APPEND.observe(append_s)
                if self._tracer is not None:
                    _trace_append(self._tracer, batch, append_s)
            return
        if is_retry or isinstance(reply, ConnectionError):
            self._to_retry.append((shard, pack, batch))
            return
        _log.warning("commands not enqueued", count=len(batch), error=str(reply))
        # Redis itself refused (loading, read-only, out of memory): nothing was appended.
        self._fail(batch)

    def _commands_entry(self, shard: int, batch: Sequence[Command]) -> bytes:
        now_us, number = time.time_ns() // 1_000, self._listing().format
        commands: Sequence[LoggedCommand] = batch
        if self._faucet is not None and any(isinstance(command, Deposit) for command in batch):
            commands = [self._signed(shard, command, now_us // 1_000) for command in batch]
        return packed(
            "XADD", streams.commands(shard), "*", COMMANDS_FIELD, encode_commands(commands, now_us, number)
        )

    def _signed(self, shard: int, command: Command, now_ms: int) -> LoggedCommand:
        """Return a command in the form that its shard accepts, signed if necessary.

        A repetition is signed again, because the signature includes the deadline.
        """
        if self._faucet is None or not isinstance(command, Deposit):
            return command
        deadline_ms = TimeMs(now_ms + self._backlog.clock_offset_ms[shard] + self._signed_ms)
        return sign(self._faucet, self._faucet_name, shard, deadline_ms, command)

    def _trace(self, tracer: Tracer, command: PlaceOrder, reply: asyncio.Future[Reply]) -> None:
        trace = tracer.trace_of(command.account_id, command.client_order_id)
        if trace is None:
            return
        start_ns = time.time_ns()

        def answered(reply: asyncio.Future[Reply]) -> None:
            if reply.cancelled():
                outcome = "canceled"
            elif (error := reply.exception()) is not None:
                outcome = str(error)
            else:
                outcome = type(reply.result()).__name__
            names: dict[str, str | int] = {
                "account_id": command.account_id,
                "client_order_id": command.client_order_id,
            }
            tracer.whole(
                trace,
                "place order",
                start_ns,
                time.time_ns(),
                market=command.market,
                outcome=outcome,
                **names,
            )

        reply.add_done_callback(answered)

    def _fail(self, batch: Sequence[Any]) -> None:
        for command in batch:
            self._replies.fail(command.request_id, unavailable())


class _Later(NamedTuple):
    """A command that waits for the answer to another one."""

    command: CancelAllOrders
    deadline_us: int
    reply: asyncio.Future[Reply]


def _pass_on(promise: asyncio.Future[Reply], reply: asyncio.Future[Reply]) -> None:
    if reply.cancelled():
        promise.cancel()
        return
    error = reply.exception()
    if promise.done():
        return
    if error is not None:
        promise.set_exception(error)
    else:
        promise.set_result(reply.result())


def _frames(batch: list[Command]) -> Iterable[list[Command]]:
    if len(batch) <= _TOGETHER:
        return (batch,)
    return (batch[first : first + _TOGETHER] for first in range(0, len(batch), _TOGETHER))


def _trace_append(tracer: Tracer, batch: Sequence[Any], append_s: float) -> None:
    end_ns = time.time_ns()
    for command in batch:
        if isinstance(command, PlaceOrder) and (
            trace := tracer.trace_of(command.account_id, command.client_order_id)
        ):
            tracer.stage(trace, "append", end_ns - int(append_s * 1e9), end_ns, batch_commands=len(batch))


def _queries_entry(shard: int, batch: Sequence[Query]) -> bytes:
    return packed(
        "XADD", streams.queries(shard), "MAXLEN", "~", _QUERIES_KEPT, "*", QUERIES_FIELD, encode_frame(batch)
    )
