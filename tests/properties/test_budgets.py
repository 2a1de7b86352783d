"""No stage costs an order more calls than its budget, on this version of Python."""

import sys
from typing import Any, Final

import pytest

from engine_worker.core.account_half import AccountHalf
from lab.benchmarks.counts import Counts, counts, read_budgets

TOLERANCE: Final = 0.01
GAIN: Final = 0.03
"""What has become cheaper by more than this gets a smaller budget, so that the gain is kept."""


def differences(counted: dict[str, Counts], budgets: dict[str, Counts]) -> dict[str, str]:
    """Return what is not as its budget says."""
    different = {}
    for stage, counts_now in counted.items():
        for name in Counts.__struct_fields__:
            now, budget = getattr(counts_now, name), getattr(budgets[stage], name)
            if not (1 - GAIN) * budget <= now <= (1 + TOLERANCE) * budget:
                different[f"{stage}, {name}"] = f"{now} instead of {budget}"
    return different


@pytest.fixture(scope="module")
def budgets() -> dict[str, Counts]:
    recorded = read_budgets()
    if not recorded:
        pytest.skip(f"no budgets are recorded for Python {sys.version_info.major}.{sys.version_info.minor}")
    return recorded


def test_every_stage_keeps_its_budget(budgets: dict[str, Counts]) -> None:
    """If more is worth it, `python -m lab.benchmarks.counts` records it, and a decision says why."""
    assert differences(counts(), budgets) == {}


def test_one_more_call_for_each_fill_is_noticed(
    budgets: dict[str, Counts], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = AccountHalf._settle

    def settle_by_a_detour(*arguments: Any, **named: Any) -> Any:
        return settle(*arguments, **named)

    monkeypatch.setattr(AccountHalf, "_settle", settle_by_a_detour)
    different = differences(counts(), budgets)
    assert different
    assert all(name.startswith("shard") and name.endswith(", calls") for name in different)
