"""A process that can be ended, paused or cut off at every one of its calls to the outside."""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import redis

from lab.simulation.next_release import Program, become
from lab.simulation.schedule import Action, Fault, Trouble, Where
from lab.simulation.shortage import Shortage, raise_refusal

_Answer = TypeVar("_Answer")


class Crashed(BaseException):
    """The process has ended. Not an `Exception`: no program may catch it."""


class Stopped(BaseException):
    """An error in the middle of a step, passing through the program, which must not handle it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Violation(Exception):  # noqa: N818 - a verdict on the system
    """A rule that must always hold is broken."""


class Surroundings:
    """What all processes share: the clock, what happens during a pause, and what was done to whom."""

    def __init__(self, start_ms: int) -> None:
        self.now = start_ms
        self.redis_ahead_ms = 0
        """By how much Redis's clock is wrong."""
        self.program = Program.THIS
        """What does what no process does.

        The next release where some processes are of it, since it reads what both write.
        """
        self.injected: Counter[str] = Counter()
        """What was injected, in words -> how often."""
        self.trace: Callable[[str], None] | None = None
        self.pass_by: Callable[[int], None] = lambda _count: None
        """Skips the given number of actions."""
        self.while_working: Callable[[Process, bool], None] = lambda _standby, _alone: None
        """Gives the other worker of a shard a turn while its leader works.

        Now and then it gives everybody a turn, unless the leader is alone to act.
        """
        self.shortage = Shortage()
        self.disturbances = 0
        """How often something was done to anybody that may cost a shard its leader, or time."""
        self.long_work: Counter[int] = Counter()
        """Shard -> how often its work took so long that other shards, which have the same clock, stood still.
        """

    def disturb(self) -> None:
        """Note that from now on a takeover may have another reason than its shard's own work."""
        self.disturbances += 1

    def disturbances_of(self, shard: int) -> int:
        """Return how often something else than its own work may have cost a shard its leader."""
        return self.disturbances + self.long_work.total() - self.long_work[shard]

    def inject(self, event: str) -> None:
        """Count an injected fault or event, and trace it."""
        self.injected[event] += 1
        self.say(event)

    def say(self, event: str) -> None:
        """Write a line of the trace, if there is one."""
        if self.trace is not None:
            self.trace(event)


class Process:
    """One process. Its calls to the outside go through `call`.

    A step is what it does between two looks of the scheduler.
    """

    kind = "process"

    def __init__(self, surroundings: Surroundings, name: str) -> None:
        self.surroundings = surroundings
        self.name = name
        self.program = Program.THIS
        """What it runs."""
        self.was_asked = False
        """Whether the program that it runs was asked, before a switch, up to what it reads."""
        self._deployed = Program.THIS
        """What it runs when it is started again."""
        self.busy = False
        """In the middle of a step: paused, when somebody else looks."""
        self.is_deaf = False
        self._is_killed = False
        self._fault: Fault | None = None
        self._calls = 0

    def call(self, place: str, operation: Callable[[], _Answer]) -> _Answer:
        """Do one call to the outside; it may never begin, or never come back."""
        fault = self._fault
        if fault is None:
            return operation()
        self._calls += 1
        if self._calls != fault.call or fault.trouble is Trouble.DEAF:
            return operation()
        if fault.where is Where.BEFORE:
            self._strike(fault, place)
            return operation()
        answer = operation()
        self._strike(fault, place)
        return answer

    def write(self, place: str, operation: Callable[[], _Answer], *, is_reserved: bool = True) -> _Answer:
        """Do one write to Redis, which may refuse it; `is_reserved`: not because its memory is full."""
        return self.call(place, lambda: self._written(place, operation, is_reserved))

    def _written(self, place: str, operation: Callable[[], _Answer], is_reserved: bool) -> _Answer:
        surroundings = self.surroundings
        refusal = surroundings.shortage.refusal(surroundings.now, is_reserved=is_reserved)
        if refusal is not None:
            surroundings.inject(f"refused by Redis: {refusal.value}, {place} ({self.kind})")
            surroundings.disturb()
            raise_refusal(refusal)
        return operation()

    def stand_still(self, actions: int) -> None:
        """Let others act in the middle of a step.

        Raises:
            Crashed: the process was ended meanwhile.
        """
        self.let_act(lambda: self.surroundings.pass_by(actions))

    def let_act(self, others: Callable[[], None]) -> None:
        """As `stand_still`, for whatever the others do.

        Raises:
            Crashed: the process was ended meanwhile.
            Stopped: the run ends by an error of one of the others.
        """
        own = become(self.surroundings.program)
        try:
            others()
        except Exception as error:
            raise Stopped(error) from error
        become(own)
        if self._is_killed:
            raise Crashed

    def _strike(self, fault: Fault, place: str) -> None:
        self.surroundings.disturb()
        self.surroundings.inject(f"{fault.trouble.value} {fault.where.value} {place} ({self.kind})")
        match fault.trouble:
            case Trouble.CRASH:
                raise Crashed
            case Trouble.DISCONNECT:
                raise redis.ConnectionError("the connection was lost")
            case Trouble.PAUSE:
                self.stand_still(fault.length)

    def run(self, action: Action) -> None:
        """Make one step, with the action's fault in it."""
        if self.busy:
            return
        self.busy, self._fault, self._calls = True, action.fault, 0
        self.is_deaf = action.fault is not None and action.fault.trouble is Trouble.DEAF
        before = become(self.program)
        try:
            self.step(action)
        except Crashed:
            self._ended()
        except Stopped as stopped:
            raise stopped.error from None
        finally:
            become(before)
            self.busy, self._is_killed, self._fault, self.is_deaf = False, False, None, False

    def kill(self) -> None:
        """End the process now; a paused one does not continue."""
        if self.busy:
            self._is_killed = True
        else:
            self._ended()

    def deploy(self, program: Program) -> None:
        """End the process, and let it run that program when it is started again."""
        self._deployed = program
        self.kill()

    def _ended(self) -> None:
        self.surroundings.say(f"{self.name} has ended")
        if self.program is not self._deployed:
            self.program, self.was_asked = self._deployed, False
        self.end()

    def step(self, action: Action) -> None:
        """Do what the process does in one step, starting it first when it is down."""
        raise NotImplementedError

    def end(self) -> None:
        """Forget everything that only this process knew."""
        raise NotImplementedError
