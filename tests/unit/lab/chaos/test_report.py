from pathlib import Path

import pytest

from lab.chaos import report
from lab.chaos.evidence import CatchUp
from lab.chaos.run import Result
from lab.chaos.verdict import Check, Verdict

MARKED = "before\n<!-- {0} -->\nold\n<!-- end of {0} -->\nafter\n"


def result(breaches: int, faults: dict[str, int] | None = None) -> Result:
    return Result(
        operations={},
        operation_retries=0,
        seed=7,
        verdict=Verdict([Check("money", "it adds up", 48, breaches, ["a unit is missing"] * breaches)]),
        orders=1_000,
        attempts=1_010,
        doubled=10,
        unknown=3,
        trades=400,
        seconds=2.0,
        faults=faults or {"kill": 5},
        by_process={"engine-0": 5},
        restarts={"engine-0": 5},
        fenced=0,
        settle_s=1.5,
        behind_ms_max=700,
        catch_ups=[CatchUp(30_000, 3.0), CatchUp(30_000, 10.0)],
        answers={"http 200": 1_010},
        folder="/nowhere",
    )


def test_a_result_replaces_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "reliability.md"
    document.write_text(MARKED.format("chaos"), "utf-8")
    monkeypatch.setattr(report, "DOCUMENT", document)
    report.write(result(0), "exchange chaos --seed 7")
    text = document.read_text("utf-8")
    assert text.startswith("before\n<!-- chaos -->\nMeasured ")
    assert text.endswith("<!-- end of chaos -->\nafter\n")
    assert "old" not in text
    assert "`exchange chaos --seed 7`. Verdict: clean." in text
    assert "| it adds up | 48 | 0 |" in text
    assert "30 s of events in 3.0 s (10 ×); 30 s of events in 10.0 s (3 ×); target 5 × MISSED" in text
    report.write(result(1), "exchange chaos")
    assert "Verdict: **not clean**." in document.read_text("utf-8")


def test_outages_of_the_database_alone_have_a_place_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "reliability.md"
    document.write_text(MARKED.format("chaos") + MARKED.format("database outage"), "utf-8")
    monkeypatch.setattr(report, "DOCUMENT", document)
    report.write(result(0, {"database stop": 1, "database pause": 1}), "exchange chaos --db-outages 2")
    text = document.read_text("utf-8")
    assert text.startswith(MARKED.format("chaos") + "before\n<!-- database outage -->\nMeasured ")
    report.write(result(0, {"database stop": 1, "kill": 1}), "exchange chaos")
    assert "<!-- chaos -->\nMeasured " in document.read_text("utf-8")
