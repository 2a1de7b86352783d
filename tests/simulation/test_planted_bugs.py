"""The simulation is worth its time: it finds each of these planted bugs within a number of seeds.

Run as a program, `python -m tests.simulation.test_planted_bugs`, it says how many seeds each took.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import pytest

from engine_worker import candidate
from engine_worker.core import account_half, frames, snapshot
from engine_worker.core.account_half import AccountHalf
from engine_worker.core.accounts import Account
from engine_worker.core.authority import Authority
from engine_worker.core.book import Book
from engine_worker.core.configuration import Configuration
from engine_worker.core.journal import Journal
from engine_worker.core.matching import MarketState
from engine_worker.core.messages import Messages
from engine_worker.core.operator_commands import OperatorCommands
from engine_worker.core.outcomes import AnsweredRequests
from engine_worker.core.replies import Replies
from engine_worker.core.shard import Shard
from engine_worker.leadership import Renewals
from engine_worker.snapshots import Snapshotter
from engine_worker.unstored_orders import UnstoredOrders
from engine_worker.worker import Worker
from feeds.worker import _ShardFollower
from lab.simulation import clients, next_release
from lab.simulation.clients import Gateway
from lab.simulation.engine import EngineWorker
from lab.simulation.faulty_log import FaultyLog
from lab.simulation.run import run
from lab.simulation.schedule import plan_of
from persist.ingest import ShardIngest
from protocol import codec, switching
from runtime import redis_clients
from stream_log.memory_log import MemoryStreamLog
from tests.support.planting import Plant, planted

SEEDS_MAX = 300
RESTORED = "self.core, self.position = core, ShardPosition(0, stream_id)"
"""Where a worker has restored its shard."""
ONE_VERSION_SEEDS = 10
"""So many seeds with one version must not notice what takes two."""

PLANTS = (
    Plant(
        "reply before commit",
        Worker,
        "_begin_commit",
        "self._to_say",
        "[*self._to_say, *((streams.replies(reply_to), frame) for reply_to, frame in batch.replies)]",
    ),
    Plant("no fence at commit", MemoryStreamLog, "commit", "self.position(shard) != commit.expected",
          "False"),
    Plant("takeover without a new epoch", MemoryStreamLog, "take_over", "ShardPosition(epoch + 1, stream_id)",
          "ShardPosition(max(epoch, 1), stream_id)"),
    Plant("messages applied twice", Messages, "new_messages",
          "frame.messages[seen + 1 - frame.first_sequence :]", "frame.messages"),
    Plant("outbox not delivered again", Worker, "_deliver_rest",
          "self._streams.read({outbox: STREAM_START}, OUTBOX_ENTRIES, block_ms=0)", "[]"),
    Plant("outbox overtaken", Worker, "step", "self._delivery_unsure", "False"),
    Plant(
        "snapshot is one entry too late",
        Worker,
        "_restore_shard",
        "ShardPosition(0, stream_id)",
        "ShardPosition(0, StreamId(stream_id.ms + 1))",
    ),
    Plant("standby skips an entry", Worker, "follow", "entries = self._up_to_due(entries)",
          "entries = (lambda due: due[1:] or due)(self._up_to_due(entries))"),
    Plant("the checksum is ignored by followers", Worker, "_compare", "compare(self.core, committed)",
          "pass"),
    Plant(
        "requests forgotten at restart",
        Worker,
        "_restore_shard",
        RESTORED,
        f"core.shard.state.requests = type(core.shard.state.requests)(0); {RESTORED}",
    ),
    Plant("requests forgotten too early", AnsweredRequests, "find",
          "now - answered.time > self.window_ms", "now - answered.time > 0"),
    Plant("repeated cancel refused", Replies, "apply_once", "first is not None",
          "first is not None and not isinstance(command, CancelOrder)"),
    Plant("client order id of a closed order refused", AccountHalf, "_forget_open",
          "del account.client_order_ids[order.client_order_id]", "pass"),
    Plant("filled order trades again when its request is repeated", Replies, "apply_once",
          "first is not None",
          "first is not None and not (hasattr(first, 'order') and first.order.status.name == 'FILLED')"),
    Plant("idempotency key forgotten early", Replies, "is_first_of_its_key",
          "keyed.outcomes.find(key, state.time)", "None"),
    Plant("every mail between shards moves time by a second", Shard, "enter",
          "written_us // 1_000 + behind_ms_max", "written_us // 1_000 + 1_000"),
    Plant("closed orders forgotten before they are stored", UnstoredOrders, "drop_stored",
          "self._batches[0][0] <= self._stored_to", "self._batches[0][0] <= (10**18, 0)"),
    Plant("closed orders not read at a start", Worker, "_collect_unstored_orders",
          "self.unstored_orders.add(closed_orders(events))", "pass"),
    Plant(
        "numbers of received messages forgotten at restart",
        Worker,
        "_restore_shard",
        RESTORED,
        f"core.shard.state.received.clear(); {RESTORED}",
    ),
    Plant(
        "lost end of the log accepted",
        Worker,
        "follow",
        """
        if not entries and after < goal.stream_id:
            raise LogDamaged(
                f"shard {self._index} is committed up to {goal.stream_id}, but its input ends at {after}; "
                "restore the Redis data from a backup"
            )
        """,
        """
        if not entries and after < goal.stream_id:
            self.position, self._committed = ShardPosition(0, goal.stream_id), None
            return 0
        """,
    ),
    Plant("older snapshot replaces a newer one", MemoryStreamLog, "save_snapshot",
          "stream_id < newest or (stream_id == newest and not replaces)", "False"),
    Plant("input trimmed to the newer snapshot", Snapshotter, "_trim",
          "min(snapshot.stream_id for snapshot in snapshots)",
          "max(snapshot.stream_id for snapshot in snapshots)"),
    Plant("events trimmed before they are read", Snapshotter, "_trim", "min(older, *readers)", "older"),
    Plant("ingest goes by what it has said, not by its row", ShardIngest, "step",
          "last_id = self._locked_last_id(connection)",
          "self._locked_last_id(connection);"
          " last_id = self._log.passed(self._shard).get('persist', STREAM_START)"),
    Plant("ingest moves its row alone", ShardIngest, "step", "self._store(connection, entries)",
          "self._store(connection, entries) if len(entries) < 4 else (0, 0)"),
    Plant("feeds start from what they saved, not from their mark", _ShardFollower, "restore",
          "end = saved.published_id", "end = STREAM_START"),
    Plant("signature not looked at", Authority, "reason_to_refuse", "not is_genuine(signed, key.public_key)",
          "False"),
    Plant("any key may say anything", Authority, "reason_to_refuse", "key.role not in ROLES[type(command)]",
          "False"),
    Plant("a signature counts at every shard", Authority, "reason_to_refuse", "signed.shard != shard",
          "False"),
    Plant("a signature counts for ever", Authority, "reason_to_refuse", "entered > signed.deadline_ms",
          "False"),
    Plant("unsigned commands count", OperatorCommands, "_authorized",
          "bool(state.authority.keys) and not state.is_founding", "False"),
    Plant("a closed market trades", Configuration, "_follow_config",
          "config.status is not MarketStatus.TRADING", "False"),
    Plant("a frozen account places orders", Account, "reason_of_limits", "limits.is_frozen", "False"),
    Plant(
        "what is being canceled is forgotten at restart",
        Worker,
        "_restore_shard",
        RESTORED,
        f"core.shard.state.drains.clear(); {RESTORED}",
    ),
    Plant(
        "limits forgotten at restart",
        Worker,
        "_restore_shard",
        RESTORED,
        f"[setattr(each, 'limits', None) for each in core.shard.state.accounts.values()]; {RESTORED}",
    ),
    Plant(
        "gateway repeats an order under a new number",
        Gateway,
        "step",
        "self._append(stream, field, batch, is_first=False)",
        "renamed = [msgspec.structs.replace(each, request_id=each.request_id + 10**6) for each in batch]; "
        "self._append(stream, field, renamed, is_first=False)",
    ),
    Plant("lease not renewed within a batch", Worker, "_keep_lease",
          "self._renewals is not None and (leader := self._renewals.due(self._now_ms())) is not None",
          "False"),
    Plant("entry of many commands is no progress", Worker, "_next_batch",
          "self._apply(entry, letters, self._keep_lease)", "self._apply(entry, letters)"),
    Plant("lease renewed also while nothing gets on", EngineWorker, "work",
          "self.let_act(lambda: self.surroundings.while_working(self.other, hang_ms > 0))",
          "self._worker._keep_lease();"
          " self.let_act(lambda: self.surroundings.while_working(self.other, hang_ms > 0))"),
    Plant("takeovers that lead to nothing make no lease longer", candidate, "lease_after",
          "min(1 << fruitless, LEASE_FACTOR_MAX)", "1"),
    Plant("a lease once made longer stays so", Renewals, "committed",
          "self.leader.lease_ms != self._usual_ms", "False"),
    Plant("batches without bounds", Worker, "_next_batch",
          "core.waiting_events >= events_max or core.command_count >= commands_max", "False"),
    Plant("mail delivered while the next batch is applied already", Worker, "_finish_commit",
          "step.outgoing.append(Outgoing(stream_id, batch.outbox))",
          "self._streams.deliver(self._index, Outgoing(stream_id, batch.outbox))"),
    Plant("a full Redis counts as a bug", redis_clients, "_raise_passing", "is_full(error)", "False"),
    Plant("missing replicas count as a bug", redis_clients, "_raise_passing",
          "isinstance(error, translated) or is_passing(error)", "False"),
    Plant("commit gives up when Redis is full", FaultyLog, "begin_commit", "(Fenced, *Unreachable)",
          "(Fenced, __import__('redis').ConnectionError)"),
    Plant("batch given up when its lease cannot be renewed", FaultyLog, "renew_lease",
          "with suppress(*Unreachable): self._renew(shard, leader)", "self._renew(shard, leader)"),
    Plant("gateway takes what Redis has refused for appended", Gateway, "_append",
          "self._refused(stream, field, batch, is_first=is_first)", "pass"),
    Plant("gateway refuses what may have been appended", Gateway, "_refused", "not is_first", "False"),
    Plant("gateway does not look how large a log is", clients, "filled", "max(memory, log / log_max)",
          "memory"),
    Plant("MARKET order bounded by what its gateway expects", MarketState, "match_order",
          "self._bound(order) if order.bound_by_book else order.price", "order.price"),
    Plant("an order meets any number of others", Book, "match",
          "len(matches) + len(expired) == matches_max", "False"),
    Plant("one open order too many in a market", account_half, "reason_to_refuse",
          "len(open_here) >= market.open_orders_max", "len(open_here) > market.open_orders_max"),
    Plant("one open order too many in all", account_half, "reason_to_refuse",
          "len(account.client_order_ids) >= open_orders_max",
          "len(account.client_order_ids) > open_orders_max"),
)  # fmt: skip


class VersionPlant(NamedTuple):
    """A bug that takes two versions side by side: `plants` together, and what happens to whom."""

    bug: str
    plants: tuple[Plant, ...]
    seen_as: str
    """What only a process of the other release can show. One version alone agrees with itself."""


_NEW_KIND = Plant("", next_release, "move_funds", "config.kinds > KINDS", "True")
_NEW_FIELD = Plant(
    "",
    next_release,
    "move_funds",
    '"of the next release" if config.format > FORMAT else ""',
    '"of the next release"',
)
_NOT_HELD = Plant(
    "",
    frames,
    "_check_is_no_later_switch",
    "counts and body.config.version == version + 1",
    "False",
)

VERSION_PLANTS = (
    VersionPlant("new kind before the switch", (_NEW_KIND,), "the guard in Shard.take halts the leader of "
                                                             "the next release"),
    VersionPlant("new field before the switch", (_NEW_FIELD,), "the guard in encode_as halts the leader of "
                                                               "the next release"),
    VersionPlant(
        "new rules before the switch",
        (Plant("", next_release, "move_funds", "config.rules > RULES", "True"),),
        "no event tells of it and no guard knows it: workers of this release have another state than a "
        "replay by the next one",
    ),
    VersionPlant(
        "new kind before the switch, and no guard",
        (
            _NEW_KIND,
            Plant("", Journal, "take",
                  "state.config is not None and state.config.kinds < this_release().kinds", "False"),
        ),
        "the checksum of a follower of this release differs, its ingest puts the event aside",
    ),
    VersionPlant(
        "new field before the switch, dropped without a word",
        (_NEW_FIELD, Plant("", codec, "_with_fields", "getattr(value, field.name) != field.default",
                           "False")),
        "what was told is not what readers get",
    ),
    VersionPlant(
        "all fields written before the switch",
        (Plant("", codec, "_with_fields", "fields.get(type(value), len(names))", "len(names)"),),
        "followers and readers of this release get bytes that it would not write",
    ),
    VersionPlant(
        "new snapshots before the switch",
        (Plant("", snapshot, "_snapshot_of", "VERSIONS[state.format]", "FORMAT_VERSION"),),
        "this release cannot be started again",
    ),
    VersionPlant(
        "gateway writes the newest format before the switch",
        (Plant("", Gateway, "_look_for_the_format", "Listing.of(configurations, shard_count).format",
               "__import__('protocol.codec').codec.FORMAT"),),
        "workers of this release hold the commands for ever",
    ),
    VersionPlant(
        "leader does not hold what a later release wrote",
        (Plant("", Worker, "_next_batch", "self._hold(entry, error)",
               "letters += [_dead_letter(entry, str(error))]; applied += 1; continue"),),
        "a leader of this release commits past the switch, which a replay by the next one follows",
    ),
    VersionPlant(
        "worker takes what a later release wrote for garbage",
        (Plant("", Worker, "_apply", "raise",
               "letters.append(_dead_letter(entry, 'of a later release')); return"),),
        "the same, and a follower of this release takes a switched shard over",
    ),
    VersionPlant(
        "switch refused by who does not read it",
        (
            _NOT_HELD,
            Plant("", Configuration, "configure_shard",
                  'raise InvariantBroken(f"the shard is switched to what another release does: it {reason}")',
                  "self._replies.refuse(command.reply_to, command.request_id, RejectReason.CONFIG_REFUSED)"),
        ),
        "the next release follows the same entry",
    ),
    VersionPlant(
        "switch halts who does not read it",
        (_NOT_HELD,),
        "the shard halts instead of waiting for the next release",
    ),
    VersionPlant(
        "ingest skips what a later release wrote",
        (Plant("", ShardIngest, "_readable", "return entries[:number], True",
               "return [each for each in entries if each.fields[EVENTS_FIELD][1] != error.number], False"),),
        "what an ingest of this release read after the switch is missing from the database",
    ),
    VersionPlant(
        "feeds skip what a later release wrote",
        (Plant("", _ShardFollower, "follow", "self._hold(stream_id, error)",
               "self.feeds.skip(stream_id); continue"),),
        "what feeds of this release read after the switch is missing from the streams",
    ),
    VersionPlant(
        "switch allowed although a process does not read it",
        (Plant("", switching, "plan_switch",
               "tuple(each for each in counted if each.reads is None or not _reads(each.reads, newest))",
               "()"),),
        "the process holds from then on, or does not start again",
    ),
)  # fmt: skip


FOUND_BY: Final = {
    "a signature counts at every shard": 2,
    "any key may say anything": 2,
    "events trimmed before they are read": 2,
    "filled order trades again when its request is repeated": 2,
    "gateway does not look how large a log is": 2,
    "unsigned commands count": 2,
    "a full Redis counts as a bug": 3,
    "gateway takes what Redis has refused for appended": 3,
    "snapshot is one entry too late": 3,
    "the checksum is ignored by followers": 3,
    "MARKET order bounded by what its gateway expects": 4,
    "an order meets any number of others": 4,
    "missing replicas count as a bug": 4,
    "gateway refuses what may have been appended": 7,
    "feeds skip what a later release wrote": 10,
    "feeds start from what they saved, not from their mark": 10,
    "ingest goes by what it has said, not by its row": 10,
    "messages applied twice": 11,
    "outbox not delivered again": 13,
    "one open order too many in all": 15,
    "batch given up when its lease cannot be renewed": 17,
    "commit gives up when Redis is full": 17,
    "every mail between shards moves time by a second": 20,
    "repeated cancel refused": 20,
    "entry of many commands is no progress": 21,
    "lease not renewed within a batch": 21,
    "limits forgotten at restart": 24,
    "leader does not hold what a later release wrote": 32,
    "batches without bounds": 33,
    "outbox overtaken": 33,
    "gateway repeats an order under a new number": 38,
    "ingest skips what a later release wrote": 42,
    "lost end of the log accepted": 42,
    "switch allowed although a process does not read it": 42,
    "closed orders forgotten before they are stored": 44,
    "closed orders not read at a start": 44,
    "older snapshot replaces a newer one": 44,
    "what is being canceled is forgotten at restart": 65,
    "mail delivered while the next batch is applied already": 195,
}
"""The seeds that found the bugs when the program was last run, but for those that the first two find.

