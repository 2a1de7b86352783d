"""The dashboards and the alerts: they are what the code makes, each alert fires when it should, and each
leads to its runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.monitoring.grafana import DASHBOARDS, FOLDER, made
from tests.support.alert_rules import ALERTS, DOCS, rules, yaml

RULE_TESTS = FOLDER / "alerts_test.yaml"
NO_PROMTOOL = "promtool is missing: install Debian's package `prometheus`"


NAMES = [rule["alert"] for rule in rules()]


def test_what_is_committed_is_what_the_code_makes() -> None:
    written = made()
    for path, text in written.items():
        assert path.read_text("utf-8") == text, (
            f"{path.name} is old: run `python deploy/monitoring/grafana.py`"
        )
    assert {path.name for path in (FOLDER / "dashboards").iterdir()} == {
        f"{name}.json" for name in DASHBOARDS
    }


def test_the_operator_gets_the_same_alerts() -> None:
    rule = yaml((FOLDER / "prometheus-rule.yaml").read_text())
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == yaml(ALERTS.read_text())


def test_every_dashboard_is_a_config_map_that_grafana_finds() -> None:
    kustomization = yaml((FOLDER / "kustomization.yaml").read_text())
    files = [file for each in kustomization["configMapGenerator"] for file in each["files"]]
    assert files == [f"dashboards/{name}.json" for name in DASHBOARDS]
    assert kustomization["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}
    assert kustomization["resources"] == ["prometheus-rule.yaml"]


def test_panels_have_places_of_their_own() -> None:
    for name in DASHBOARDS:
        dashboard = msgspec.json.decode((FOLDER / "dashboards" / f"{name}.json").read_bytes())
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in dashboard["panels"])
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells)), name
        assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("rule", rules(), ids=NAMES)
def test_an_alert_says_what_it_means_and_where_its_runbook_is(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    file, _, anchor = annotations["runbook_url"].partition("#")
    assert anchor in headings(DOCS / file)


def headings(path: Path) -> set[str]:
    """Return the anchors of a Markdown file's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def promtool(folder: Path, alerts: str, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Run tests on alerts, each on the alert that it is about: all of them on all alerts take seconds."""
    files = []
    for group in yaml(alerts)["groups"]:
        for rule in group["rules"]:
            name = rule["alert"]
            group_of_one = {"groups": [group | {"rules": [rule]}]}
            (folder / f"{name}.yaml").write_bytes(msgspec.json.encode(group_of_one))  # which is YAML, too
            of_alert = {
                "rule_files": [f"{name}.yaml"],
                "tests": [test for test in tests if test["name"].split()[0] == name],
            }
            test_file = folder / f"{name}_test.yaml"
            test_file.write_bytes(msgspec.json.encode(yaml(RULE_TESTS.read_text()) | of_alert))
            files.append(test_file.name)
    return subprocess.run(
        ["promtool", "test", "rules", *files], cwd=folder, capture_output=True, text=True, check=False
    )


def rule_tests(ending: str = "") -> list[dict[str, Any]]:
    return [test for test in yaml(RULE_TESTS.read_text())["tests"] if test["name"].endswith(ending)]


def test_each_alert_has_a_test_that_it_fires_and_one_that_it_is_quiet() -> None:
    assert [test["name"] for test in rule_tests()] == [
        f"{name} {what}" for name in NAMES for what in ("fires", "is quiet")
    ]


@pytest.mark.skipif(shutil.which("promtool") is None, reason=NO_PROMTOOL)
def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    result = promtool(tmp_path, ALERTS.read_text(), rule_tests())
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason=NO_PROMTOOL)
@pytest.mark.parametrize(("broken", "what"), [("vector(0) > 1", "fires"), ("vector(1)", "is quiet")])
def test_an_alert_that_never_fires_or_always_does_fails_its_test(
    tmp_path: Path, broken: str, what: str
) -> None:
    alerts = re.sub(r"expr: '.+'", f"expr: '{broken}'", ALERTS.read_text())
    result = promtool(tmp_path, alerts, rule_tests(what))
    failed = set(re.findall(r'alertname=\\"(\w+)\\"', result.stdout + result.stderr))
    assert failed == set(NAMES)
