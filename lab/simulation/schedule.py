"""What happens in a run, decided before it begins: a list of actions, drawn from one seeded random source.

An action names who acts and carries its own dice, so it means something in whatever state it meets; leave any
actions out and the rest is still a schedule. That is what makes a failing one easy to shrink. Each seed also
draws its own mixture (few faults or many, short batches or long): what a mean mixture hides, an extreme one
shows.
"""

import random
from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from engine_worker.cores import OBJECTS

SHARDS_MAX = 3
CLIENTS = 5
GATEWAYS = 2
SLOTS = 2
"""Workers per shard, feeds processes, and ingests per shard: one that works, and one more to contend."""


class Act(Enum):
    """The kinds of actions."""

    CLIENT = "client"
    """A client places, cancels, asks, or waits."""
    GATEWAY = "gateway"
    """A gateway sends its micro-batch."""
    WORKER = "worker"
    """An engine worker makes a step, leading or standing by, or is started."""
    TAKE_OVER = "change"
    """A worker leaves because it is told to, or takes over whatever the leader does."""
    FEEDS = "feeds"
    INGEST = "ingest"
    SNAPSHOT = "snapshot"
    """A worker forks the child that writes a snapshot."""
    SAVE = "save"
    """Such a child is done: it saves what it wrote, and its parent trims the logs."""
    TEAR = "tear"
    """The newest snapshot of a shard is damaged."""
    KILL = "kill"
    """A process is ended wherever it stands, also in the middle of a pause."""
    DIVERGE = "diverge"
    """A follower's state diverges from the leader's, as with other settings or another program."""
    GARBAGE = "garbage"
    """Somebody writes nonsense into a stream."""
    CLOCK = "clock"
    """Nothing happens for a while."""
    OPERATE = "operate"
    """An operator, or the treasury, says something that it has signed."""
    FORGE = "forge"
    """Somebody says such a thing who may not, or not so."""
    JUMP = "jump"
    """Redis's clock jumps, and is wrong until it jumps back."""
    UPGRADE = "upgrade"
    """A process is ended, and from then on runs the next release."""
    TAKE_BACK = "take back"
    """Likewise, and runs this release again."""
    SWITCH = "switch"
    """An operator switches the shards to what the next release brings."""
    HANG = "hang"
    """The next command of a shard's leader takes very long: the machine swaps, or was stopped."""
    FLOOD = "flood"
    """A frame of many commands reaches a shard's input."""
    FILL = "fill"
    """Redis refuses new work, or all writes, for a while."""
    HOLD_READERS = "hold readers"
    """The ingests of a shard, or the feeds, stop for a while, and the log may grow only a little."""
    LOSE_TAIL = "lose tail"
    """Redis comes back without the end of its log. Not to be survived, but to be noticed."""


class Where(Enum):
    """When a fault strikes: the call has not reached the other side, or it has but its answer is not back."""

    BEFORE = "before"
    AFTER = "after"


class Trouble(Enum):
    """The kinds of faults in a step."""

    CRASH = "crash"
    DISCONNECT = "disconnect"
    """The connection is lost: the caller does not know whether the call was done."""
    PAUSE = "pause"
    """The process stands still while the next actions happen."""
    DEAF = "deaf"
    """What the process publishes in this step reaches nobody."""


class Fault(NamedTuple):
    """A fault in one step of one process."""

    trouble: Trouble
    call: int
    """At which call to the outside, counted from 1; a step with fewer calls escapes."""
    where: Where
    length: int = 0
    """How many actions a pause lasts."""


class Action(NamedTuple):
    """One action. `dice` is a large number that the one who acts takes its choices from."""

    act: Act
    target: int
    dice: int
    wait_ms: int = 0
    """How far the clock moves first."""
    fault: Fault | None = None

    def __str__(self) -> str:
        """Say it in words."""
        words = f"{self.act.value} {self.target}"
        if self.wait_ms:
            words += f" after {self.wait_ms} ms"
        if self.fault is None:
            return words
        trouble, call, where, length = self.fault
        words += f": {trouble.value}"
        if trouble is not Trouble.DEAF:
            words += f" {where.value} call {call}"
        return f"{words} for {length} actions" if length else words


