"""Every line of the table in start-redis.sh, with a `valkey-cli` whose answers the test writes down."""

import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.deploy.rendered import ROOT

SCRIPTS: Final = ROOT / "k8s" / "components" / "redis-sentinel"
SELF: Final = "redis-0"
PEER: Final = "redis-1"
SENTINELS: Final = ("sentinel-0", "sentinel-1", "sentinel-2")
PATIENCE_S: Final = 1
WAITS: Final = "waits"
SOON_S: Final = 1.5
"""So long is one watched that should wait, and LATE_S one that should start: a machine may be busy."""
LATE_S: Final = 20.0
CLI: Final = """#!/bin/sh
# Prints the file HOST-COMMAND; fails when there is none, as when the host does not answer.
while [ $# -gt 0 ]; do
    case $1 in
    -h) host=$2; shift 2 ;;
    -p | --user | --pass) shift 2 ;;
    --*) shift ;;
    *) break ;;
    esac
done
cat "$ANSWERS/$host-$1"
"""
SERVER: Final = """#!/bin/sh
cat "$1"
"""


class State(NamedTuple):
    """What a starting Redis finds."""

    masters: tuple[str, ...] = (SELF, SELF, SELF)
    """Of the sentinels: the master by each, with its flags after a colon and its epoch after an @; empty: it
    does not answer."""
    has_data: bool = True
    peer_role: str = ""
    """Empty: the peer does not answer."""
    peer_keys: str = ""


def answers(state: State) -> Mapping[str, str]:
    """Return what each host answers to each command."""
    found = {}
    for sentinel, text in zip(SENTINELS, state.masters, strict=False):
        master, _, epoch = text.partition("@")
        master, _, flags = master.partition(":")
        if master:
            fields = {"name": "exchange", "ip": master, "flags": f"master{flags and ','}{flags}"}
            fields["config-epoch"] = epoch or "0"
            found[f"{sentinel}-sentinel"] = "".join(f"{key}\n{value}\n" for key, value in fields.items())
    if state.peer_role:
        found[f"{PEER}-role"] = f"{state.peer_role}\n0\n"
    if state.peer_keys:
        found[f"{PEER}-dbsize"] = f"{state.peer_keys}\n"
    return found


class Pod:
    """A Redis pod whose peers are files."""

    def __init__(self, folder: Path, script: str) -> None:
        self._folder = folder
        for name in ("answers", "data", "run", "secrets", "programs"):
            (folder / name).mkdir()
        for name in ("replica-password", "sentinel-password"):
            (folder / "secrets" / name).write_text(name, "ascii")
        for name, text in (("valkey-cli", CLI), ("valkey-server", SERVER)):
            program = folder / "programs" / name
            program.write_text(text, "ascii")
            program.chmod(0o755)
        (folder / "start-redis.sh").write_text(script, "utf-8")

    def become(self, state: State) -> None:
        """Let the others answer as `state` says."""
        wanted = answers(state)
        for file in (self._folder / "answers").iterdir():
            if file.name not in wanted:
                file.unlink()
        for name, text in wanted.items():
            (self._folder / "answers" / name).write_text(text, "utf-8")

    def start(self, state: State, patience_s: int = 3600, timeout_s: float = LATE_S) -> str:
        """Return the address that it is a replica of, `SELF` when it is the master, or `WAITS`."""
        self.become(state)
        if state.has_data:
            (self._folder / "data" / "appendonlydir").mkdir(exist_ok=True)
        process = self._process(patience_s)
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return WAITS
        assert process.returncode == 0, said
        return next((line.split()[1] for line in said.splitlines() if line.startswith("replicaof ")), SELF)

    def run(self) -> str:
        """Start it, and return its output."""
        said, _ = self._process().communicate(timeout=10)
        return said

    def _process(self, patience_s: int = 0) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{self._folder / 'programs'}:{os.environ['PATH']}",
            "ANSWERS": str(self._folder / "answers"),
            "SELF": SELF,
            "NODES": f"{SELF} {PEER}",
            "SENTINELS": " ".join(SENTINELS),
            "SECRETS": str(self._folder / "secrets"),
            "CONFIGURATION": str(SCRIPTS),
            "DATA": str(self._folder / "data"),
            "RUN": str(self._folder / "run"),
            "PATIENCE_S": str(patience_s),
            "PERIOD_S": "0.1",
            "WATCH_S": "0",
        }
        command = ["sh", str(self._folder / "start-redis.sh")]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def script() -> str:
    return (SCRIPTS / "start-redis.sh").read_text("utf-8")


FAILOVER: Final = (f"{SELF}:s_down,o_down,failover_in_progress",) * 3

