"""What an entry of `in:{k}` says, and whether it may be applied.

Everything is checked before anything of it is applied: what gets through cannot make the core raise, but for a broken invariant.
docs/formats.md says what becomes of the rest. In short: a command that is not understood is a dead letter, alone; bytes that nobody can
read are one, whole; a message of another shard that is not understood halts this shard, since it may carry money; and an entry that an
operator has had skipped is passed over, by everybody who reads the log.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from engine_worker.core.accounts import InvariantBroken
from engine_worker.core.shard import Shard
from protocol.codec import (
    LaterFormatError,
    MessageItems,
    UnreadItem,
    decode_command_frame,
    decode_command_items,
    decode_message_items,
    decode_messages,
    decode_skip_frame,
    encode_frame,
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
from protocol.market import ACCOUNT_SLOTS, MarketMap
from protocol.release import LaterReleaseError, why_later
from protocol.signing import decode_signed_body
from protocol.streams import (
    COMMANDS_FIELD,
    MESSAGES_FIELD,
    SKIPPED_ENTRY_FIELD,
    SKIPPED_FIELD,
    split_stream_id,
)
from protocol.units import TimeMs
from runtime.stream_log import Entry

_TARGET_DIGITS_MAX = 3
_SWITCHING = (Signed, ConfigureShard)
_NOT_AUTHORIZED = "no key of an operator of this shard has signed it"
_decode_fields = msgpack_decoder(dict[bytes, bytes])


class NotUnderstoodError(ValueError):
    """The entry is not one that this shard can apply; nothing of it was."""


class MessageNotUnderstood(InvariantBroken):
    """Another shard sent what this one cannot apply. It may carry money, so the shard stops before it; nothing of it was applied."""


class DeadItem(NamedTuple):
    """A command that could not be applied, beside others of its frame that were."""

    number: int
    """Its place in the frame, from 0 on."""
    payload: bytes
    reason: str


class Skipped(NamedTuple):
    """An entry that was passed over."""

    instruction: SkipEntry
    signed: Signed | None
    """The instruction with its signature, if it has one."""
    fields: dict[bytes, bytes]
    """What is in it."""


def skipped(entry: Entry) -> Skipped | None:
    """Return by which instruction an entry is passed over; None: by none.

    Raises:
        NotUnderstoodError: it says that it is, and by no instruction that names it.
    """
    if SKIPPED_FIELD not in entry.fields:
        return None
    try:
        instruction, signed = decode_skip_frame(entry.fields[SKIPPED_FIELD])
        fields = _decode_fields(entry.fields.get(SKIPPED_ENTRY_FIELD, b""))
    except msgspec.MsgspecError as error:
        raise NotUnderstoodError(f"no instruction to skip an entry: {error}") from error
    if instruction.stream_id != entry.stream_id:
        raise NotUnderstoodError(f"the instruction is to skip {instruction.stream_id[:40]!r}")
    return Skipped(instruction, signed, fields)


def why_not_followed(shard: Shard, frame: bytes) -> str | None:
    """Return why a shard does not follow an instruction to skip its next entry; None: it does.

    Raises:
        msgspec.MsgspecError, LaterFormatError: the frame is no instruction that this program reads.
    """
    read = decode_skip_frame(frame)
    return None if shard.authority.may_skip(read.signed, shard.index) else _NOT_AUTHORIZED


def apply_entry(shard: Shard, entry: Entry) -> list[DeadItem]:
    """Apply everything in one entry of the shard's input; return those of its commands that could not be.

    Raises:
        NotUnderstoodError: it cannot be applied; nothing of it was.
        LaterFormatError: a later release wrote it; nothing of it was applied.
        InvariantBroken: the state is wrong, it must not be used or published; or a message of another shard is not understood.
    """
    dead: list[DeadItem] = []
    for _ in apply_one_by_one(shard, entry, dead):
        pass
    return dead


def apply_one_by_one(
    shard: Shard, entry: Entry, dead: list[DeadItem] | None = None
) -> Iterator[LoggedCommand | ShardMessage | SkipEntry]:
    """Apply an entry as `apply_entry` does; yield each command and each new message once it is applied.

    Commands that are not understood are added to `dead`.
    """
    fields = entry.fields
    commands, messages = fields.get(COMMANDS_FIELD), fields.get(MESSAGES_FIELD)
    if (passed_over := skipped(entry)) is not None:
        yield _pass_over(shard, passed_over)
        return
    if (commands is None) == (messages is None):
        has = "neither" if commands is None else "both"
        raise NotUnderstoodError(f"the entry has {has} commands {'nor' if commands is None else 'and'} messages")
    entered = TimeMs(split_stream_id(entry.stream_id)[0])
    if commands is not None:
        items, written_us = _read_commands(commands)
        refused = _refused(items, shard.index, shard.market_map)
        if type(items[0] if items else None) in _SWITCHING:
            _check_is_no_later_switch(shard, items[0], entered)  # type: ignore[arg-type]  # as the line above says
        time = shard.enter(entered, written_us)
        for number, command in enumerate(items):
            if refused and (unread := refused.get(number)) is not None:
                if dead is not None:
                    dead.append(DeadItem(*unread[:3]))
                if unread.reply_to and unread.request_id:
                    shard.refuse_unread(unread.reply_to, unread.request_id)
                continue
            shard.apply(command, time)  # type: ignore[arg-type]  # what is unread is refused
            yield command  # type: ignore[misc]  # likewise
    else:
        assert messages is not None
        frame = _read_messages(shard, messages)
        time = shard.enter(entered, frame.written_us)
        for message in shard.new_messages(frame):
            shard.apply(message, time)
            yield message


def applicable_commands(frame: bytes, index: int, market_map: MarketMap) -> list[LoggedCommand]:
    """Return the commands of a frame that shard `index` applies, in order.

    Raises:
        NotUnderstoodError: it is no frame of commands.
        LaterFormatError: a later release wrote it.
    """
    items, _ = _read_commands(frame)
    refused = _refused(items, index, market_map)
    return [item for number, item in enumerate(items) if number not in refused and not isinstance(item, UnreadItem)]


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
        pass
    try:
        return decode_command_items(frame)
    except msgspec.MsgspecError as error:
        raise NotUnderstoodError(str(error)) from error


def _pass_over(shard: Shard, found: Skipped) -> SkipEntry:
    """Pass over an entry that an operator has had skipped; what another shard did send in it counts as received.

    Raises:
        InvariantBroken: no operator said so. The leader that committed it has verified the signature, so somebody has changed the
            log or its archive since.
    """
    if not shard.authority.may_skip(found.signed, shard.index):
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


def outgoing_frames(entry: Entry, index: int, shard_count: int) -> dict[int, bytes]:
    """Return target -> message frame of one entry in the outbox of shard `index`.

    Raises:
        NotUnderstoodError: the shard did not write it.
    """
    frames: dict[int, bytes] = {}
    for field, payload in entry.fields.items():
        known = field.isdigit() and len(field) <= _TARGET_DIGITS_MAX and int(field) < shard_count
        if not known or field != b"%d" % int(field):
            raise NotUnderstoodError(f"there is no shard {field[:40]!r} to send to")
        try:
            frame = decode_messages(payload)
        except (msgspec.MsgspecError, LaterFormatError) as error:
            raise NotUnderstoodError(str(error)) from error
        if (frame.source, frame.target) != (index, int(field)):
            raise NotUnderstoodError(f"the frame is from shard {frame.source} to {frame.target}")
        frames[int(field)] = payload
    return frames


def _refused(items: Sequence[LoggedCommand | UnreadItem], index: int, market_map: MarketMap) -> dict[int, UnreadItem]:
    """Return, by their numbers, the items of a frame that shard `index` does not apply: unread, not of it, or with what no database keeps.

    One loop for a whole frame, with the most frequent kinds first: each command comes by here.
    """
    refused: dict[int, UnreadItem] = {}
    slots = market_map.slots
    for number, command in enumerate(items):
        if isinstance(command, PlaceOrder | CancelOrder):
            account_id = command.account_id
            if account_id < 1 or slots[account_id % ACCOUNT_SLOTS] != index:
                refused[number] = _unread(number, command, f"account {account_id} is not one of shard {index}")
            elif isinstance(command, PlaceOrder) and "\0" in command.client_order_id:
                refused[number] = _unread(number, command, "a client order id has a NUL in it")
        elif isinstance(command, UnreadItem):
            refused[number] = command
        elif not isinstance(command, Tick) and (reason := _why_not(command, index, market_map)) is not None:
            refused[number] = _unread(number, command, reason)
    return refused


def _check_is_no_later_switch(shard: Shard, command: Signed | ConfigureShard, entered: TimeMs) -> None:
    """Refuse to decide about a command that switches the shard to what only a later release does.

    That release follows it. If this program refused it, the two would come to different states. Operators' commands stand alone, or
    first, in their entry.

    Raises:
        LaterReleaseError: the command counts; nothing of its entry was applied.
    """
    authority = shard.authority
    try:
        body = decode_signed_body(command.command) if isinstance(command, Signed) else command
    except msgspec.MsgspecError:
        return  # it is a dead letter
    if not isinstance(body, ConfigureShard) or (reason := why_later(body.config)) is None:
        return
    version = shard.config.version if shard.config is not None else 0
    if isinstance(command, Signed):
        window_ms, time = shard.windows.request_ms, shard.time
        counts = authority.reason_to_refuse(command, body, shard.index, entered, window_ms, time) is None
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
    seen = shard.received.get(frame.source, 0)
    for sequence, message in enumerate(frame.messages, frame.first_sequence):
        reason = _why_no_message(shard, frame.source, message)
        if reason is not None and sequence > seen:
            raise _message_not_understood(frame.source, sequence, reason)
    return frame


def _understood(shard: Shard, read: MessageItems) -> MessageFrame:
    """Return a frame of which something is not understood, if that is only what was applied before."""
    if (reason := _why_not_mine(shard, read.source, read.target)) is not None:
        raise NotUnderstoodError(reason)
    seen = shard.received.get(read.source, 0)
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
    """Return why a frame is no mail of another shard for this one. When it is another's, that shard will miss it, and halt."""
    if not 0 <= source < shard.shard_count or source == shard.index:
        return f"shard {source} does not send to shard {shard.index}"
    return f"the frame is for shard {target}" if target != shard.index else None


def _why_no_message(shard: Shard, source: int, message: ShardMessage) -> str | None:
    """Return why shards never send each other this: an order's account is at one end of the way, its market at the other."""
    if isinstance(message, KnowMarket):
        symbol = message.config.market.symbol
        return f"market {symbol[:40]!r} is not one of shard {source}" if message.config.shard != source else None
    to_market = isinstance(message, MatchOrder | CancelResting)
    account_shard, market_shard = (source, shard.index) if to_market else (shard.index, source)
    if message.account_id < 1 or shard.market_map.shard_of_account(message.account_id) != account_shard:
        return f"account {message.account_id} is not one of shard {account_shard}"
    # An order for a market that is not there (any more) is answered. What such a market says cannot be.
    owner = shard.market_map.shards.get(message.market, market_shard if to_market else None)
    return f"market {message.market[:40]!r} is not one of shard {market_shard}" if owner != market_shard else None
