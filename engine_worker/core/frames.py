"""The object core behind frames: decodes and validates entries of `in:{k}`, and encodes the results.

Everything is checked before anything of it is applied: what gets through cannot make the core raise, but for
a broken invariant. docs/reference/formats.md says what becomes of the rest. In short: a command that is not
understood is a dead letter, alone; bytes that nobody can read are one, whole; a message of another shard that
is not understood halts this shard, since it may carry money; and an entry that an operator has had skipped is
passed over, by everybody who reads the log.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from typing_extensions import override

from engine_worker.core import journal
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.journal import Output
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot
from engine_worker.frame_core import (
    Answer,
    Cores,
    DeadItem,
    FrameCore,
    FrameOutput,
    MarketCounts,
    MessageNotUnderstood,
    NotUnderstoodError,
)
from protocol.codec import (
    CommandItems,
    LaterFormatError,
    MessageItems,
    UnreadItem,
    decode_command_frame,
    decode_command_items,
    decode_message_items,
    decode_messages,
    decode_queries,
    decode_skip_frame,
    encode_frame,
    encode_messages,
)
from protocol.commands import (
    CancelAllOrders,
    CancelOrder,
    CancelOrders,
    CancelResting,
    ConfigureMarket,
    ConfigureShard,
    KnowMarket,
    LoggedCommand,
    MatchOrder,
    MessageFrame,
    PlaceOrder,
    ShardMessage,
    Signed,
    SignedBody,
    SkipEntry,
    Tick,
    WithdrawFees,
)
from protocol.decoding import msgpack_decoder
from protocol.listing import ShardConfiguration, encode_configuration
from protocol.market import ACCOUNT_SLOTS, MarketMap
from protocol.orders import OrderState
from protocol.release import LaterReleaseError, why_later
from protocol.replies import AuditReply, OrderQuery, Refused, Reply
from protocol.signing import decode_signed_body
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD, SKIPPED_ENTRY_FIELD, SKIPPED_FIELD
from protocol.units import TimeMs

PROGRESS_COMMANDS = 16
"""After as many commands of one entry `apply_frame` says that it gets on."""
_SWITCHING = frozenset((Signed, ConfigureShard))
_ALWAYS_APPLIED = (Tick, PlaceOrder, CancelOrder)
"""The last two when they are the shard's, which is looked at first."""
_TO_MARKET = (MatchOrder, CancelResting)
_NOT_AUTHORIZED = "no key of an operator of this shard has signed it"
_decode_fields = msgpack_decoder(dict[bytes, bytes])


class ObjectOutput(FrameOutput):
    """Implements `FrameOutput`. What a follower does not ask for is never encoded."""

    __slots__ = ("_format", "_index", "_output", "_time")

    def __init__(self, shard: Shard, output: Output) -> None:
        self._index, self._time, self._format = shard.state.index, shard.state.time, shard.state.format
        self._output = output

    @property
    @override
    def frame(self) -> bytes:
        return self._output.frame

    @override
    def replies(self) -> list[tuple[str, bytes]]:
        by_waiter: defaultdict[str, list[Reply]] = defaultdict(list)
        for reply_to, reply in self._output.replies:
            if reply_to:
                by_waiter[reply_to].append(reply)
        return [(reply_to, encode_frame(each)) for reply_to, each in by_waiter.items()]

    @override
    def outbox(self) -> dict[int, bytes]:
        if not self._output.outbox:
            return {}
        by_target: defaultdict[int, list[tuple[int, ShardMessage]]] = defaultdict(list)
        for target, sequence, message in self._output.outbox:
            by_target[target].append((sequence, message))
        return {
            target: encode_messages(
                MessageFrame(
                    self._index,
                    target,
                    numbered[0][0],
                    tuple(message for _, message in numbered),
                    self._time * 1_000,
                ),
                self._format,
            )
            for target, numbered in by_target.items()
        }

    @override
    def closed_orders(self) -> Sequence[OrderState]:
        return self._output.closed


