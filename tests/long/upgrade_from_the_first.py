"""An exchange of version e069486, from before configuration was in the log, is stopped under load, and this
version goes on with its data.

Run by `make test-long`. The old version is a checkout of its own from this repository's history, with an
environment that its own `scripts/setup` makes; TEST_OLD_RELEASE names one that is there already. Load and
verdict are those of `exchange chaos`: clients send again what was refused, and ask what became of orders
without an answer; every answer of either version is held against the end.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import psutil
import pytest

from cli.local import own_exchange as own_exchange_module
from cli.local.own_exchange import OwnExchangeError, own_exchange
from cli.local.state_file import ProcessStatus
from lab.chaos.rolling import Rolling, Step
from lab.chaos.run import Result, run
from lab.chaos.scenarios import rolling as rolling_scenario
from protocol.stream_id import STREAM_START, StreamId
from tests.long.upgrading import Teller, broken, say, tell

VERSION = "e069486"
REPOSITORY = Path(__file__).parents[2]
SETUP_TIMEOUT_S = 900
ORDERS = 3_000
RATE = 60.0
OLD_S = 40.0
"""How long the old version trades: longer than the 30 s after which it saves its state without being stopped.
"""
STALL_S = 240.0
_START_AGAIN = "start that release again and stop all engine workers of the earlier release"

pytestmark = pytest.mark.timeout(600 + SETUP_TIMEOUT_S)


@pytest.fixture(scope="session")
def old_program(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Return how to run the old version's `exchange`."""
    named = os.environ.get("TEST_OLD_RELEASE")
    folder = Path(named) if named else tmp_path_factory.mktemp("old") / "exchange"
    if not named:
        folder.mkdir()
        archive = subprocess.run(
            ["git", "archive", VERSION], cwd=REPOSITORY, capture_output=True, check=False
        )
        assert archive.returncode == 0, (
            f"the history does not go back to {VERSION}: {archive.stderr.decode()}"
        )
        subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
        subprocess.run(["scripts/setup", "runtime"], cwd=folder, check=True, timeout=SETUP_TIMEOUT_S)
    return (str(folder / ".venv" / "bin" / "python"), "-P", "-m", "cli.main")


class Crossing:
    """The steps of the upgrade, and what was said."""

    def __init__(self, old_program: Sequence[str], teller: Teller, *, is_killed_first: bool) -> None:
        self._old = tuple(old_program)
        self._teller = teller
        self._is_killed_first = is_killed_first
        self.dry_run: list[dict[str, Any]] = []
        self.replays: list[list[dict[str, Any]]] = []
        self.audit: Any = None
        self.formats: dict[str, Any] = {}
        self.refusals: list[str] = []
        """What the new program said of a log that it cannot go on with."""
        self.stopped_s = 0.0
        """From the old version's end to the new one's begin, both as whole exchanges."""

    def steps(self) -> tuple[Step, ...]:
        return (*((self._kill,) if self._is_killed_first else ()), self._cross, self._check)

    async def _kill(self, rolling: Rolling) -> None:
        """Let all engine workers of the old version end without a snapshot.

        Start the new version in vain, and the old one again.
        """
        self._teller.say(f"killing the engine workers of {VERSION}, and then the rest")
        await asyncio.sleep(OLD_S / 4)
        await asyncio.to_thread(_kill_everything, rolling)
        self._teller.say("starting this version, which must refuse")
        self.refusals.append(await asyncio.to_thread(_refusal, rolling.exchange.environment))
        try:
            await rolling.command("convert")
        except OwnExchangeError as error:
            self.refusals.append(str(error))
        self._teller.say(f"starting {VERSION} again")
        again = own_exchange(rolling.exchange.environment, (*self._old, "up"))
        await asyncio.to_thread(rolling.opened.enter_context, again)

    async def _cross(self, rolling: Rolling) -> None:
        """Do what docs/how-to/upgrade.md says: stop, look, start."""
        await asyncio.sleep(OLD_S)
        self._teller.say(f"stopping {VERSION}")
        began = time.monotonic()
        await rolling.command("down")
        self._teller.say("looking at what it has left")
        try:
            found = await rolling.command("convert", "--dry-run", "--json")
        except OwnExchangeError as error:
            if _START_AGAIN not in _unwrapped(str(error)):
                raise
            found = await self._without_standbys(rolling)
        self.dry_run = json.loads(found)
        self._teller.say("starting this version")
        exchange = own_exchange(rolling.exchange.environment)
        await asyncio.to_thread(rolling.opened.enter_context, exchange)
        self.stopped_s = time.monotonic() - began
        self._teller.say(f"this version runs; everything stood still for {self.stopped_s:.1f} s")

    async def _without_standbys(self, rolling: Rolling) -> str:
        """Start and stop the old version without standbys, which leaves a snapshot for certain.

        Return what a dry run says of that.

        A leader of it leaves its last snapshot to a standby, which may be told to stop before it has taken
        over.
        """
        self._teller.say(
            f"nobody has saved the last state; starting {VERSION} without standbys, and stopping it"
        )
        environment = {**rolling.exchange.environment, "EXCHANGE_STANDBYS": "0"}
        await asyncio.to_thread(rolling.opened.enter_context, own_exchange(environment, (*self._old, "up")))
        await rolling.command("down")
        return await rolling.command("convert", "--dry-run", "--json")

    async def _check(self, rolling: Rolling) -> None:
        await asyncio.sleep(OLD_S / 4)
        self.formats = json.loads(await rolling.command("formats", "--json"))
        self.replays.append(json.loads(await rolling.command("replay", "--verify", "--json")))
        self.audit = json.loads(await rolling.command("audit", "--json"))


