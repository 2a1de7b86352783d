"""One run: the whole pipeline, the plan's actions one after the other, then quiet, then all checks.

in:{k} <── gateways <── clients
  └──> workers ──> ev:{k} ──> feeds ──> subscriber
                     └──────> ingests ──> database
"""

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import structlog
from typing_extensions import override

import engine_worker.worker
import feeds.worker
from adapters.backlog import allowed
from engine_worker.core.shard import WRITER_BEHIND_MS_MAX
from engine_worker.core.snapshot import SnapshotError, decode_snapshot
from engine_worker.worker import LogDamaged
from lab.simulation.clients import Client, Gateway, endowment
from lab.simulation.database import IngestProcess, Tables
from lab.simulation.engine import LEASE_MS, EngineWorker, SnapshotChild
from lab.simulation.faulty_log import LosingLog
from lab.simulation.feeds import FeedsProcess, FeedsStores
from lab.simulation.markets import market_map
from lab.simulation.memo import memoized
from lab.simulation.next_release import NEXT, READS, Program, Running
from lab.simulation.operator import Operator, by_treasury
from lab.simulation.process import Process, Surroundings, Violation
from lab.simulation.relations import check_relations
from lab.simulation.schedule import CLIENTS, GATEWAYS, SLOTS, SLOW_WORK_US, Act, Action, Dice, Plan
from lab.simulation.shortage import Refusal
from lab.simulation.tail import Tail
from lab.simulation.undecodable_frames import BROKEN_TEXT, DEEP
from lab.simulation.witness import FLOOD, Witness, require
from persist.rows import TradeGapError
from protocol import streams
from protocol.codec import encode_commands
from protocol.commands import CancelOrder
from protocol.events import Event
from protocol.lease import Leader
from protocol.market import MarketMap
from protocol.positions import ShardPosition
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD
from protocol.switching import Reader
from protocol.units import AccountId, OrderId
from protocol.violations import InvariantBroken
from stream_log.interface import Commit

START_MS = 1_767_225_500_000
"""Shortly before a year, a month, a day and an hour end."""
NESTING_MAX = 3
"""Maximum of processes that are paused in the middle of each other's pauses."""
ROUNDS_MAX = 400
"""After this number of rounds without a fault, plus one per entry of an input, everything must be quiet."""
TOLD_MS_MAX = 2_100
"""Maximum distance of a shard's time from its last event: a tick's second, and a second of clock error."""
FURTHER_ACTIONS_MAX = 20_000
"""Maximum of further actions until there are enough commands."""
SWITCHES_MAX = 40
"""So often a switch is ordered at the end, until every shard has followed it."""
TAKEOVERS_MAX = 8
"""Maximum of fruitless takeovers in a row while only the work itself is in the way.

Four give a lease its maximum duration.
"""
COMMITS_MAX = 2
"""After this number of commits in a row a leader's lease has its usual duration."""
FLOOD_COMMANDS_MIN, FLOOD_COMMANDS_MAX = 60, 180
FLOOD_COMMANDS_PER_FRAME = 3
FILLS_MS = (200, 1_000, 3_000)
HOLDS_MS = (500, 2_000, 6_000)
ROOM_BYTES = (2_000, 8_000, 20_000)
"""How much larger a log may get while its readers are held."""
IN_FLIGHT_BYTES = 60_000
"""How many bytes may be written into a log beyond its limit.

These are commands accepted before gateways knew its size, repetitions, messages of other shards, commands of
operators, ticks, and the events of all these.
"""
ACTIONS_EVERY = 2
"""Turns of a leader's work, about, between two actions."""
STEP_COMMANDS_MAX_SLOW, STEP_EVENTS_MAX_SLOW = 32, 128
"""On the slowest machines a step is bounded as it is on others, by what takes a part of the longest lease."""
QUIET_ROUNDS = 6
"""The number of quiet rounds after which the run is quiet: more than a takeover takes."""