TABLE: Final = [
    # the peer was promoted
    (State(peer_role="master", peer_keys="7"), WAITS),
    (State(masters=FAILOVER, peer_role="master", peer_keys="7"), WAITS),
    (State(masters=(), peer_role="master", peer_keys="7"), WAITS),
    (State(has_data=False, peer_role="master", peer_keys="7"), WAITS),
    (State(peer_role="master", peer_keys="LOADING Valkey is loading the dataset in memory"), WAITS),
    (State(masters=(PEER,) * 3, has_data=False, peer_role="master", peer_keys="7"), PEER),
    # the sentinels name the peer
    (State(masters=(PEER,) * 3, peer_role="slave", peer_keys="7"), PEER),
    (State(masters=(PEER,) * 3), PEER),
    (State(masters=(PEER,) * 3, has_data=False), PEER),
    # of sentinels that differ, the one that has seen the latest failover
    (State(masters=(SELF, SELF, f"{PEER}@3"), peer_role="slave", peer_keys="7"), PEER),
    (State(masters=(f"{SELF}@12", f"{PEER}@9", ""), peer_role="slave", peer_keys="7"), SELF),
    # the master, with its data
    (State(peer_role="slave", peer_keys="7"), SELF),
    (State(masters=(f"{SELF}:s_down", SELF, ""), peer_role="slave", peer_keys="7"), SELF),
    (State(masters=FAILOVER, peer_role="slave", peer_keys="7"), WAITS),
    (State(peer_role="master", peer_keys="0"), SELF),
    (State(), WAITS),
    # the master, without its data
    (State(has_data=False, peer_role="slave", peer_keys="0"), SELF),
    (State(has_data=False, peer_role="slave", peer_keys="7"), WAITS),
    (State(has_data=False), WAITS),
    # nobody says who is the master
    (State(masters=()), WAITS),
    (State(masters=(), peer_role="slave", peer_keys="7"), WAITS),
    (State(masters=(), has_data=False, peer_role="slave", peer_keys="0"), WAITS),
]


@pytest.mark.parametrize(("state", "becomes"), TABLE)
def test_a_redis_starts_as_the_table_says(state: State, becomes: str, tmp_path: Path) -> None:
    assert Pod(tmp_path, script()).start(state, timeout_s=SOON_S if becomes == WAITS else LATE_S) == becomes


AFTERWARDS: Final = [
    (State(peer_role="master", peer_keys="7"), PEER),
    (State(masters=(), has_data=False, peer_role="master", peer_keys="7"), PEER),
    (State(masters=FAILOVER, peer_role="slave", peer_keys="7"), SELF),
    (State(), SELF),
    (State(masters=(SELF, "", "")), WAITS),
    (State(has_data=False), WAITS),
    (State(has_data=False, peer_role="slave", peer_keys="7"), WAITS),
    (State(masters=()), WAITS),
]


@pytest.mark.parametrize(("state", "becomes"), AFTERWARDS)
def test_patience_ends_only_where_nothing_can_be_lost(state: State, becomes: str, tmp_path: Path) -> None:
    timeout_s = PATIENCE_S + (SOON_S if becomes == WAITS else LATE_S)
    assert Pod(tmp_path, script()).start(state, PATIENCE_S, timeout_s) == becomes


WITH_REPLICA: Final = "master\n812\nredis-9\n6379\n812\n"
ALONE: Final = "master\n0\n\n"
REPLICA: Final = "slave\nredis-9\n6379\nconnected\n812\n"


@pytest.mark.parametrize(
    ("roles", "master"),
    [
        ({}, SELF),
        ({SELF: ALONE, PEER: ALONE}, SELF),
        ({SELF: WITH_REPLICA, PEER: REPLICA}, SELF),
        ({SELF: REPLICA, PEER: WITH_REPLICA}, PEER),
        ({PEER: WITH_REPLICA}, PEER),
        ({PEER: ALONE}, SELF),
    ],
)
def test_a_sentinel_without_a_disk_finds_the_master(
    roles: Mapping[str, str], master: str, tmp_path: Path
) -> None:
    sentinel = (SCRIPTS / "start-sentinel.sh").read_text("utf-8")
    pod = Pod(tmp_path, sentinel)
    for node, text in roles.items():
        (tmp_path / "answers" / f"{node}-role").write_text(text, "ascii")
    said = pod.run()
    assert f"sentinel monitor exchange {master} 6379 2\n" in said
    for each in (tmp_path / "answers").iterdir():
        each.unlink()
    assert pod.run() == said  # what it knows it keeps


@pytest.mark.parametrize(
    "before", [State(), State(masters=FAILOVER, peer_role="slave", peer_keys="7"), State(())]
)
def test_a_waiting_redis_becomes_the_replica_of_a_peer_that_is_promoted(
    before: State, tmp_path: Path
) -> None:
    pod = Pod(tmp_path, script())
    promoted = threading.Timer(
        0.5, pod.become, [State(masters=(PEER,) * 3, peer_role="master", peer_keys="7")]
    )
    promoted.start()
    assert pod.start(before) == PEER
    promoted.join()


@pytest.mark.parametrize(
    ("line", "instead", "state"),
    [
        # What the script did before: a peer that did not answer was no reason to wait, and so there were two
        # masters.
        (
            '    elif [ "$is_patient" = 1 ]; then\n',
            '    elif [ "$peer_role" = "" ]; then\n        break\n    elif false; then\n',
            State(),
        ),
        (
            "        *failover_in_progress* | *o_down*)\n",
            "        nothing)\n",
            State(FAILOVER, peer_role="slave", peer_keys="7"),
        ),
        ('        [ "$peer_keys" != 0 ] || break\n', "        break\n", State(has_data=False)),
    ],
)
def test_without_a_check_there_would_be_two_masters(
    line: str, instead: str, state: State, tmp_path: Path
) -> None:
    assert line in script()
    assert Pod(tmp_path, script().replace(line, instead)).start(state) == SELF
