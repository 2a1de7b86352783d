"""Replay is exact: stopping and starting changes nothing, and the same input gives the same bytes
anywhere.
"""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_worker.core import journal
from engine_worker.core import snapshot as snapshot_module
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.shard_state import ShardState
from engine_worker.core.snapshot import ShardSnapshot, decode_snapshot, encode_snapshot
from protocol.codec import encode_frame
from protocol.commands import Deposit
from protocol.stream_id import STREAM_START, StreamId
from protocol.units import AccountId, AssetUnits, TimeMs
from tests.oracle.driver import Engine
from tests.properties.markets import market_map
from tests.properties.profile import fewer_sequences
from tests.properties.recorded import (
    HASH_INTERVAL,
    MARKETS,
    SHARDS,
    WINDOWS,
    Recording,
    produced,
    record,
    replayed,
)
from tests.properties.sequences import LENGTH_MAX, commands_of, endowment, seeds, sweeps
from tests.support.pythons import interpreter

STATE_HASHED_TAG = 21


CUTS = int(os.environ.get("TEST_REPLAY_CUTS", "60"))
HASH_SEEDS = int(os.environ.get("TEST_REPLAY_HASH_SEEDS", "3"))
COMMANDS = int(os.environ.get("TEST_REPLAY_COMMANDS", "1500"))
PYTHONS = ("3.11", "3.12", "3.13")


@pytest.fixture
def hashed_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "STATE_HASH_INTERVAL", HASH_INTERVAL)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(COMMANDS)