They are looked at first. Where one finds nothing any more, all are looked at.
"""


def first_of(seeds: Iterable[int], plants: Iterable[Plant]) -> int | None:
    """Return the first of `seeds` that finds the bugs together; None: none does."""
    with planted(plants):
        return next((seed for seed in seeds if run(plan_of(seed)).failure), None)


def is_found(bug: str, plants: Iterable[Plant]) -> bool:
    """Return whether the first `SEEDS_MAX` seeds find a bug."""
    earlier = FOUND_BY.get(bug, 0)
    assert earlier < SEEDS_MAX
    seeds = (earlier, *(seed for seed in range(SEEDS_MAX) if seed != earlier))
    return first_of(seeds, plants) is not None


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.bug.replace(" ", "-") for plant in PLANTS])
def test_planted_bug_is_found(plant: Plant) -> None:
    assert is_found(plant.bug, [plant]), f"{SEEDS_MAX} seeds do not notice: {plant.bug}"


@pytest.mark.parametrize(
    "plant", VERSION_PLANTS, ids=[plant.bug.replace(" ", "-") for plant in VERSION_PLANTS]
)
def test_planted_bug_of_two_versions_is_found_by_them_alone(plant: VersionPlant) -> None:
    assert is_found(plant.bug, plant.plants), f"{SEEDS_MAX} seeds do not notice: {plant.bug}"
    with planted(plant.plants):
        assert not any(
            run(plan_of(seed, has_two_versions=False)).failure for seed in range(ONE_VERSION_SEEDS)
        )


if __name__ == "__main__":
    for each in (*PLANTS, *VERSION_PLANTS):
        found = first_of(range(SEEDS_MAX), each.plants if isinstance(each, VersionPlant) else [each])
        print(f"| {each.bug} | {'–' if found is None else found + 1} |", flush=True)  # noqa: T201 - it is a program here