class Dice:
    """Draws that all come from one number, so that an action repeats exactly."""

    __slots__ = ("_left",)

    def __init__(self, number: int) -> None:
        self._left = number

    def below(self, count: int) -> int:
        """Return a number from 0 to `count` - 1."""
        self._left, choice = divmod(self._left, count)
        return choice


class Mixture(NamedTuple):
    """How often each kind of action and fault happens in a run."""

    weights: tuple[tuple[Act, float], ...]
    fault_rate: float
    troubles: tuple[Trouble, ...]

    def actions(self, count: int, source: random.Random) -> list[Action]:
        """Draw `count` actions."""
        acts = source.choices(
            [act for act, _ in self.weights], [weight for _, weight in self.weights], k=count
        )
        return [self.action(act, source) for act in acts]

    def action(self, act: Act, source: random.Random) -> Action:
        """Draw one action: its process, its time and its fault."""
        dice = source.getrandbits(96)
        if act is Act.CLOCK:
            return Action(act, 0, dice, source.choice(_LONG_WAITS))
        fault = None
        if act in _STEPS and source.random() < self.fault_rate:
            trouble = source.choice(self.troubles)
            fault = Fault(
                trouble,
                source.choice(_CALLS),
                source.choice((Where.BEFORE, Where.AFTER)),
                source.choice(_PAUSES) if trouble is Trouble.PAUSE else 0,
            )
        return Action(act, dice & 0xFF, dice >> 8, source.choice(_WAITS), fault)


MIXED: Final = "mixed"
"""Each start of a worker draws its core."""


class Plan(NamedTuple):
    """Everything that a run depends on: the same plan is the same run."""

    seed: int
    shard_count: int
    batch_entries_max: int
    ingest_entries_max: int
    actions: tuple[Action, ...]
    mixture: Mixture
    """What further actions are drawn from."""
    commands_min: int = 0
    """The minimum of commands before the log loses its end, or before the end of the plan."""
    work_us: int = 0
    """How long a leader takes for a command; 0: no time at all."""
    batch_commands_max: int = 256
    """With this number a leader begins a commit; it applies the rest of its input while that is written."""
    core: str = OBJECTS
    """The core that engine workers run, or MIXED."""

    @property
    def has_two_versions(self) -> bool:
        """Whether some processes are of the next release for a while."""
        return any(action.act is Act.UPGRADE for action in self.actions)

    def further_actions(self) -> Iterator[Action]:
        """Draw actions without end, the same each time."""
        source = random.Random(f"further {self.seed}")
        while True:
            yield from self.mixture.actions(100, source)

    @property
    def loses_tail(self) -> bool:
        """Whether the log loses its end in this run."""
        return any(action.act is Act.LOSE_TAIL for action in self.actions)


