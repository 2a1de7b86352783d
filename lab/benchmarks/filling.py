"""Fills the book of a running shard through its input, as no client could: as fast as the shard goes."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import redis

from lab.benchmarks.workload import deposits
from protocol import streams
from protocol.codec import decode_replies, encode_commands
from protocol.commands import Command, Deposit, LoggedCommand
from protocol.configuration import Role
from protocol.market import MarketMap
from protocol.positions import ShardPosition
from protocol.replies import Refused
from protocol.signing import sign
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD
from protocol.units import TimeMs
from runtime.operator_keys import key_name, private_key, public_half
from runtime.settings import Settings

FRAME, PIPELINED = 500, 8
WAITING_MAX = 50_000
"""Commands that wait at once: the log is not to become larger than it is in use."""
DEADLINE_S = 1_800
SIGNATURE_MS = 40_000
SHARD = 0
REPLY_TO = "bench"
"""The waiter that the benchmarks' commands name."""


def make_rich(settings: Settings, client: redis.Redis, markets: MarketMap) -> None:
    """Give the benchmarks' accounts money, signed with the treasury's key of the exchange's data folder."""
    key = private_key(settings, Role.TREASURY)
    name = key_name(Role.TREASURY, public_half(key))
    deadline = TimeMs(time.time_ns() // 1_000_000 + SIGNATURE_MS)
    signed: list[LoggedCommand] = []
    for number, deposit in enumerate(deposits(markets), 1):
        assert isinstance(deposit, Deposit)
        body = Deposit(
            number, REPLY_TO, deposit.account_id, deposit.asset, deposit.amount, deposit.transfer_id
        )
        signed.append(sign(key, name, SHARD, deadline, body))
    append(client, signed)


def fill(client: redis.Redis, commands: Iterable[Command]) -> None:
    """Append commands in batches of `WAITING_MAX`, and wait until the shard has accepted each of them.

    Raises:
        RuntimeError: it has refused one.
    """
    batch: list[LoggedCommand] = []
    for command in commands:
        batch.append(command)
        if len(batch) == WAITING_MAX:
            append(client, batch)
            batch = []
    append(client, batch)


def append(client: redis.Redis, commands: Sequence[LoggedCommand]) -> None:
    """Append commands, and wait until the shard has committed them.

    Raises:
        RuntimeError: it has refused one.
        TimeoutError: it does not come to the end.
    """
    if not commands:
        return
    listener = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    listener.subscribe(streams.replies(REPLY_TO))
    try:
        now_us = time.time_ns() // 1_000
        frames = [encode_commands(commands[at : at + FRAME], now_us) for at in range(0, len(commands), FRAME)]
        last = b""
        for at in range(0, len(frames), PIPELINED):
            with client.pipeline(transaction=False) as pipeline:
                for frame in frames[at : at + PIPELINED]:
                    pipeline.xadd(streams.commands(SHARD), {COMMANDS_FIELD: frame})
                last = pipeline.execute()[-1]
        _wait(client, listener, len(commands), last)
    finally:
        listener.close()


def _wait(client: redis.Redis, listener: Any, count: int, last: bytes) -> None:
    answered, deadline, end = 0, time.monotonic() + DEADLINE_S, StreamId.parse(last)
    while answered < count or position(client) < end:
        if time.monotonic() > deadline:
            raise TimeoutError("the worker did not finish; is it running?")
        message = listener.get_message(timeout=0.05)
        if message is None:
            continue
        replies = decode_replies(message["data"])
        answered += len(replies)
        if refused := next((reply for reply in replies if isinstance(reply, Refused)), None):
            raise RuntimeError(f"the shard refuses what fills its book: {refused.reason}")


def position(client: redis.Redis) -> StreamId:
    """Return the shard's committed position."""
    value: Any = client.get(streams.position(SHARD))
    return ShardPosition.parse(value).stream_id
