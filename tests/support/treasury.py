"""Transfers as a shard takes them that an `engine_worker.main` has founded: signed with the treasury's key of
its data folder."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from protocol.commands import Deposit, LoggedCommand, Withdraw
from protocol.configuration import Role
from protocol.signing import sign
from protocol.units import TimeMs
from runtime.operator_keys import key_name, private_key, public_half
from runtime.settings import Settings

COUNTS_MS = 40_000


def signed(folder: Path, shard: int, commands: Iterable[LoggedCommand]) -> Sequence[LoggedCommand]:
    """Return the commands with the transfers among them signed for `shard`.

    What has no request id, or nobody who waits, gets some: a signature needs both.
    """
    key = private_key(Settings(data_dir=folder), Role.TREASURY)
    name = key_name(Role.TREASURY, public_half(key))
    deadline = TimeMs(time.time_ns() // 1_000_000 + COUNTS_MS)
    return [
        sign(key, name, shard, deadline, _waited_for(command))
        if isinstance(command, Deposit | Withdraw)
        else command
        for command in commands
    ]


def _waited_for(command: Deposit | Withdraw) -> Deposit | Withdraw:
    kind = type(command)
    return kind(
        command.request_id or time.time_ns() % 2**62,
        command.reply_to or "nobody",
        command.account_id,
        command.asset,
        command.amount,
        command.transfer_id,
        command.idempotency_key,
    )