class ObjectCore(FrameCore):
    """Implements `FrameCore`; tools that look inside use its `shard`."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._seen: tuple[object, object] = (None, None)
        """The configuration and the markets when they were looked at last.

        Both are replaced when they change.
        """
        self._changes = 0

    @override
    def let_go(self) -> None:
        self.shard.let_go()

    @property
    @override
    def index(self) -> int:
        return self.shard.state.index

    @property
    @override
    def shard_count(self) -> int:
        return self.shard.state.shard_count

    @property
    @override
    def command_count(self) -> int:
        return self.shard.state.command_count

    @property
    @override
    def order_count(self) -> int:
        return self.shard.state.order_count

    @property
    @override
    def checksum(self) -> int:
        return self.shard.state.checksum

    @property
    @override
    def time(self) -> TimeMs:
        return self.shard.state.time

    @property
    @override
    def format(self) -> int:
        return self.shard.state.format

    @property
    @override
    def state_hash_interval(self) -> int:
        return journal.STATE_HASH_INTERVAL

    @property
    @override
    def is_configured(self) -> bool:
        return self.shard.state.config is not None

    @property
    @override
    def has_work(self) -> bool:
        return bool(self.shard.state.drains)

    @property
    @override
    def symbols(self) -> Collection[str]:
        return self.shard.state.market_map.by_symbol.keys()

    @property
    @override
    def configuration_number(self) -> int:
        config, market_map = self.shard.state.config, self.shard.state.market_map
        if self._seen[0] is not config or self._seen[1] is not market_map:
            self._seen = (config, market_map)
            self._changes += 1
        return self._changes

    @override
    def encode_configuration(self, stream_id: StreamId) -> bytes:
        shard = self.shard
        own = [each for each in shard.state.market_configs.values() if each.shard == shard.state.index]
        own.sort(key=lambda each: each.market.symbol)
        return encode_configuration(ShardConfiguration(str(stream_id), shard.state.config, tuple(own)))

    @property
    @override
    def waiting_events(self) -> int:
        return self.shard.waiting_events

    @override
    def apply_frame(
        self, stream_id: StreamId, fields: Mapping[bytes, bytes], progressed: Callable[[], None] | None = None
    ) -> list[DeadItem]:
        shard = self.shard
        commands = fields.get(COMMANDS_FIELD)
        dead: list[DeadItem] = []
        applied: Iterator[object]
        if commands is not None and len(fields) == 1:  # as nearly always
            items, refused, time = _enter_commands(shard, stream_id, commands)
            if not refused and (progressed is None or len(items) < PROGRESS_COMMANDS):
                for command in items:
                    shard.apply(command, time)  # type: ignore[arg-type]  # what is unread is refused
                return dead
            applied = _apply_others(shard, items, refused, time, dead)
        else:
            applied = apply_one_by_one(shard, stream_id, fields, dead)
        for number, _ in enumerate(applied, start=1):
            if progressed is not None and not number % PROGRESS_COMMANDS:
                progressed()
        return dead

    @override
    def why_not_followed(self, instruction: bytes) -> str | None:
        read = decode_skip_frame(instruction)
        return (
            None
            if self.shard.state.authority.may_skip(read.signed, self.shard.state.index)
            else _NOT_AUTHORIZED
        )

    @override
    def take(self) -> FrameOutput:
        return ObjectOutput(self.shard, self.shard.take())

    @override
    def answer(self, queries: bytes, time: TimeMs, position: StreamId) -> list[Answer]:
        answers = []
        for query in decode_queries(queries):
            reply_to, reply = self.shard.answer(query, time)
            is_unknown = isinstance(query, OrderQuery) and isinstance(reply, Refused)
            if isinstance(reply, AuditReply):
                reply = msgspec.structs.replace(reply, position=str(position))
            answers.append(Answer(reply_to, encode_frame(reply), query if is_unknown else None))  # type: ignore[arg-type]
        return answers

    @override
    def encode_snapshot(self, stream_id: StreamId | None) -> bytes:
        return encode_snapshot(self.shard, stream_id)

    @override
    def digest(self) -> str:
        return self.shard.digest()

    @override
    def differences(self) -> dict[str, int]:
        return {asset: totals.difference() for asset, totals in self.shard.state.totals.items()}

    @override
    def market_counts(self) -> dict[str, MarketCounts]:
        markets = self.shard.state.markets.items()
        return {symbol: MarketCounts(len(state.book.orders), state.trade_id) for symbol, state in markets}

    @override
    def check_money(self) -> None:
        self.shard.check_money()

    @override
    def check_invariants(self) -> None:
        self.shard.check_invariants()


class ObjectCores(Cores):
    """Implements `Cores`."""

    @override
    def new(self, index: int, shard_count: int) -> FrameCore:
        return ObjectCore(Shard(index, MarketMap.placed([], shard_count)))

    @override
    def restore(self, snapshot: bytes) -> tuple[FrameCore, StreamId]:
        shard, stream_id = decode_snapshot(snapshot)
        return ObjectCore(shard), stream_id


class Skipped(NamedTuple):
    """An entry that was passed over."""

    instruction: SkipEntry
    signed: Signed | None
    """The instruction with its signature, if it has one."""
    fields: dict[bytes, bytes]
    """What is in it."""


def skipped(stream_id: StreamId, fields: Mapping[bytes, bytes]) -> Skipped | None:
    """Return by which instruction an entry is passed over; None: by none.

    Raises:
        NotUnderstoodError: it says that it is, and by no instruction that names it.
    """
    if SKIPPED_FIELD not in fields:
        return None
    try:
        instruction, signed = decode_skip_frame(fields[SKIPPED_FIELD])
        inside = _decode_fields(fields.get(SKIPPED_ENTRY_FIELD, b""))
    except msgspec.MsgspecError as error:
        raise NotUnderstoodError(f"no instruction to skip an entry: {error}") from error
    if instruction.stream_id != str(stream_id):
        raise NotUnderstoodError(f"the instruction is to skip {instruction.stream_id[:40]!r}")
    return Skipped(instruction, signed, inside)


def apply_one_by_one(
    shard: Shard, stream_id: StreamId, fields: Mapping[bytes, bytes], dead: list[DeadItem] | None = None
) -> Iterator[LoggedCommand | ShardMessage | SkipEntry]:
    """Apply one entry of the shard's input; yield each command and each new message once it is applied.

    Commands that are not understood are added to `dead`.

    Raises:
        NotUnderstoodError, LaterFormatError, InvariantBroken: as `FrameCore.apply_frame`.
    """
    commands, messages = fields.get(COMMANDS_FIELD), fields.get(MESSAGES_FIELD)
    if (passed_over := skipped(stream_id, fields)) is not None:
        yield _pass_over(shard, passed_over)
        return
    if (commands is None) == (messages is None):
        has = "neither" if commands is None else "both"
        raise NotUnderstoodError(
            f"the entry has {has} commands {'nor' if commands is None else 'and'} messages"
        )
    if commands is not None:
        items, refused, time = _enter_commands(shard, stream_id, commands)
        yield from _apply_others(shard, items, refused, time, dead)
    else:
        assert messages is not None
        frame = _read_messages(shard, messages)
        time = shard.enter(TimeMs(stream_id.ms), frame.written_us, behind_ms_max=0)
        for message in shard.messages.new_messages(frame):
            shard.apply(message, time)
            yield message


def _enter_commands(
    shard: Shard, stream_id: StreamId, frame: bytes
) -> tuple[Sequence[LoggedCommand | UnreadItem], dict[int, UnreadItem], TimeMs]:
    """Read a frame of commands.

    Return its items, those of them that are refused, by their numbers, and the entry's time.
    """
    items: Sequence[LoggedCommand | UnreadItem]
    try:
        items, written_us = decode_command_frame(frame)
    except msgspec.MsgspecError:
        items, written_us = _read_items(frame)
    entered = TimeMs(stream_id.ms)
    if items and type(items[0]) in _SWITCHING:
        _check_is_no_later_switch(shard, items[0], entered)  # type: ignore[arg-type]  # it is of these kinds
    return items, _refused(items, shard.state.index, shard.state.market_map), shard.enter(entered, written_us)


def _apply_others(
    shard: Shard,
    items: Sequence[LoggedCommand | UnreadItem],
    refused: Mapping[int, UnreadItem],
    time: TimeMs,
    dead: list[DeadItem] | None,
) -> Iterator[LoggedCommand]:
    """Apply the items that are not refused; yield each once it is applied."""
    for number, command in enumerate(items):
        unread = refused.get(number)
        if unread is None:
            shard.apply(command, time)  # type: ignore[arg-type]  # what is unread is refused
            yield command  # type: ignore[misc]  # likewise
            continue
        if dead is not None:
            dead.append(DeadItem(*unread[:3]))
        if unread.reply_to and unread.request_id:
            shard.refuse_unread(unread.reply_to, unread.request_id)


def applicable_commands(frame: bytes, index: int, market_map: MarketMap) -> list[LoggedCommand]:
    """Return the commands of a frame that shard `index` applies, in order.

    Raises:
        NotUnderstoodError: it is no frame of commands.
        LaterFormatError: a later release wrote it.
    """
    items, _ = _read_commands(frame)
    refused = _refused(items, index, market_map)
    return [
        item
        for number, item in enumerate(items)
        if number not in refused and not isinstance(item, UnreadItem)
    ]


def why_not_applicable(frame: bytes, index: int, market_map: MarketMap) -> list[str]:
    """Return why commands of a frame would not be applied by shard `index`; none: each of them would.

    Raises:
        NotUnderstoodError: it is no frame of commands.
        LaterFormatError: a later release wrote it.
    """
    items, _ = _read_commands(frame)
    return [f"command {number}: {item.reason}" for number, item in _refused(items, index, market_map).items()]


def _read_commands(frame: bytes) -> tuple[Sequence[LoggedCommand | UnreadItem], int | None]:
    try:
        return decode_command_frame(frame)
    except msgspec.MsgspecError:
        return _read_items(frame)


def _read_items(frame: bytes) -> CommandItems:
    """Read what is not understood as a whole."""
    try:
        return decode_command_items(frame)
    except msgspec.MsgspecError as error:
        raise NotUnderstoodError(str(error)) from error


def _pass_over(shard: Shard, found: Skipped) -> SkipEntry:
    """Pass over an entry that an operator has had skipped.

    What another shard did send in it counts as received.

    Raises:
        InvariantBroken: no operator said so. The leader that committed it has verified the signature, so
            somebody has changed the log or its archive since.
    """
    if not shard.state.authority.may_skip(found.signed, shard.state.index):
        raise InvariantBroken(
            f"the instruction to skip entry {found.instruction.stream_id} is not genuine: {_NOT_AUTHORIZED}"
        )
    source, last_sequence = None, 0
    if found.instruction.counts_as_received and MESSAGES_FIELD in found.fields:
        try:
            read = decode_message_items(found.fields[MESSAGES_FIELD])
        except (msgspec.MsgspecError, LaterFormatError):
            pass  # nobody can tell what is in it, so the next message of its sender will halt the shard again
        else:
            if _why_not_mine(shard, read.source, read.target) is None:
                source, last_sequence = read.source, read.first_sequence + len(read.items) - 1
    shard.pass_over(found.instruction, source, last_sequence)
    return found.instruction


def _refused(
    items: Sequence[LoggedCommand | UnreadItem], index: int, market_map: MarketMap
) -> dict[int, UnreadItem]:
    """Return the items of a frame that shard `index` does not apply, by their numbers.

    These are unreadable items, items of another shard, and items with values that the database cannot store.

    One loop for a whole frame, with the most frequent kinds first: each command comes by here.
    """
    refused: dict[int, UnreadItem] = {}
    slots = market_map.slots
    for number, command in enumerate(items):
        if type(command) is PlaceOrder or type(command) is CancelOrder:
            account_id = command.account_id
            if account_id < 1 or slots[account_id % ACCOUNT_SLOTS] != index:
                refused[number] = _unread(
                    number, command, f"account {account_id} is not one of shard {index}"
                )
            elif type(command) is PlaceOrder and "\0" in command.client_order_id:
                refused[number] = _unread(number, command, "a client order id has a NUL in it")
        elif isinstance(command, UnreadItem):
            refused[number] = command
        elif (
            not isinstance(command, _ALWAYS_APPLIED)
            and (reason := _why_not(command, index, market_map)) is not None
        ):
            refused[number] = _unread(number, command, reason)
    return refused


def _check_is_no_later_switch(shard: Shard, command: Signed | ConfigureShard, entered: TimeMs) -> None:
    """Refuse to decide about a command that switches the shard to what only a later release does.

    That release follows it. If this program refused it, the two would come to different states. Operators'
    commands stand alone, or first, in their entry.

    Raises:
        LaterReleaseError: the command counts; nothing of its entry was applied.
    """
    authority = shard.state.authority
    try:
        body = decode_signed_body(command.command) if isinstance(command, Signed) else command
    except msgspec.MsgspecError:
        return  # it is a dead letter
    if not isinstance(body, ConfigureShard) or (reason := why_later(body.config)) is None:
        return
    version = shard.state.config.version if shard.state.config is not None else 0
    if isinstance(command, Signed):
        window_ms, time = shard.state.windows.request_ms, shard.state.time
        assets = shard.state.market_map.by_asset
        reason_to_refuse = authority.reason_to_refuse(
            command, body, shard.state.index, entered, window_ms, time, assets
        )
        counts = reason_to_refuse is None
    else:
        counts = not authority.keys
    if counts and body.config.version == version + 1:
        raise LaterReleaseError(
            f"a command switches the shard to what a later release does: it {reason}", body.config.format
        )


def _unread(number: int, command: LoggedCommand, reason: str) -> UnreadItem:
    request_id, reply_to = getattr(command, "request_id", 0), getattr(command, "reply_to", "")
    return UnreadItem(number, encode_frame(command), reason, request_id, reply_to)


def _why_not(command: SignedBody | Signed | CancelAllOrders, index: int, market_map: MarketMap) -> str | None:
    """Return why a well-formed command of the rarer kinds is none of this shard's, or none at all."""
    if isinstance(command, Signed):
        try:
            return _why_not(decode_signed_body(command.command), index, market_map)
        except msgspec.MsgspecError as error:
            return f"what is signed is no command: {error}"
    if isinstance(command, ConfigureShard | ConfigureMarket):
        return None
    if isinstance(command, CancelOrders) and not command.account_id:
        return None  # of a market; whether that is here the shard says
    if isinstance(command, WithdrawFees):
        if command.shard != index:
            return f"fees of shard {command.shard} are not those of shard {index}"
    elif command.account_id < 1 or market_map.shard_of_account(command.account_id) != index:
        return f"account {command.account_id} is not one of shard {index}"
    # The one character that no database keeps in a text.
    return "a transfer id has a NUL in it" if "\0" in getattr(command, "transfer_id", "") else None


