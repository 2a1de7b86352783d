"""The stages of sampled orders in a shard.

Traced orders are decoded a second time, so that nothing is stored when traces are off.
"""

import time
from collections.abc import Sequence

import msgspec

from protocol.codec import LaterFormatError, decode_commands
from protocol.commands import PlaceOrder
from protocol.streams import COMMANDS_FIELD
from runtime.tracing import Tracer
from stream_log.interface import Entry


def trace_batch(
    tracer: Tracer, shard: int, entries: Sequence[Entry], apply_s: float, commit_s: float
) -> None:
    """Record how the orders of a committed batch waited, were applied and were committed."""
    committed_ns = time.time_ns()
    applied_ns = committed_ns - int(commit_s * 1e9)
    began_ns = applied_ns - int(apply_s * 1e9)
    for entry in entries:
        arrived_ns = entry.stream_id.ms * 1_000_000
        try:
            commands = decode_commands(entry.fields.get(COMMANDS_FIELD, b""))
        except (msgspec.MsgspecError, LaterFormatError):
            continue
        for command in commands:
            if not isinstance(command, PlaceOrder):
                continue
            if trace := tracer.trace_of(command.account_id, command.client_order_id):
                tracer.stage(
                    trace,
                    "wait",
                    min(arrived_ns, began_ns),
                    began_ns,
                    shard=shard,
                    stream_id=str(entry.stream_id),
                )
                tracer.stage(trace, "apply", began_ns, applied_ns, shard=shard, batch_entries=len(entries))
                tracer.stage(trace, "commit", applied_ns, committed_ns, shard=shard)
