"""What an entry of `in:{k}` says, and whether it may be applied.

Everything is checked before anything is applied: what gets through cannot make the core raise, but for a broken invariant. So an
entry is applied whole, or it is a dead letter.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from engine_worker.core.shard import Shard
from protocol.codec import LaterFormatError, decode_command_frame, decode_messages
from protocol.commands import (
    CancelOrders,
    CancelResting,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    KnowMarket,
    LoggedCommand,
    MatchOrder,
    MessageFrame,
    PlaceOrder,
    ShardMessage,
    Signed,
    SignedBody,
    Tick,
    Withdraw,
    WithdrawFees,
)
from protocol.market import MarketMap
from protocol.signing import decode_signed_body
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD, split_stream_id
from protocol.units import TimeMs
from runtime.stream_log import Entry

_TARGET_DIGITS_MAX = 3


class NotUnderstoodError(ValueError):
    """The entry is not one that this shard can apply; nothing of it was."""


def apply_entry(shard: Shard, entry: Entry) -> None:
    """Apply everything in one entry of the shard's input.

    Raises:
        NotUnderstoodError: it cannot be applied; nothing of it was.
        LaterFormatError: a later release wrote it; nothing of it was applied.
        InvariantBroken: the state is wrong; it must not be used or published.
    """
    deque(apply_one_by_one(shard, entry), maxlen=0)


def apply_one_by_one(shard: Shard, entry: Entry) -> Iterator[LoggedCommand | ShardMessage]:
    """Apply an entry as `apply_entry` does; yield each command and each new message once it is applied."""
    entered = TimeMs(split_stream_id(entry.stream_id)[0])
    commands, messages = entry.fields.get(COMMANDS_FIELD), entry.fields.get(MESSAGES_FIELD)
    if (commands is None) == (messages is None):
        has = "neither" if commands is None else "both"
        raise NotUnderstoodError(f"the entry has {has} commands {'nor' if commands is None else 'and'} messages")
    try:
        if commands is not None:
            read = decode_command_frame(commands)
        else:
            assert messages is not None
            frame = decode_messages(messages)
    except msgspec.MsgspecError as error:
        raise NotUnderstoodError(str(error)) from error
    if commands is not None:
        _check_commands(shard.market_map, shard.index, read.commands)
        time = shard.enter(entered, read.written_us)
        for command in read.commands:
            shard.apply(command, time)
            yield command
    else:
        _check_frame(shard.market_map, shard.index, frame)
        time = shard.enter(entered, frame.written_us)
        for message in shard.new_messages(frame):
            shard.apply(message, time)
            yield message


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


def _check_commands(market_map: MarketMap, index: int, commands: Sequence[LoggedCommand]) -> None:
    for given in commands:
        command = _signed_body(given) if isinstance(given, Signed) else given
        if isinstance(command, Tick | ConfigureShard | ConfigureMarket):
            continue
        if isinstance(command, CancelOrders) and not command.account_id:
            continue  # of a market; whether that is here the shard says
        if isinstance(command, WithdrawFees):
            if command.shard != index:
                raise NotUnderstoodError(f"fees of shard {command.shard} are not those of shard {index}")
            if "\0" in command.transfer_id:
                raise NotUnderstoodError("a transfer id has a NUL in it")
            continue
        account_id = command.account_id
        if account_id < 1 or market_map.shard_of_account(account_id) != index:
            raise NotUnderstoodError(f"account {account_id} is not one of shard {index}")
        # The one character that no database keeps in a text.
        if isinstance(command, PlaceOrder):
            if "\0" in command.client_order_id:
                raise NotUnderstoodError("a client order id has a NUL in it")
        elif isinstance(command, Deposit | Withdraw) and "\0" in command.transfer_id:
            raise NotUnderstoodError("a transfer id has a NUL in it")


def _signed_body(signed: Signed) -> SignedBody:
    try:
        return decode_signed_body(signed.command)
    except msgspec.MsgspecError as error:
        raise NotUnderstoodError(f"what is signed is no command: {error}") from error


def _check_frame(market_map: MarketMap, index: int, frame: MessageFrame) -> None:
    """Refuse what the shards never send each other: an order's account is at one end of the way, its market at the other."""
    source, shard_count = frame.source, market_map.shard_count
    if not 0 <= source < shard_count or source == index:
        raise NotUnderstoodError(f"shard {source} does not send to shard {index}")
    if frame.target != index:
        raise NotUnderstoodError(f"the frame is for shard {frame.target}")
    for message in frame.messages:
        if isinstance(message, KnowMarket):
            if message.config.shard != source:
                raise NotUnderstoodError(f"market {message.config.market.symbol[:40]!r} is not one of shard {source}")
            continue
        to_market = isinstance(message, MatchOrder | CancelResting)
        account_shard, market_shard = (source, index) if to_market else (index, source)
        if message.account_id < 1 or market_map.shard_of_account(message.account_id) != account_shard:
            raise NotUnderstoodError(f"account {message.account_id} is not one of shard {account_shard}")
        # An order for a market that is not there (any more) is answered. What such a market says cannot be.
        owner = market_map.shards.get(message.market, market_shard if to_market else None)
        if owner != market_shard:
            raise NotUnderstoodError(f"market {message.market[:40]!r} is not one of shard {market_shard}")
