"""Commands of the operator and of the treasury: signed, written into a shard's input, and answered by it."""

import time
from collections.abc import Callable
from typing import Final

import redis

from cli.probes import command_waiter
from protocol import streams
from protocol.codec import encode_commands
from protocol.commands import SignedBody
from protocol.configuration import Role
from protocol.replies import Refused, Reply
from protocol.signing import sign
from protocol.streams import COMMANDS_FIELD
from protocol.units import TimeMs
from runtime.operator_keys import key_name, private_key
from runtime.settings import Settings

_COUNTS_MS: Final = 20_000
"""So long a signature counts, and so long at most its command may wait in the shard's input."""


class OperatingError(RuntimeError):
    """A shard did not do it; the message says which and why."""


def tell(
    client: redis.Redis,
    settings: Settings,
    shard: int,
    role: Role,
    command: Callable[[int, str], SignedBody],
    what: str,
) -> Reply:
    """Sign `command` (request id, reply channel) with the key of `role`, give it to a shard, and return its answer.

    `what` names it in errors.

    Raises:
        OperatingError: the shard refused, or did not answer.
        SettingsError: the key cannot be read.
    """
    key = private_key(settings, role)
    with command_waiter(client) as (name, replies):
        request_id = time.time_ns() // 1_000
        seconds, microseconds = client.time()
        deadline = TimeMs(seconds * 1_000 + microseconds // 1_000 + _COUNTS_MS)
        signed = sign(key, key_name(role), shard, deadline, command(request_id, name))
        frame = encode_commands([signed], time.time_ns() // 1_000)
        client.xadd(streams.commands(shard), {COMMANDS_FIELD: frame})
        for reply in replies():
            if getattr(reply, "request_id", None) != request_id:
                continue
            if isinstance(reply, Refused):
                raise OperatingError(f"shard {shard} refuses to {what}: {reply.reason}")
            return reply
    raise OperatingError(f"shard {shard} did not answer; nobody knows yet whether it did {what}")