DICE_SIZE = 1 << 96
SLOW_WORK_US = 10_000
"""So long a command takes on the slowest machines: ten of them take a lease, and an entry may have more."""
_WEIGHTS = {
    Act.CLIENT: 26.0,
    Act.GATEWAY: 14.0,
    Act.WORKER: 30.0,
    Act.TAKE_OVER: 0.8,
    Act.FEEDS: 6.0,
    Act.INGEST: 6.0,
    Act.SNAPSHOT: 1.5,
    Act.SAVE: 2.0,
    Act.TEAR: 0.2,
    Act.KILL: 0.8,
    Act.GARBAGE: 0.3,
    Act.CLOCK: 0.6,
}
_CALM = (Act.CLIENT, Act.GATEWAY, Act.WORKER, Act.CLOCK)
"""What every mixture keeps as it is."""
_STEPS = frozenset({Act.GATEWAY, Act.WORKER, Act.TAKE_OVER, Act.FEEDS, Act.INGEST, Act.SAVE})
_CALLS = (1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10, 11, 12)
_PAUSES = (1, 2, 4, 8, 16, 32, 64)
_WAITS = (0, 0, 0, 1, 1, 2, 5, 20)
_DIVERGENCES = (0, 0, 1, 2, 4)
_OPERATIONS = (0, 0, 0, 3, 10, 30)
_JUMPS = (0, 0, 0, 0, 1, 3)
_JUMPS_MS = (900, 5_000, 61_000, 3_700_000)
_WORK_US = (0, 0, 20, 300, 3_000, SLOW_WORK_US, SLOW_WORK_US)
_BATCH_COMMANDS = (1, 4, 16, 256)
_HANGS = (0, 0, 1, 2)
_FLOODS = (0, 1, 1, 2)
_FILLS = (0, 0, 1, 3)
_HOLDS = (0, 0, 1, 2)
_ACTIONS_PER_COMMAND = 5
"""About; what is missing is drawn at the end."""
_LONG_WAITS = (200, 900, 2_000, 6_000, 61_000, 3_700_000)


class _Course(Enum):
    """How the deployment of a new release goes on."""

    UPGRADE = "upgrade"
    TAKE_BACK = "take back"
    SWITCH = "switch"
    SWITCH_WITHOUT_ASKING = "switch without asking"


_COURSES = (_Course.UPGRADE, _Course.TAKE_BACK, _Course.SWITCH, _Course.SWITCH, _Course.SWITCH_WITHOUT_ASKING)