def _read_messages(shard: Shard, payload: bytes) -> MessageFrame:
    """Return a frame whose new messages can be applied, all of them.

    Raises:
        NotUnderstoodError: no shard of this exchange sent it to this one.
        MessageNotUnderstood: one did, and it cannot be applied.
    """
    try:
        frame = decode_messages(payload)
    except msgspec.MsgspecError:
        try:
            items = decode_message_items(payload)
        except msgspec.MsgspecError as error:
            raise NotUnderstoodError(str(error)) from error
        return _understood(shard, items)
    if (reason := _why_not_mine(shard, frame.source, frame.target)) is not None:
        raise NotUnderstoodError(reason)
    seen = shard.state.received.get(frame.source, 0)
    for sequence, message in enumerate(frame.messages, frame.first_sequence):
        reason = _why_no_message(shard, frame.source, message)
        if reason is not None and sequence > seen:
            raise _message_not_understood(frame.source, sequence, reason)
    return frame


def _understood(shard: Shard, read: MessageItems) -> MessageFrame:
    """Return a frame of which something is not understood, if that is only what was applied before."""
    if (reason := _why_not_mine(shard, read.source, read.target)) is not None:
        raise NotUnderstoodError(reason)
    seen = shard.state.received.get(read.source, 0)
    for sequence, item in enumerate(read.items, read.first_sequence):
        if sequence <= seen:
            continue
        if read.surplus:
            raise _message_not_understood(read.source, sequence, f"{read.surplus} fields too many beside it")
        reason = item.reason if isinstance(item, UnreadItem) else _why_no_message(shard, read.source, item)
        if reason is not None:
            raise _message_not_understood(read.source, sequence, reason)
    new = tuple(
        item
        for sequence, item in enumerate(read.items, read.first_sequence)
        if sequence > seen and not isinstance(item, UnreadItem)
    )
    first_new = max(read.first_sequence, seen + 1)
    return MessageFrame(read.source, read.target, first_new, new, read.written_us)


