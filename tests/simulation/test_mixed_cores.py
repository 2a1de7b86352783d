"""Workers of one shard that run different cores, and change them when they start again."""

from collections import Counter
from typing import Any

import pytest

from engine_worker.cores import COMPILED, CORES, why_not_compiled
from lab.simulation import engine
from lab.simulation.run import run
from lab.simulation.schedule import MIXED, plan_of

pytestmark = pytest.mark.skipif(
    COMPILED not in CORES, reason=f"THE COMPILED CORE IS NOT TESTED, it is not built: {why_not_compiled}"
)

SEEDS = range(12)


def test_whatever_core_a_worker_starts_with_nothing_else_happens() -> None:
    injected: Counter[str] = Counter()
    for seed in SEEDS:
        mixed = run(plan_of(seed, length=300, core=MIXED))
        assert not mixed.failure, seed
        injected += mixed.injected
    assert 20 < injected["start (compiled core)"] < injected["start (engine)"]


def test_a_seed_on_the_compiled_core_alone() -> None:
    for seed in SEEDS[:4]:
        outcome = run(plan_of(seed, length=300, has_two_versions=False, core=COMPILED))
        assert not outcome.failure, seed
        # Some are interrupted before they have joined.
        assert outcome.injected["start (compiled core)"] >= outcome.injected["start (engine)"] > 0


def test_a_frame_that_the_compiled_core_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    applied, count = engine._CompiledCore.apply_frame, 0

    def forgetful(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        return [] if count % 40 == 0 else applied(self, *arguments)

    monkeypatch.setattr(engine._CompiledCore, "apply_frame", forgetful)
    failures = [run(plan_of(seed, length=300, core=MIXED)).failure for seed in SEEDS]
    assert any(failures)