def plan_of(
    seed: int,
    *,
    length: int = 0,
    fault_rate: float | None = None,
    loses_tail: bool | None = None,
    is_operated: bool = True,
    has_two_versions: bool | None = None,
    commands_min: int = 0,
    core: str = OBJECTS,
) -> Plan:
    """Return the plan of a seed.

    For tests, `length` fixes the number of actions, `fault_rate` the share of steps with a fault,
    `loses_tail` whether the log loses its end, `is_operated` whether operators and forgers may take part, and
    `has_two_versions` whether a new release is deployed. With `commands_min` the run continues until there
    were this many different commands. `core` is that of its engine workers.
    """
    source = random.Random(seed)
    shard_count = source.randint(1, SHARDS_MAX)
    weights = {
        act: weight if act in _CALM else weight * source.choice((0, 0.5, 1, 1, 2))
        for act, weight in _WEIGHTS.items()
    }
    weights[Act.FEEDS] += 1
    weights[Act.INGEST] += 1
    own_fault_rate = source.choice((0.0, 0.02, 0.05, 0.1, 0.2))
    troubles = source.choices(tuple(Trouble), k=4)
    count = length or max(source.randint(400, 800), commands_min * _ACTIONS_PER_COMMAND)
    acts = source.choices(tuple(weights), tuple(weights.values()), k=count)
    if source.random() < 1 / 8 if loses_tail is None else loses_tail:
        acts[source.randint(count // 3, count - 1)] = Act.LOSE_TAIL
    batch_entries_max, ingest_entries_max = source.choice((1, 3, 512)), source.choice((1, 4, 2_000))
    mixture = Mixture(
        tuple(weights.items()), own_fault_rate if fault_rate is None else fault_rate, tuple(troubles)
    )
    actions = [mixture.action(act, source) for act in acts]
    # From a generator of its own, so that the existing seeds still give the same other actions.
    diverging = random.Random(f"diverging {seed}")
    for _ in range(diverging.choice(_DIVERGENCES)):
        place = diverging.randrange(len(actions) + 1)
        actions.insert(place, Action(Act.DIVERGE, diverging.getrandbits(8), diverging.getrandbits(88)))
    operating = random.Random(f"operating {seed}")
    kinds = (
        *[Act.OPERATE] * operating.choice(_OPERATIONS),
        *[Act.FORGE] * operating.choice(_OPERATIONS),
        *[Act.JUMP] * operating.choice(_JUMPS),
    )
    for act in kinds if is_operated else ():
        place = operating.randrange(len(actions) + 1)
        wait_ms = operating.choice((-1, 1)) * operating.choice(_JUMPS_MS) if act is Act.JUMP else 0
        actions.insert(place, Action(act, operating.getrandbits(8), operating.getrandbits(88), wait_ms))
    working = random.Random(f"work and shortages {seed}")
    own_work_us = working.choice(_WORK_US)
    shortages = (
        *[Act.HANG] * working.choice(_HANGS),
        *[Act.FLOOD] * working.choice(_FLOODS),
        *[Act.FILL] * working.choice(_FILLS),
        *[Act.HOLD_READERS] * working.choice(_HOLDS),
    )
    for act in shortages:
        place = working.randrange(len(actions) + 1)
        actions.insert(place, Action(act, working.getrandbits(8), working.getrandbits(88)))
    upgrading = random.Random(f"two versions {seed}")
    if upgrading.random() < 1 / 3 if has_two_versions is None else has_two_versions:
        _insert_upgrade(actions, shard_count, upgrading)
    batching = random.Random(f"batches {seed}")
    return Plan(
        seed,
        shard_count,
        batch_entries_max,
        ingest_entries_max,
        tuple(actions),
        mixture,
        commands_min,
        own_work_us,
        batching.choice(_BATCH_COMMANDS),
        core,
    )


def slot_count(shard_count: int) -> int:
    """Return how many processes can be upgraded: workers, ingests, gateways and feeds."""
    return 2 * SLOTS * shard_count + GATEWAYS + SLOTS


def _insert_upgrade(actions: list[Action], shard_count: int, source: random.Random) -> None:
    """Insert how a new release is deployed: process by process, in any order, for a part of the run.

    In some runs processes are taken back; in some an operator switches the shards, after all are upgraded or
    without asking. Then the release before may be started again by mistake, also the moment after.
    """
    slots, size = range(slot_count(shard_count)), len(actions)
    placed: list[tuple[float, Action]] = []

    def place(act: Act, slot: int, since: float, until: float) -> None:
        placed.append((source.uniform(since, until), Action(act, slot, source.getrandbits(88))))

    course = source.choice(_COURSES)
    end = 0.4 if course is _Course.SWITCH else 0.9
    for slot in slots:
        if course is not _Course.UPGRADE or source.random() < 0.8:
            place(Act.UPGRADE, slot, 0.02, end)
    if course is _Course.TAKE_BACK or source.random() < 0.3:
        for slot in slots:
            if source.random() < 0.7:
                place(Act.TAKE_BACK, slot, end / 2, end)
                if course is _Course.SWITCH:
                    place(Act.UPGRADE, slot, end, end)
    if course in (_Course.SWITCH, _Course.SWITCH_WITHOUT_ASKING):
        asks = course is _Course.SWITCH
        for moment in (0.42, 0.5, 0.6, 0.7):
            placed.append((moment, Action(Act.SWITCH, int(asks), 0)))
            if source.random() < 0.3:
                # At once: what orders the switch is in the input, and nobody has followed it yet.
                placed += [(moment, Action(Act.TAKE_BACK, slot, 0)) for slot in slots]
                for slot in slots:
                    place(Act.UPGRADE, slot, moment, moment + 0.2)
        for slot in source.choices(slots, k=source.randrange(4)):
            place(Act.TAKE_BACK, slot, 0.42, 0.8)
            place(Act.UPGRADE, slot, 0.8, 1.0)
    # From the last on, so that the places of the others stay; of those at one place the first drawn comes
    # first.
    placed.sort(key=lambda placed_action: placed_action[0])
    for share, action in reversed(placed):
        actions.insert(round(share * size), action)