def _kill_everything(rolling: Rolling) -> None:
    """Kill the engine workers while nobody can start them anew, then the supervisor.

    `exchange up` ends what that leaves behind.
    """
    processes = rolling.exchange.processes()
    assert all(each.state is ProcessStatus.RUNNING for each in processes)
    supervisor = psutil.Process(processes[0].pid).parent()
    assert supervisor is not None
    supervisor.suspend()
    for each in processes:
        if each.name.startswith("engine"):
            os.kill(each.pid, signal.SIGKILL)
    supervisor.kill()
    while rolling.exchange.processes():
        time.sleep(0.1)


def _refusal(environment: Mapping[str, str]) -> str:
    """Return why this version does not start."""
    try:
        with own_exchange(environment):
            raise AssertionError("it has started")
    except OwnExchangeError as error:
        return str(error)


def cross(
    old_program: Sequence[str], *, shards: int, standbys: int, is_killed_first: bool = False
) -> tuple[Crossing, Result]:
    teller = Teller()
    crossing = Crossing(old_program, teller, is_killed_first=is_killed_first)
    scenario = msgspec.structs.replace(
        rolling_scenario(1, orders=ORDERS, rate=RATE, shards=shards, standbys=standbys),
        steps=crossing.steps(),
        stops=True,
        up=(*old_program, "up"),
        gateways=1,
        ws_edges=1,
        persist_workers=1,
        # The old version does not know idempotency keys.
        keyed_share_max=0.0,
        double_share=0.0,
        stall_s=STALL_S,
    )
    # The old version does not know the second Redis: this one runs it on its usual port.
    ports = {name: of for name, of in own_exchange_module._PORTS.items() if name != "cache_port"}
    with patch.object(own_exchange_module, "_PORTS", ports):
        result = run(scenario, teller, keep=False)
    tell(result)
    say(f"formats: {crossing.formats}")
    say(f"audit: {crossing.audit}")
    return crossing, result


def check(crossing: Crossing, result: Result, shards: int) -> None:
    assert broken(result) == {}
    # The old version left a snapshot of format 2 exactly at its position, which nothing had to be decided
    # for.
    assert [each["reason"] for each in crossing.dry_run] == [""] * shards
    assert all(each["snapshots"][0] == 2 and not each["isPresent"] for each in crossing.dry_run)
    assert all(set(each["events"]) == {"1"} for each in crossing.dry_run)
    for each in crossing.replays[0]:
        _check_replay(each)
    assert len(crossing.replays[0]) == shards


def _unwrapped(text: str) -> str:
    """Return a message without the box and the line ends that a terminal has given it."""
    return " ".join(text.replace("│", " ").split())


def _check_replay(found: Mapping[str, Any]) -> None:
    verdict = found["verdict"]
    say(
        f"replay: shard {verdict['shard']}: {verdict['start']} to {verdict['end']}, {verdict['commands']:,} "
        "commands"
    )
    assert found["same"], verdict["difference"]
    assert StreamId.parse(verdict["start"]) > STREAM_START, (
        "it begins with what this version made of the old snapshot"
    )
    assert verdict["commands"]


@pytest.mark.parametrize(("shards", "standbys"), [(1, 1), (3, 0)])
def test_the_old_version_is_stopped_and_this_one_goes_on_under_load(
    old_program: tuple[str, ...], shards: int, standbys: int
) -> None:
    crossing, result = cross(old_program, shards=shards, standbys=standbys)
    check(crossing, result, shards)


def test_after_a_kill_this_version_refuses_until_the_old_one_has_stopped(
    old_program: tuple[str, ...],
) -> None:
    crossing, result = cross(old_program, shards=1, standbys=0, is_killed_first=True)
    refused, not_converted = crossing.refusals
    for said in (_unwrapped(refused), _unwrapped(not_converted)):
        say(said)
        assert _START_AGAIN in said
    check(crossing, result, 1)
