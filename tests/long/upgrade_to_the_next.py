"""A planted next release, with a new kind of event, a new field and another rule, takes over a whole exchange
under load, is taken back before the switch, takes over again, and is switched on.

Run by `make test-long`. Load and verdict are those of `exchange chaos`. All processes start from one
environment; a folder on PYTHONPATH says of which release they are. `exchange restart`, `exchange formats` and
`exchange replay` are those of the release that is there then.
"""

import asyncio
import itertools
import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.local.own_exchange import OwnExchangeError
from cli.local.processes import engines, gateways, readers
from engine_worker.replay import Replay, Verdict, Verifier
from engine_worker.worker import Worker
from lab.chaos.rolling import Rolling, Step
from lab.chaos.run import Result, run
from lab.chaos.scenarios import rolling as rolling_scenario
from protocol import streams
from protocol.release import Release, this_release
from protocol.stream_id import STREAM_START, StreamId
from runtime.settings import Settings
from stream_log.memory_log import MemoryStreamLog
from tests.long.upgrading import Observer, ReleaseFolder, ShardLog, Teller, broken, pairs_text, say, tell
from tests.support.next_release import NEXT, next_release

SHARDS = 3
ORDERS = 4_000
SETTINGS = {"snapshot_interval_s": "3600"}
"""Only workers that start with nothing, or stop, save their state: what Redis keeps of a log goes back a
while."""
RATE = 60.0
DEPOSIT_SHARE = 0.02
MIXED_S = 30.0
"""How long may pass until two releases were seen beside each other in every shard."""
NEW_EVENTS_S = 90.0
"""How long may pass until every shard has taken a deposit."""


class Upgrade:
    """The steps, and what was seen meanwhile."""

    def __init__(self, folder: ReleaseFolder, teller: Teller) -> None:
        self._folder = folder
        self._teller = teller
        self.observer: Observer | None = None
        self.replays: list[list[dict[str, Any]]] = []
        """Of each replay, a report per shard."""

    def steps(self) -> tuple[Step, ...]:
        return (self._forward, self._back, self._forward, self._switch)

    async def _forward(self, rolling: Rolling) -> None:
        self._observe(rolling)
        self._folder.become_next()
        await self._restart(rolling, "the next release", NEXT)
        await self._replay(rolling)

    async def _back(self, rolling: Rolling) -> None:
        self._folder.become_this()
        await self._restart(rolling, "this release", this_numbers())
        await self._replay(rolling)

    async def _switch(self, rolling: Rolling) -> None:
        assert self.observer is not None
        self._teller.say("switching")
        await rolling.command("formats", "switch", "--yes")
        deadline = time.monotonic() + NEW_EVENTS_S
        while not all(log.new_after for log in self.observer.logs.values()):
            assert time.monotonic() < deadline, "no deposit on some shard"
            assert self.observer.failure is None
            await asyncio.sleep(0.2)
        self._teller.say("what is new was written on every shard")
        await self._replay(rolling)

    async def _replay(self, rolling: Rolling) -> None:
        """Replay all shards, by the release that is there now, from where Redis still has their logs."""
        self.replays.append(json.loads(await rolling.command("replay", "--verify", "--json")))

    def _observe(self, rolling: Rolling) -> None:
        if self.observer is None:
            self.observer = rolling.opened.enter_context(Observer(rolling.exchange.settings, NEXT))

    async def _restart(self, rolling: Rolling, name: str, wanted: Release) -> None:
        """Restart one engine worker of each shard, and then everything, as `exchange restart` does without
        names."""
        assert self.observer is not None
        settings, began = rolling.exchange.settings, len(self.observer.sights)
        self._teller.say(f"restarting a part of the engine workers with {name}")
        await rolling.restart([spec.name for spec in engines(settings) if "standby" in spec.name])
        deadline = time.monotonic() + MIXED_S
        while not all(_is_mixed(self.observer, shard, began) for shard in range(settings.shard_count)):
            assert time.monotonic() < deadline, "the releases were not seen beside each other"
            await asyncio.sleep(0.2)
        self._teller.say(f"restarting everything with {name}")
        await rolling.restart()
        said = json.loads(await rolling.command("formats", "--json"))
        expected = {spec.name for spec in (*gateways(settings), *engines(settings), *readers(settings))}
        announced = {
            process: Release(**reads) for process, reads in said["processes"].items() if reads is not None
        }
        assert {
            process: release for process, release in announced.items() if "@" not in process
        } == dict.fromkeys(expected, wanted)
        shards = [Release(**numbers) for numbers in said["shards"].values()]
        assert shards == [this_numbers()] * settings.shard_count, "nothing is switched yet"


def _is_mixed(observer: Observer, shard: int, began: int) -> bool:
    """Return whether leader and standby of a shard were of two releases at a moment since `began`."""
    pairs = (sight.pair(shard) for sight in observer.sights[began:])
    return any(pair is not None and pair[0] != pair[1] for pair in pairs)


