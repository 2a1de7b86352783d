"""Replay is exact: stopping and starting changes nothing, and the same input gives the same bytes anywhere."""

import hashlib
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode_frame
from protocol.commands import Command
from tests.oracle.driver import Engine
from tests.properties.markets import market_map
from tests.properties.profile import fewer_sequences
from tests.properties.sequences import LENGTH_MAX, commands_of, endowment, seeds, sweeps


@pytest.mark.parametrize("shard_count", [1, 3])
@given(seed=seeds, restarts=st.sets(st.integers(0, LENGTH_MAX), min_size=1, max_size=4))
@fewer_sequences
def test_snapshot_then_replay_equals_never_stopping(shard_count: int, seed: list[bytes], restarts: set[int]) -> None:
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
        commands: list[Command] = commands_of([sequences.randbytes(8) for _ in range(LENGTH_MAX)])
        for time, command in enumerate([*endowment(), *commands]):
            produced = engine.apply(command, time)
            hashed.update(encode_frame(produced.events))
            hashed.update(encode_frame([reply for _, reply in produced.replies]))
        hashed.update("".join(engine.state_hashes()).encode())
    return hashed.hexdigest()