@pytest.mark.parametrize("shard_count", [1, 3])
@given(seed=seeds, restarts=st.sets(st.integers(0, LENGTH_MAX), min_size=1, max_size=4))
@fewer_sequences
def test_snapshot_then_replay_equals_never_stopping(
    shard_count: int, seed: list[bytes], restarts: set[int]
) -> None:
    unbroken, restarted = Engine(market_map(shard_count)), Engine(market_map(shard_count))
    for number, command in enumerate([*endowment(), *commands_of(seed), *sweeps()]):
        if number - len(endowment()) in restarts:
            restarted.restart()
            assert restarted.state_hashes() == unbroken.state_hashes()
        assert restarted.apply(command, number) == unbroken.apply(command, number)
    assert restarted.state_hashes() == unbroken.state_hashes()


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_same_bytes_under_every_hash_seed(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import digest; print(digest())"],
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == digest()


def digest() -> str:
    """Return a hash of all that the engine says and is in the course of fifty sequences."""
    sequences, hashed = random.Random(7), hashlib.sha256()
    for number in range(50):
        engine = Engine(market_map((1, 3)[number % 2]))
        commands = commands_of([sequences.randbytes(8) for _ in range(LENGTH_MAX)])
        for time, command in enumerate([*endowment(), *commands]):
            produced = engine.apply(command, time)
            hashed.update(encode_frame(produced.events))
            hashed.update(encode_frame([reply for _, reply in produced.replies]))
        hashed.update("".join(engine.state_hashes()).encode())
    return hashed.hexdigest()


@pytest.mark.timeout(3_600)
@pytest.mark.usefixtures("hashed_often")
def test_every_cut_goes_on_as_if_nothing_had_been(recording: Recording) -> None:
    assert cut_and_go_on(recording, CUTS) > CUTS, "there must be state hashes after the cuts"


@pytest.mark.parametrize("what", ["checksum", "command_count", "order_count", "received"])
@pytest.mark.usefixtures("hashed_often")
def test_a_snapshot_that_forgets_something_is_noticed(
    what: str, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = snapshot_module._snapshot_of

    def forgetful(state: ShardState, stream_id: StreamId) -> ShardSnapshot:
        snapshot = whole(state, stream_id)
        return msgspec.structs.replace(snapshot, **{what: type(getattr(snapshot, what))()})

    monkeypatch.setattr(snapshot_module, "_snapshot_of", forgetful)
    with pytest.raises((AssertionError, InvariantBroken)):
        cut_and_go_on(recording, 10)


def cut_and_go_on(recording: Recording, cuts: int) -> int:
    """Restore each shard at random places, and compare all that it then says.

    Return the number of state hashes among that.
    """
    chosen, hashes = random.Random(5), 0
    for index in range(SHARDS):
        entries = recording.entries(index)
        unbroken = Shard(index, MARKETS, WINDOWS)
        expected: list[list[bytes]] = []
        snapshots: list[bytes] = []
        for entry in entries:
            expected.append(produced(unbroken, [entry]))
            snapshots.append(encode_snapshot(unbroken, entry.stream_id))
        for _ in range(-(-cuts // SHARDS)):
            cut = chosen.randrange(len(entries) - 1)
            restored, stream_id = decode_snapshot(snapshots[cut])
            assert stream_id == entries[cut].stream_id
            after = [encoded for each in expected[cut + 1 :] for encoded in each]
            assert produced(restored, entries[cut + 1 :]) == after
            assert encode_snapshot(restored, entries[-1].stream_id) == snapshots[-1]
            hashes += sum(encoded[1] == STATE_HASHED_TAG for encoded in after)
    return hashes


@pytest.mark.parametrize("batch", [2, 7, 10_000])
@pytest.mark.usefixtures("hashed_often")
def test_the_state_hashes_do_not_depend_on_the_batches(batch: int, recording: Recording) -> None:
    for index in range(SHARDS):
        one, other = (Shard(index, MARKETS, WINDOWS) for _ in range(2))
        entries = recording.entries(index)
        hashes = [
            [encoded for encoded in produced(shard, entries, size) if encoded[1] == STATE_HASHED_TAG]
            for shard, size in ((one, 1), (other, batch))
        ]
        assert hashes[0] == hashes[1]
        assert len(hashes[0]) == one.state.command_count // HASH_INTERVAL > 0
        assert encode_snapshot(one, STREAM_START) == encode_snapshot(other, STREAM_START)


@pytest.mark.usefixtures("hashed_often")
def test_a_state_hash_tells_of_one_other_event(recording: Recording) -> None:
    entries = recording.entries(0)
    one, other = (Shard(0, MARKETS, WINDOWS) for _ in range(2))
    other.apply(Deposit(1, "test", AccountId(3), "FIG", AssetUnits(1), "more"), TimeMs(1))
    other.take()
    other.journal.go_on_from(0, other.state.checksum)
    digests = [
        [encoded for encoded in produced(shard, entries) if encoded[1] == STATE_HASHED_TAG]
        for shard in (one, other)
    ]
    assert len(digests[0]) == len(digests[1])
    assert not set(digests[0]) & set(digests[1])


@pytest.mark.timeout(3_600)
@pytest.mark.usefixtures("hashed_often")
def test_same_bytes_in_another_process_under_every_hash_seed(recording: Recording, tmp_path: Path) -> None:
    chosen = random.Random(6)
    expected = replayed(recording)
    for seed in [0, *(chosen.randrange(1, 2**32) for _ in range(HASH_SEEDS - 1))]:
        assert replayed_by(sys.executable, str(seed), recording, tmp_path) == expected


@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.usefixtures("hashed_often")
def test_same_bytes_under_every_python(version: str, recording: Recording, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(
            f"NOT TESTED: no Python {version}, or nothing can be installed for it; name one that has what "
            f"the core imports in TEST_REPLAY_PYTHON_{version.replace('.', '_')}"
        )
    assert replayed_by(python, "random", recording, tmp_path) == replayed(recording)


def replayed_by(python: str, hash_seed: str, recording: Recording, folder: Path) -> str:
    file = folder / "recording"
    file.write_bytes(encode_frame(recording))
    run = subprocess.run(
        [python, "-m", "tests.properties.recorded", str(file)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
        capture_output=True,
        text=True,
    )
    return run.stdout
