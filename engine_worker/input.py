"""What an entry of `in:{k}` says, and whether it may be applied.

Everything is checked before anything is applied: what gets through cannot make the core raise, but for a broken invariant. So an
entry is applied whole, or it is a dead letter.
"""

from collections.abc import Sequence

import msgspec

from engine_worker.core.shard import Shard
from protocol.codec import decode_commands, decode_messages
from protocol.commands import CancelResting, Command, Deposit, MatchOrder, MessageFrame, PlaceOrder, Withdraw
from protocol.market import MarketMap
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD, split_stream_id
from protocol.units import TimeMs
from runtime.stream_log import Entry


class NotUnderstoodError(ValueError):
    """The entry is not one that this shard can apply; nothing of it was."""


def apply_entry(shard: Shard, entry: Entry) -> None:
    """Apply everything in one entry of the shard's input, at the time of its id.

    Raises:
        NotUnderstoodError: it cannot be applied; nothing of it was.
        InvariantBroken: the state is wrong; it must not be used or published.
    """
    time = TimeMs(split_stream_id(entry.stream_id)[0])
    commands, messages = entry.fields.get(COMMANDS_FIELD), entry.fields.get(MESSAGES_FIELD)
    try:
        if commands is not None and messages is None:
            read = decode_commands(commands)
            _check_commands(shard.market_map, shard.index, read)
            for command in read:
                shard.apply(command, time)
        elif messages is not None and commands is None:
            frame = decode_messages(messages)
            _check_frame(shard.market_map, shard.index, frame)
            shard.apply_frame(frame, time)
        else:
            has = "neither" if commands is None else "both"
            raise NotUnderstoodError(f"the entry has {has} commands {'nor' if commands is None else 'and'} messages")
    except msgspec.MsgspecError as error:
        raise NotUnderstoodError(str(error)) from error


def _check_commands(market_map: MarketMap, index: int, commands: Sequence[Command]) -> None:
    shard_count = market_map.shard_count
    for command in commands:
        account_id = command.account_id
        if account_id < 1 or account_id % shard_count != index:
            raise NotUnderstoodError(f"account {account_id} is not one of shard {index}")
        # The one character that no database keeps in a text.
        if isinstance(command, PlaceOrder):
            if "\0" in command.client_order_id:
                raise NotUnderstoodError("a client order id has a NUL in it")
        elif isinstance(command, Deposit | Withdraw) and "\0" in command.transfer_id:
            raise NotUnderstoodError("a transfer id has a NUL in it")


def _check_frame(market_map: MarketMap, index: int, frame: MessageFrame) -> None:
    """Refuse what the shards never send each other: an order's account is at one end of the way, its market at the other."""
    source, shard_count = frame.source, market_map.shard_count
    if not 0 <= source < shard_count or source == index:
        raise NotUnderstoodError(f"shard {source} does not send to shard {index}")
    if frame.target != index:
        raise NotUnderstoodError(f"the frame is for shard {frame.target}")
    for message in frame.messages:
        to_market = isinstance(message, MatchOrder | CancelResting)
        account_shard, market_shard = (source, index) if to_market else (index, source)
        if message.account_id < 1 or message.account_id % shard_count != account_shard:
            raise NotUnderstoodError(f"account {message.account_id} is not one of shard {account_shard}")
        if message.market not in market_map.by_symbol or market_map.shard_of_market(message.market) != market_shard:
            raise NotUnderstoodError(f"market {message.market[:40]!r} is not one of shard {market_shard}")
