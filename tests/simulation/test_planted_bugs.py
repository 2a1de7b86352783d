"""The simulation is worth its time: each of these bugs, planted into a program or into a twin, is found within so many seeds.

Run as a program, `python -m tests.simulation.test_planted_bugs`, it says how many seeds each took.
"""

import pytest

from engine_worker.core.accounts import Account
from engine_worker.core.authority import Authority
from engine_worker.core.outcomes import AnsweredRequests
from engine_worker.core.shard import Shard
from engine_worker.snapshots import Snapshotter
from engine_worker.unstored_orders import UnstoredOrders
from engine_worker.worker import Worker
from feeds.worker import _ShardFollower
from persist.ingest import ShardIngest
from runtime.memory_stream_log import MemoryStreamLog
from simulation.clients import Gateway
from simulation.run import run
from simulation.schedule import plan_of
from tests.properties.test_planted_bugs import Plant, grow

SEEDS_MAX = 300

PLANTS = (
    Plant(
        "reply before commit",
        Worker,
        "_process",
        "outbox = output.outbox()",
        "outbox = output.outbox(); self._streams.publish([(streams.replies(to), frame) for to, frame in output.replies()])",
    ),
    Plant("no fence at commit", MemoryStreamLog, "commit", "self.position(shard) != commit.expected", "False"),
    Plant("takeover without a new epoch", MemoryStreamLog, "take_over", "(epoch + 1, stream_id)", "(max(epoch, 1), stream_id)"),
    Plant("messages applied twice", Shard, "new_messages", "frame.messages[seen + 1 - frame.first_sequence :]", "frame.messages"),
    Plant("outbox not delivered again", Worker, "_deliver_rest",
          "self._streams.read({outbox: STREAM_START}, OUTBOX_ENTRIES, block_ms=0)", "[]"),
    Plant("outbox overtaken", Worker, "step", "if self._delivery_unsure:", "if False:"),
    Plant(
        "snapshot is one entry too late",
        Worker,
        "_restore_shard",
        "core, ShardPosition(0, stream_id)",
        "core, ShardPosition(0, StreamId(f'{split_stream_id(stream_id)[0] + 1}-0'))",
    ),
    Plant("standby skips an entry", Worker, "follow", "for entry in entries:", "for entry in entries[1:] or entries:"),
    Plant("the checksum is ignored by followers", Worker, "_compare", "compare(self.core, committed)", "pass"),
    Plant(
        "requests forgotten at restart",
        Worker,
        "_restore_shard",
        "self.core, self.position = core,",
        "core.shard.requests = AnsweredRequests(0); self.core, self.position = core,",
    ),
    Plant("requests forgotten too early", AnsweredRequests, "find", "> self.window_ms", "> 0"),
    Plant("repeated cancel refused", Shard, "_apply_command", "if first is not None:",
          "if first is not None and not isinstance(command, CancelOrder):"),
    Plant("client order id of a closed order refused", Shard, "_reason_to_refuse",
          "command.client_order_id in account.client_order_ids",
          "any(command.client_order_id == request.client_order_id for request in self._command_handlers.setdefault('seen', [])"
          " if request.account_id == command.account_id) or self._command_handlers.setdefault('seen', []).append(command)"),
    Plant("filled order trades again when its request is repeated", Shard, "_apply_command", "if first is not None:",
          "if first is not None and not (isinstance(first, OrderReply) and first.order.status is FILLED):"),
    Plant("idempotency key forgotten early", Shard, "_is_first_of_its_key", "keyed.outcomes.find(key, self.time)", "None"),
    Plant("closed orders forgotten before they are stored", UnstoredOrders, "drop_stored",
          "<= stored_to", "<= (10**18, 0)"),
    Plant("closed orders not read at a start", Worker, "_collect_unstored_orders", "self.unstored_orders.add(events)", "pass"),
    Plant(
        "numbers of received messages forgotten at restart",
        Worker,
        "_restore_shard",
        "self.core, self.position = core,",
        "core.shard.received.clear(); self.core, self.position = core,",
    ),
    Plant(
        "lost end of the log accepted",
        Worker,
        "follow",
        "if not entries and split_stream_id(after) < split_stream_id(goal.stream_id):",
        "if not entries:\n        self.position, self._committed = ShardPosition(0, goal.stream_id), None\n        return 0\n    if False:",
    ),
    Plant("older snapshot replaces a newer one", MemoryStreamLog, "save_snapshot", "split_stream_id(stream_id) < newest or", "False and"),
    Plant("input trimmed to the newer snapshot", Snapshotter, "_trim", "older = min(", "older = max("),
    Plant("events trimmed before they are read", Snapshotter, "_trim", "min(older, *readers, key=split_stream_id)", "older"),
    Plant(
        "ingest goes by what it has said, not by its row",
        ShardIngest,
        "step",
        "last_id = self._locked_last_id(connection)",
        "self._locked_last_id(connection); last_id = self._log.passed(self._shard).get('persist', STREAM_START)",
    ),
    Plant("ingest moves its row alone", ShardIngest, "step", "event_count, dead_count = self._store(connection, entries)",
          "event_count, dead_count = self._store(connection, entries) if len(entries) < 4 else (0, 0)"),
    Plant("feeds start from what they saved, not from their mark", _ShardFollower, "restore",
          "end = split_stream_id(saved.published_id)", "end = (0, 0)"),
    Plant("signature not looked at", Authority, "reason_to_refuse", "not is_genuine(signed, key.public_key)", "False"),
    Plant("any key may say anything", Authority, "reason_to_refuse", "key.role not in ROLES[type(command)]", "False"),
    Plant("a signature counts at every shard", Authority, "reason_to_refuse", "signed.shard != shard", "False"),
    Plant("a signature counts for ever", Authority, "reason_to_refuse", "if entered > signed.deadline_ms:", "if False:"),
    Plant("unsigned commands count", Shard, "_authorized", "bool(self.authority.keys) and not self._is_founding", "False"),
    Plant("a closed market trades", Shard, "set_market", "if config.status is not MarketStatus.TRADING:", "if False:"),
    Plant("a frozen account places orders", Account, "reason_of_limits", "if limits.is_frozen:", "if False:"),
    Plant(
        "what is being canceled is forgotten at restart",
        Worker,
        "_restore_shard",
        "self.core, self.position = core,",
        "core.shard.drains.clear(); self.core, self.position = core,",
    ),
    Plant(
        "limits forgotten at restart",
        Worker,
        "_restore_shard",
        "self.core, self.position = core,",
        "[setattr(each, 'limits', None) for each in core.shard.accounts.values()]; self.core, self.position = core,",
    ),
    Plant(
        "gateway repeats an order under a new number",
        Gateway,
        "step",
        "self._append(stream, field, batch)",
        "self._append(stream, field, [msgspec.structs.replace(each, request_id=each.request_id + 10**6) for each in batch])",
    ),
)  # fmt: skip


def seeds_until_found(plant: Plant) -> int:
    """Return how many seeds it takes; 0: more than `SEEDS_MAX`."""
    method = getattr(plant.owner, plant.method)
    setattr(plant.owner, plant.method, grow(plant))
    try:
        return next((seed + 1 for seed in range(SEEDS_MAX) if run(plan_of(seed)).failure), 0)
    finally:
        setattr(plant.owner, plant.method, method)


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.bug.replace(" ", "-") for plant in PLANTS])
def test_planted_bug_is_found(plant: Plant) -> None:
    assert seeds_until_found(plant), f"{SEEDS_MAX} seeds do not notice: {plant.bug}"


if __name__ == "__main__":
    for each in PLANTS:
        print(f"| {each.bug} | {seeds_until_found(each) or '–'} |", flush=True)  # noqa: T201 - it is a program here
