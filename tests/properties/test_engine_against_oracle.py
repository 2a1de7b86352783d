"""The engine does what the oracle does, after every command of any sequence, on one shard and on three."""

import pytest
from hypothesis import event, given, note, settings

from engine_worker.cores import COMPILED, CORES, why_not_compiled
from tests.oracle.compiled import CompiledEngine
from tests.properties.profile import many_sequences
from tests.properties.sequences import commands_of, seeds
from tests.properties.twins import compare_throughout


# Takes long: the whole book is compared with the oracle's after each of some ten thousand commands.
@pytest.mark.parametrize("shard_count", [1, 3])
@given(seed=seeds)
@many_sequences
def test_same_after_every_command(shard_count: int, seed: list[bytes]) -> None:
    commands = commands_of(seed)
    for command in commands:
        note(repr(command))
    trade_count = compare_throughout(shard_count, commands)
    event("trades: " + ("none" if not trade_count else "few" if trade_count < 5 else "many"))


@pytest.mark.skipif(
    COMPILED not in CORES, reason=f"THE COMPILED CORE IS NOT TESTED, it is not built: {why_not_compiled}"
)
@pytest.mark.parametrize("shard_count", [1, 3])
@given(seed=seeds)
@settings(many_sequences, max_examples=150)
def test_the_compiled_core_after_every_command(shard_count: int, seed: list[bytes]) -> None:
    commands = commands_of(seed)
    for command in commands:
        note(repr(command))
    compare_throughout(shard_count, commands, CompiledEngine)