DISTURBING = frozenset(
    {Act.CLOCK, Act.KILL, Act.JUMP, Act.UPGRADE, Act.TAKE_BACK, Act.SWITCH, Act.LOSE_TAIL, Act.FILL}
)
"""What may cost a shard its leader, or keep it from its work, without anything else being wrong."""


class Outcome(NamedTuple):
    """The result of one run."""

    plan: Plan
    """With the actions that have happened."""
    failure: str
    """What was broken; empty: nothing."""
    detected: str
    """By what the loss of the log's end was noticed, when there was one."""
    injected: Counter[str]
    counts: Counter[str]


class Simulation:
    """The processes of one exchange, the clock, and the scheduler."""

    def __init__(self, plan: Plan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.surroundings = Surroundings(START_MS)
        self.surroundings.trace = trace
        self.surroundings.pass_by = self._pass_by
        self.surroundings.while_working = self._while_working
        self.surroundings.program = Program.NEXT if plan.has_two_versions else Program.THIS
        self.log = LosingLog(lambda: self.surroundings.now + self.surroundings.redis_ahead_ms)
        self.markets = market_map(plan.shard_count)
        self.witness = HearingWitness(self)
        shards, slots = range(plan.shard_count), range(SLOTS)
        self.gateways = [
            Gateway(self.surroundings, self.log, self.witness, number) for number in range(GATEWAYS)
        ]
        self.tables = Tables()
        self.clients = [
            Client(number, self.gateways, self.witness, self.tables.orders.values)
            for number in range(CLIENTS)
        ]
        self.workers = [
            [EngineWorker(self.surroundings, self.log, self.witness, shard, slot, plan) for slot in slots]
            for shard in shards
        ]
        for first, second in self.workers:
            first.other, second.other = second, first
        self.feeds_stores = FeedsStores(self.log, self.witness)
        self.feeds = [
            FeedsProcess(self.surroundings, self.feeds_stores, f"feeds {'ab'[slot]}") for slot in slots
        ]
        self.ingests = [
            [
                IngestProcess(
                    self.surroundings,
                    self.log,
                    self.tables,
                    self.witness,
                    shard,
                    slot,
                    plan.ingest_entries_max,
                )
                for slot in slots
            ]
            for shard in shards
        ]
        self.children: list[SnapshotChild] = []
        self.tail = Tail(self)
        self.operator = Operator(self.surroundings, self.log, lambda shard: self.witness.twin(shard).state)
        self._actions = self._drawn()
        self.taken: list[Action] = []
        """The actions that have happened, which are a schedule of their own."""
        self._is_switch_ordered = False
        self._flood_count = 0
        self._turns = 0
        self._depth = 0
        self._steps = 0

    # ------------------------------------------------------------------ the scheduler

    def run(self) -> None:
        """Do everything, and check it.

        Raises:
            Violation: something is not as it must always be; so may whatever the programs themselves refuse
                with.
        """
        with Running(self.surroundings.program), scaled_batches(self.plan):
            self._run()

    def _run(self) -> None:
        while not self.witness.knows_all_markets():
            self._round()
        for shard, deposits in endowment(self.markets):
            signed = [by_treasury(shard, deposit, self.log.now_ms()) for deposit in deposits]
            self.log.append(
                streams.commands(shard),
                {COMMANDS_FIELD: encode_commands(signed, self.surroundings.now * 1_000)},
            )
        for action in self._actions:
            self._do(action)
        self.settle()
        self.check()

    def _drawn(self) -> Iterator[Action]:
        """Yield the plan's actions, and as many more as it takes until there were `commands_min` commands."""
        further = self.plan.further_actions()
        for action in self.plan.actions:
            if action.act is Act.LOSE_TAIL:
                yield from self._missing(further)
            yield self._take(action)
        yield from self._missing(further)

    def _missing(self, further: Iterator[Action]) -> Iterator[Action]:
        if self._is_switch_ordered and len(self.witness.requests) < self.plan.commands_min:
            # Once a switch is ordered there is no way back: what holds or refuses is replaced.
            for target in range(len(self._slots())):
                yield self._take(Action(Act.UPGRADE, target, 0))
        for count, action in enumerate(further):
            if len(self.witness.requests) >= self.plan.commands_min:
                return
            if count == FURTHER_ACTIONS_MAX:
                raise Violation(f"{count} more actions are only {len(self.witness.requests)} commands")
            yield self._take(action)

    def _take(self, action: Action) -> Action:
        self.taken.append(action)
        return action

    def _pass_by(self, count: int) -> None:
        if self._depth == NESTING_MAX:
            return
        self._depth += 1
        for _ in range(count):
            action = next(self._actions, None)
            if action is None:
                break
            self._do(action)
        self._depth -= 1

    def _while_working(self, standby: Process, is_alone: bool) -> None:
        """Let a standby look while the leader works, and now and then others act.

        On separate machines each would do so all the time.
        """
        assert isinstance(standby, EngineWorker)
        if not standby.leads:
            standby.run(Action(Act.WORKER, 0, 0))
        self._turns += 1
        if not is_alone and self._turns % ACTIONS_EVERY == 0:
            self._pass_by(1)

    def _do(self, action: Action) -> None:
        # A jump's `wait_ms` is its size, by which Redis's clock is wrong.
        if action.act is not Act.JUMP:
            self.surroundings.now += action.wait_ms
        if action.act in DISTURBING:
            self.surroundings.disturb()
        self._steps += 1
        self._watch_sizes()
        if self.surroundings.trace is not None:
            self.surroundings.say(f"{self.surroundings.now - START_MS:>8} ms {'  ' * self._depth}{action}")
        dice, target, shard = Dice(action.dice), action.target, action.target % self.plan.shard_count
        match action.act:
            case Act.CLIENT:
                self.clients[target % CLIENTS].act(dice)
            case Act.GATEWAY:
                self.gateways[target % GATEWAYS].run(action)
            case Act.WORKER:
                self._step_worker(shard, dice, action)
            case Act.TAKE_OVER:
                self.workers[shard][dice.below(2)].run(action)
            case Act.FEEDS:
                self._step_feeds(dice, action)
            case Act.INGEST:
                self._step_ingest(shard, dice, action)
            case Act.SNAPSHOT:
                self._snapshot(shard)
            case Act.HANG:
                self.workers[shard][dice.below(SLOTS)].hang()
            case Act.FLOOD:
                self._flood(shard, dice)
            case Act.FILL:
                self._fill(dice)
            case Act.HOLD_READERS:
                self._hold_readers(shard, dice)
            case Act.SAVE:
                self._save(dice, action)
            case Act.TEAR:
                self._tear(shard)
            case Act.KILL:
                processes = self._processes()
                process = processes[dice.below(len(processes))]
                self.surroundings.inject(f"kill {'paused' if process.busy else 'idle'} ({process.kind})")
                process.kill()
            case Act.DIVERGE:
                self.workers[shard][dice.below(SLOTS)].diverge()
            case Act.GARBAGE | Act.OPERATE | Act.FORGE | Act.SWITCH if self._refuses_all():
                pass
            case Act.GARBAGE:
                self._write_garbage(shard, dice)
            case Act.OPERATE:
                self.operator.act(shard, dice)
            case Act.FORGE:
                self.operator.forge(shard, dice)
            case Act.JUMP:
                is_wrong = self.surroundings.redis_ahead_ms != 0
                self.surroundings.redis_ahead_ms = 0 if is_wrong else action.wait_ms
                self.surroundings.inject(f"clock {'right again' if is_wrong else 'wrong'}")
            case Act.UPGRADE | Act.TAKE_BACK:
                self._deploy(target, Program.NEXT if action.act is Act.UPGRADE else Program.THIS)
            case Act.SWITCH:
                self._switch(asks=bool(target))
            case Act.LOSE_TAIL:
                self.tail.lose(shard, dice)
        if self._steps % 16 == 0:
            for worker in self.workers[shard]:
                worker.look()

    def _processes(self) -> list[Process]:
        workers = [worker for pair in self.workers for worker in pair]
        ingests = [ingest for pair in self.ingests for ingest in pair]
        return [*workers, *workers, *self.gateways, *self.feeds, *ingests, *self.children]

    def _slots(self) -> list[Process]:
        """Return the processes that are upgraded; the children of workers run what their parents do."""
        workers = [worker for pair in self.workers for worker in pair]
        ingests = [ingest for pair in self.ingests for ingest in pair]
        return [*workers, *ingests, *self.gateways, *self.feeds]

    def _deploy(self, target: int, program: Program) -> None:
        slots = self._slots()
        process = slots[target % len(slots)]
        others = {slot.program for slot in slots if slot is not process}
        if process.program is program:
            return
        if program is Program.THIS:
            self.surroundings.inject(
                f"taken back {'after' if self._is_switch_ordered else 'before'} the switch"
            )
        else:
            self.surroundings.inject("upgraded")
        process.deploy(program)
        if others != {program}:
            self.surroundings.inject("two versions side by side")

    def _switch(self, *, asks: bool) -> None:
        slots = self._slots()
        readers = [Reader(process.name, READS[process.program]) for process in slots]
        if self.operator.switch(range(self.plan.shard_count), readers, asks=asks):
            self._is_switch_ordered = True
            for process in slots:
                process.was_asked = process.was_asked or asks

    def check_was_asked(self) -> None:
        """Refuse an operator's switch while a process that existed at the time does not read the new format.

        Raises:
            Violation: there is such a process. It holds from now on, or will not start again.
        """
        for process in self._slots():
            require(
                process.program is Program.NEXT or not process.was_asked,
                f"{process.name} does not read what the shards were switched to, although its operator has "
                "asked",
            )

    def _complete_switch(self) -> None:
        """Replace processes that hold or refuse, and repeat the switch for shards that refused it as late."""
        if not self._is_switch_ordered:
            return
        for target in range(len(self._slots())):
            self._deploy(target, Program.NEXT)
        for _ in range(SWITCHES_MAX):
            for _ in range(10):
                self._round()
            if all(
                self.witness.twin(shard).state.format == NEXT.format for shard in range(self.plan.shard_count)
            ):
                self.surroundings.inject("switched")
                return
            self._switch(asks=True)
        raise Violation("the switch is not followed")

    def end_everything(self) -> None:
        """End all processes, including the children that write snapshots."""
        for process in self._processes():
            process.kill()
        self.children.clear()

    def _step_worker(self, shard: int, dice: Dice, action: Action) -> None:
        """Mostly the leader makes a step, often its standby."""
        pair = self.workers[shard]
        leader = self.witness.leader(shard)
        chosen = pair[1] if pair[1] is leader else pair[0]
        if dice.below(3) == 0:
            chosen = pair[1 - pair.index(chosen)]
        chosen.run(action)

    def _step_ingest(self, shard: int, dice: Dice, action: Action) -> None:
        if not self.surroundings.shortage.is_held("ingest", shard, self.surroundings.now):
            self.ingests[shard][dice.below(SLOTS)].run(action)

    def _step_feeds(self, dice: Dice, action: Action) -> None:
        if self.surroundings.shortage.is_held("feeds", 0, self.surroundings.now):
            return
        process = self.feeds[dice.below(SLOTS)]
        other_process = self.feeds[1 - self.feeds.index(process)]
        if not process.is_up and (other_process.is_up or other_process.busy) and dice.below(12):
            process = other_process
        process.run(action)

    def _refuses_all(self) -> bool:
        return self.surroundings.shortage.refusal(self.surroundings.now, is_reserved=True) is not None

    def _fill(self, dice: Dice) -> None:
        """Let Redis refuse writes for a while, new work alone in half of the cases."""
        surroundings = self.surroundings
        refusal = Refusal.OUT_OF_MEMORY if dice.below(2) else tuple(Refusal)[dice.below(len(Refusal))]
        surroundings.shortage.refuse(refusal, surroundings.now + FILLS_MS[dice.below(len(FILLS_MS))])
        surroundings.inject(f"Redis is full: {refusal.value}")

    def _hold_readers(self, shard: int, dice: Dice) -> None:
        """Stop a shard's ingests, or the feeds, for a while, in which their logs stay bounded."""
        surroundings, shortage = self.surroundings, self.surroundings.shortage
        until_ms = surroundings.now + HOLDS_MS[dice.below(len(HOLDS_MS))]
        is_feeds, room = bool(dice.below(2)), ROOM_BYTES[dice.below(len(ROOM_BYTES))]
        shortage.hold_reader("feeds" if is_feeds else "ingest", 0 if is_feeds else shard, until_ms)
        for shard_index in range(self.plan.shard_count) if is_feeds else (shard,):
            shortage.log_bytes_max[shard_index] = (self.log.size(shard_index) + room, until_ms)
        surroundings.inject(f"readers are held ({'feeds' if is_feeds else 'ingest'})")

    def _watch_sizes(self) -> None:
        """Note since when the logs are larger than they may be."""
        shortage, now = self.surroundings.shortage, self.surroundings.now
        for shard in shortage.log_bytes_max:
            limit, size = shortage.limit(shard, now), self.log.size(shard)
            for is_cancel in (False, True):
                if limit and size > limit * allowed(is_cancel=is_cancel):
                    shortage.over_since_ms.setdefault((shard, is_cancel), now)
                else:
                    shortage.over_since_ms.pop((shard, is_cancel), None)
            require(
                not limit or size <= limit * allowed(is_cancel=True) + IN_FLIGHT_BYTES,
                f"the log of shard {shard} has {size} bytes and may have {limit}",
            )

    def _flood(self, shard: int, dice: Dice) -> None:
        """Write many futile cancels into a shard's input: in one frame, or in many small ones."""
        markets = self.markets
        accounts = [
            number + 1
            for number in range(CLIENTS)
            if markets.shard_of_account(AccountId(number + 1)) == shard
        ]
        surroundings = self.surroundings
        is_full = surroundings.shortage.refusal(surroundings.now, is_reserved=False) is not None
        if not accounts or is_full or surroundings.shortage.limit(shard, surroundings.now):
            return
        symbols = [market.symbol for market in markets.markets]
        commands = []
        for _ in range(FLOOD_COMMANDS_MIN + dice.below(FLOOD_COMMANDS_MAX - FLOOD_COMMANDS_MIN)):
            self._flood_count += 1
            number = self._flood_count
            account_id, symbol = AccountId(accounts[number % len(accounts)]), symbols[number % len(symbols)]
            commands.append(
                CancelOrder(number, FLOOD, account_id, symbol, OrderId(0), "nothing", f"f{number}")
            )
        surroundings.inject("flood")
        size = FLOOD_COMMANDS_PER_FRAME if dice.below(2) else len(commands)
        for first in range(0, len(commands), size):
            frame = encode_commands(commands[first : first + size], surroundings.now * 1_000)
            self.log.append(streams.commands(shard), {COMMANDS_FIELD: frame})

    def _snapshot(self, shard: int) -> None:
        for worker in self.workers[shard]:
            child = worker.snapshot()
            if child is not None:
                self.children.append(child)

    def _save(self, dice: Dice, action: Action) -> None:
        if self.children:
            child = self.children[dice.below(len(self.children))]
            child.run(action)
            self.children = [child for child in self.children if not child.is_done or child.busy]

    def _tear(self, shard: int) -> None:
        """Damage the newest snapshot if the previous one is intact: two are kept so that one may be lost."""
        kept = self.log.snapshots(shard)
        if len(kept) > 1 and _is_whole(kept[1], self.markets):
            self.surroundings.inject("torn snapshot")
            self.log.tear(shard)

    def _write_garbage(self, shard: int, dice: Dice) -> None:
        stream = (streams.commands(shard), streams.queries(shard), streams.events(shard))[dice.below(3)]
        field = (COMMANDS_FIELD, EVENTS_FIELD, b"m", b"q", b"?")[dice.below(5)]
        self.surroundings.inject(f"garbage ({stream.partition(':')[0]})")
        payloads = (b"\xc1", BROKEN_TEXT[dice.below(len(BROKEN_TEXT))], DEEP[dice.below(len(DEEP))])
        payload = payloads[dice.below(3)]
        self.surroundings.shortage.allow(shard, len(payload))  # of strangers no gateway is in control
        stream_id = self.log.append(stream, {field: payload})
        self.witness.garbage.append((stream, stream_id))

    def settle(self) -> None:
        """Let everything run without faults until nothing happens any more.

        Raises:
            Violation: it does not come to rest.
        """
        quiet, shards = 0, range(self.plan.shard_count)
        self.surroundings.redis_ahead_ms = 0
        self.surroundings.shortage.end()
        self._complete_switch()
        # A worker that takes one entry at a time needs a round for each of those that a long run has left.
        rounds_max = ROUNDS_MAX + max(len(self.log.entries(streams.commands(shard))) for shard in shards)
        for number in range(rounds_max):
            before = self._progress()
            self._round()
            is_quiet = not self._is_anyone_waiting(number) and self._progress() == before
            quiet = quiet + 1 if is_quiet else 0
            if quiet == QUIET_ROUNDS:
                break
        else:
            raise Violation(f"nothing comes to rest: {self._progress()}")
        for _ in range(2):
            self.surroundings.now += 2_000
            self._round()
            self._round()
        # A second may just have begun, and its tick be in the input.
        for _ in range(2):
            if any(
                self.log.position(shard).stream_id != self.log.last_id(streams.commands(shard))
                for shard in shards
            ):
                self._round()

    def _round(self) -> None:
        self.surroundings.now += 50
        action = Action(
            Act.CLOCK, 0, self.surroundings.now // 50
        )  # another number each time: gateways repeat now and then
        for gateway in self.gateways:
            gateway.run(action)
        for pair in self.workers:
            for worker in pair:
                worker.run(action)
        for process in self.feeds:
            if process.is_up or not any(feeds_process.is_up for feeds_process in self.feeds):
                process.run(action)
        for pairs in self.ingests:
            for ingest in pairs:
                ingest.run(action)

    def _is_anyone_waiting(self, number: int) -> bool:
        waits = [client.resolve(Dice(number * 7 + index)) for index, client in enumerate(self.clients)]
        return any(waits) or not all(gateway.is_idle for gateway in self.gateways)

    def _progress(self) -> tuple[object, ...]:
        shards = range(self.plan.shard_count)
        return (
            [self.log.position(shard) for shard in shards],
            [self.log.last_id(streams.commands(shard)) for shard in shards],
            [self.feeds_stores.hashes[shard].mark.stream_id for shard in shards],
            dict(self.tables.last_ids),
        )

    def check(self) -> None:
        """Check everything that must be true once all is quiet.

        Raises:
            Violation: something is not.
        """
        witness, shards = self.witness, range(self.plan.shard_count)
        # Before anything is restarted: from then on the feeds stand still.
        told = [
            max(event.time for _, events in witness.events_of(shard) for event in events) for shard in shards
        ]
        for shard in shards:
            require(
                witness.twin(shard).state.time - told[shard] <= TOLD_MS_MAX,
                f"shard {shard} does not tell that time passes",
            )
            ahead_ms = witness.twin(shard).state.time - self.surroundings.now
            require(
                ahead_ms <= WRITER_BEHIND_MS_MAX,
                f"the time of shard {shard} is {ahead_ms} ms ahead of every right clock",
            )
        for shard in shards:
            done, last = self.log.position(shard).stream_id, self.log.last_id(streams.commands(shard))
            require(done == last, f"shard {shard} stands still at {done}, its input ends at {last}")
            require(not self.log.undelivered(shard), f"shard {shard} has undelivered messages")
            self._restart(shard)
        witness.check_twins()
        witness.check_replays()
        for client in self.clients:
            client.check(witness)
        happened: list[Event] = [
            event for shard in shards for _, events in witness.events_of(shard) for event in events
        ]
        self.operator.check(happened, is_one_shard=self.plan.shard_count == 1)
        self.feeds_stores.check(witness.books, happened, told)
        check_relations(self.tables, witness)

    def _restart(self, shard: int) -> None:
        """End both workers of a shard, so that one has to begin with nothing but what is stored."""
        pair = self.workers[shard]
        for worker in pair:
            worker.look()
            worker.kill()
        for _ in range(20):
            self.surroundings.now += LEASE_MS // 4
            pair[0].run(Action(Act.WORKER, 0, 0))
        require(pair[0].leads, f"shard {shard} does not start again")
        pair[0].look()

    def counts(self) -> Counter[str]:
        """Return how often each thing happened in the run."""
        books, counted = self.witness.books, Counter[str]()
        counted["commands"] = len(self.witness.requests)
        counted["transfers"] = len(books.transfers)
        counted["orders"] = len(books.histories)
        counted["trades"] = sum(len(trades) for trades in books.trades.values())
        counted["steps"] = self._steps
        for client in self.clients:
            for event_name, count in client.told.items():
                counted[f"clients: {event_name}"] += count
        return counted


def _is_whole(snapshot: bytes, markets: MarketMap) -> bool:
    try:
        decode_snapshot(snapshot)
    except SnapshotError:
        return False
    return True


class HearingWitness(Witness):
    """The witness, and the way of what is published to the gateways."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(simulation.markets, simulation.log, simulation.surroundings.program)
        self._simulation = simulation
        self._takeovers: dict[int, tuple[StreamId, int, int]] = {}
        """Shard -> (position of the last takeover, disturbances before it, takeovers in a row there)."""
        self._commits: dict[int, tuple[int, int, int]] = {}
        """Shard -> (epoch, after how many disturbances, how many commits in turn with the same of both)."""

    def _check_progress(self, shard: int, position: ShardPosition) -> None:
        """Refuse a shard that is taken over for ever.

        Raises:
            Violation: it was taken over too often, and not because of anything that was done to it.
        """
        now = (position.stream_id, self._simulation.surroundings.disturbances_of(shard))
        *before, count = self._takeovers.get(shard, ("", 0, 0))
        count = count + 1 if tuple(before) == now else 1
        self._takeovers[shard] = (*now, count)
        require(
            count <= TAKEOVERS_MAX,
            f"shard {shard} was taken over {count} times at {position.stream_id}, and nothing but work was "
            "in the way",
        )

    def _count_commit(self, commit: Commit) -> None:
        now = (commit.expected.epoch, self._simulation.surroundings.disturbances_of(commit.shard))
        *before, count = self._commits.get(commit.shard, (0, 0, 0))
        self._commits[commit.shard] = (*now, count + 1 if tuple(before) == now else 1)

    @override
    def renewed(self, shard: int, leader: Leader) -> None:
        """A lease is long only for as long as work is in the way."""
        epoch, disturbances, count = self._commits.get(shard, (0, 0, 0))
        if (epoch, disturbances) == (leader.epoch, self._simulation.surroundings.disturbances_of(shard)):
            require(
                count < COMMITS_MAX or leader.lease_ms == LEASE_MS,
                f"shard {shard}: after {count} commits the lease still lasts {leader.lease_ms} ms",
            )

    @override
    def committed(self, process: Process, commit: Commit) -> None:
        self._count_commit(commit)
        format_before = self.twin(commit.shard).state.format
        with Running(self.program):
            super().committed(process, commit)
        if self.twin(commit.shard).state.format != format_before:
            self._simulation.check_was_asked()

    @override
    def took_over(self, process: Process, shard: int, position: ShardPosition) -> None:
        simulation = self._simulation
        self._check_progress(shard, position)
        if simulation.log.lease(shard).remaining_ms > LEASE_MS:
            simulation.surroundings.inject("a lease made longer")
        if any(worker.busy and worker is not process for worker in simulation.workers[shard]):
            simulation.surroundings.inject("taken over in the middle of a step")
        with Running(self.program):
            super().took_over(process, shard, position)

    @override
    def published(self, process: Process, messages: Sequence[tuple[str, bytes]]) -> None:
        with Running(self.program):
            self._published(process, messages)

    def _published(self, process: Process, messages: Sequence[tuple[str, bytes]]) -> None:
        super().published(process, messages)
        if process.is_deaf:
            self._simulation.surroundings.inject("replies lost")
            return
        gateways = {streams.replies(gateway.reply_to): gateway for gateway in self._simulation.gateways}
        for channel, payload in messages:
            if channel in gateways:
                gateways[channel].hear(payload)


DETECTIONS = (LogDamaged, InvariantBroken, TradeGapError)
"""By what a program refuses to go on with a log that lost its end."""


def run(plan: Plan, trace: Callable[[str], None] | None = None) -> Outcome:
    """Run a plan and say what came of it."""
    with silent_logs(), no_waiting(), memoized():
        simulation = Simulation(plan, trace)
        failure = detected = ""
        try:
            simulation.run()
            if simulation.tail.lost:
                failure = f"the log lost its end ({simulation.tail.lost}), and nobody noticed"
        except Exception as error:  # whatever a program breaks with is the finding
            message = f"{type(error).__name__}: {error}" if not isinstance(error, Violation) else str(error)
            if simulation.tail.lost and isinstance(error, DETECTIONS):
                detected = message
            else:
                failure = message
    taken = plan._replace(actions=tuple(simulation.taken), commands_min=0)
    return Outcome(taken, failure, detected, simulation.surroundings.injected, simulation.counts())


@contextmanager
def no_waiting() -> Iterator[None]:
    """Let programs that hold their input look again at once: the clock is not a real one."""
    modules = [vars(module) for module in (engine_worker.worker, feeds.worker)]
    waits = [module["_HELD_S"] for module in modules]
    for module in modules:
        module["_HELD_S"] = 0.0
    try:
        yield
    finally:
        for module, wait_s in zip(modules, waits, strict=True):
            module["_HELD_S"] = wait_s


@contextmanager
def scaled_batches(plan: Plan) -> Iterator[None]:
    """Make batches as short as the plan says, and steps if commands take long, to fit into a lease."""
    module = vars(engine_worker.worker)
    bounds = {"BATCH_COMMANDS_MAX": plan.batch_commands_max}
    if plan.work_us >= SLOW_WORK_US:
        bounds |= {"STEP_COMMANDS_MAX": STEP_COMMANDS_MAX_SLOW, "STEP_EVENTS_MAX": STEP_EVENTS_MAX_SLOW}
    originals = {name: module[name] for name in bounds}
    module.update(bounds)
    try:
        yield
    finally:
        module.update(originals)


@contextmanager
def silent_logs() -> Iterator[None]:
    """Let the programs' logs be silent: the faults make them say a lot."""
    configured = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.testing.CapturingLoggerFactory(),
    )
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        structlog.configure(**configured)
        if was_enabled:
            gc.enable()