def _message_not_understood(source: int, sequence: int, reason: str) -> MessageNotUnderstood:
    return MessageNotUnderstood(f"message {sequence} of shard {source} is not understood: {reason}")


def _why_not_mine(shard: Shard, source: int, target: int) -> str | None:
    """Return why a frame is no mail of another shard for this one.

    When it is another's, that shard will miss it, and halt.
    """
    if not 0 <= source < shard.state.shard_count or source == shard.state.index:
        return f"shard {source} does not send to shard {shard.state.index}"
    return f"the frame is for shard {target}" if target != shard.state.index else None


def _why_no_message(shard: Shard, source: int, message: ShardMessage) -> str | None:
    """Return why shards never send each other this message, or None.

    An order's account is at one end of its way, its market at the other.
    """
    if isinstance(message, KnowMarket):
        symbol = message.config.market.symbol
        return (
            f"market {symbol[:40]!r} is not one of shard {source}" if message.config.shard != source else None
        )
    to_market = isinstance(message, _TO_MARKET)
    account_shard, market_shard = (source, shard.state.index) if to_market else (shard.state.index, source)
    if message.account_id < 1 or shard.state.market_map.shard_of_account(message.account_id) != account_shard:
        return f"account {message.account_id} is not one of shard {account_shard}"
    # An order for a market that is not there (any more) is answered. What such a market says cannot be.
    owner = shard.state.market_map.shards.get(message.market, market_shard if to_market else None)
    return (
        f"market {message.market[:40]!r} is not one of shard {market_shard}"
        if owner != market_shard
        else None
    )