def this_numbers() -> Release:
    """Return the numbers of this release; `this_release` says those of the next one while that is planted."""
    return _THIS


_THIS = this_release()


def upgrade(
    folder: ReleaseFolder, steps: tuple[Step, ...], teller: Teller, *, shards: int = SHARDS
) -> Result:
    """Run an exchange, and the steps while it trades.

    The load and the verdict read what the next release writes.
    """
    scenario = rolling_scenario(1, orders=ORDERS, rate=RATE, shards=shards)
    with next_release():
        return run(
            msgspec.structs.replace(scenario, steps=steps, settings=SETTINGS, deposit_share=DEPOSIT_SHARE),
            teller,
            keep=False,
        )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReleaseFolder:
    made = ReleaseFolder(tmp_path / "release")
    monkeypatch.setenv("PYTHONPATH", str(made.path))
    return made


def test_forwards_and_back_and_forwards_and_switched_under_load(folder: ReleaseFolder) -> None:
    teller = Teller()
    planned = Upgrade(folder, teller)
    result = upgrade(folder, planned.steps(), teller)
    tell(result)
    observer = planned.observer
    assert observer is not None
    assert observer.failure is None
    for shard in observer.logs:
        say(f"shard {shard}: {pairs_text(observer.pairs(shard))}")
    assert broken(result) == {}
    assert not any(result.restarts.values()), "a process died"

    # Both releases ran beside each other, in both directions, in every shard.
    this, new = this_numbers(), NEXT
    for shard, log in observer.logs.items():
        assert {(this, new), (new, this), (new, new)} <= set(observer.pairs(shard))
        # Nothing of the new release stands in the log before the switch, and something does after it.
        assert log.switched is not None
        assert log.new_before == []
        assert log.new_after > 0
        assert log.formats == {this.format, new.format}

    # Each release replayed what Redis had kept then.
    assert len(planned.replays) == 4
    for each in (each for reports in planned.replays for each in reports):
        assert each["same"], each["verdict"]["difference"]
    # The newest replays everything, over each border.
    for shard, log in observer.logs.items():
        verdict = replayed(log, shard)
        say(f"replay of shard {shard}: the first {verdict.commands:,} commands, {verdict.events:,} events")
        assert verdict.difference is None
        assert log.switched is not None
        assert log.switched < StreamId.parse(verdict.end)


def replayed(log: ShardLog, shard: int) -> Verdict:
    """Replay a whole log from its beginning with the next release."""
    with next_release():
        verifier = Verifier(log, Replay(log, shard, SHARDS), log.outputs[-1].stream_id)
        deque(verifier.run(), maxlen=0)
        return verifier.verdict()


def test_control_a_replay_notices_one_event_that_is_missing() -> None:
    """The log of a shard as the observer keeps it, without one of its events."""
    log = ShardLog()
    memory = MemoryStreamLog(itertools.count(1_767_225_600_000).__next__)
    worker = Worker(memory, 0, Settings(shard_count=SHARDS).market_map(), batch_entries_max=1)
    worker.start()
    for second in range(3):
        worker.tick((1_767_225_700 + second) * 1_000_000)
        while worker.step(block_ms=0):
            pass
    log.inputs = memory.read({streams.commands(0): STREAM_START}, 1_000, block_ms=0)
    log.outputs = memory.read({streams.events(0): STREAM_START}, 1_000, block_ms=0)
    assert replayed(log, 0).difference is None
    del log.outputs[0]
    assert replayed(log, 0).difference is not None


@pytest.mark.parametrize(
    ("careless_with", "reason"),
    [
        ("kind", "DepositsCounted was produced before the shard was switched to it"),
        ("field", "LaterDeposit.note is not written before the switch"),
    ],
)
def test_control_a_release_that_writes_what_is_new_too_early_stops(
    folder: ReleaseFolder, careless_with: str, reason: str
) -> None:
    """A worker of it stops before anything is published, so no process reads what it does not know."""
    logs: list[str] = []

    async def forward(rolling: Rolling) -> None:
        folder.become_next(careless_with)
        settings = rolling.exchange.settings
        try:
            await rolling.restart([spec.name for spec in engines(settings)])
            deadline = time.monotonic() + NEW_EVENTS_S
            while not _stopped(settings.data_dir):
                assert time.monotonic() < deadline, "no engine worker has stopped"
                await asyncio.sleep(0.2)
        finally:
            logs.append(_stopped(settings.data_dir))
        raise OwnExchangeError("the engine workers run, and stop at the first deposit")

    with pytest.raises(OwnExchangeError):
        upgrade(folder, (forward,), Teller(), shards=1)
    assert reason in logs[0]


def _stopped(data_dir: Path) -> str:
    """Return what engine workers said at their end that were stopped by a broken promise."""
    lines = [
        line
        for log in (data_dir / "logs").glob("engine-*.log")
        for line in log.read_text("utf-8").splitlines()
    ]
    return "\n".join(line for line in lines if "before the s" in line)
