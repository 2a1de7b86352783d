"""Every metric on a dashboard, in an alert or in the documents is one that the running processes expose, with
these labels."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.monitoring.grafana import DASHBOARDS, dashboard
from tests.support.alert_rules import DOCS, rules
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange

OF_TARGETS = {"instance", "job"}
"""Labels that Prometheus adds."""
OF_LIBRARIES = ("process_", "python_")
KEYWORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "bool", "offset"}
ROW = re.compile(r"^\| `(\w+)(?:\{([\w,]+)\})?` \|", re.MULTILINE)
SUFFIXES = ("_total", "_bucket", "_sum", "_count")

Labels = Mapping[str, set[str] | None]
"""Metric -> its labels; None: nothing has been counted yet, so nobody knows."""


def families(text: str) -> dict[str, set[str] | None]:
    """Return the metrics of an exposition, by the names that queries use."""
    found: dict[str, set[str] | None] = {}
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for name in (family.name + suffix for suffix in suffixes):
            samples = [sample for sample in family.samples if sample.name == name]
            found[name] = set(samples[0].labels) if samples else None
    return found


def metrics_of(urls: Iterable[str]) -> dict[str, set[str] | None]:
    """Return what all processes together expose."""
    found: dict[str, set[str] | None] = {}
    for url in urls:
        with urllib.request.urlopen(url, timeout=10) as response:
            for name, labels in families(response.read().decode()).items():
                found[name] = labels if labels is not None else found.get(name)
    return found


def documented() -> dict[str, set[str]]:
    """Return the metrics in the table of docs/reference/metrics.md, as they are named there, and their
    labels."""
    text = (DOCS / "docs" / "reference" / "metrics.md").read_text("utf-8")
    _, _, text = text.partition("| metric | meaning |")
    text, _, _ = text.partition("\n\n")
    return {name: set(filter(None, (labels or "").split(","))) for name, labels in ROW.findall(text)}


def parts(expression: str) -> tuple[set[tuple[str, frozenset[str]]], set[str]]:
    """Return the metrics of an expression, each with the labels that it is matched by, and the labels that
    are grouped by."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    grouped = {
        label
        for labels in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", bare)
        for label in re.findall(r"\w+", labels)
    }
    bare = re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    used = set()
    for name, matchers in re.findall(r"\b([a-z_:][a-z0-9_:]*)\b(?!\s*\()(?:\{([^}]*)\})?", bare):
        matched = frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        if name not in KEYWORDS and not re.search(rf"\{{[^}}]*\b{name}\b\s*(?:=~|!~|!=|=)", bare):
            used.add((name, matched))
    return used, grouped


def mistakes(expression: str, known: Labels) -> list[str]:
    """Return what an expression has that is not exposed."""
    used, grouped = parts(expression)
    found = [f"there is no metric {name}" for name, _ in used if name not in known]
    having = {name: known[name] for name, _ in used if name in known}
    for name, matched in used:
        own = having.get(name)
        if own is not None and (wrong := matched - own - OF_TARGETS):
            found.append(f"{name} has no label {', '.join(sorted(wrong))}")
    all_known = set[str]().union(*(own for own in having.values() if own is not None), OF_TARGETS)
    if all(own is not None for own in having.values()) and (strange := grouped - all_known):
        found.append(f"nothing in {expression} has a label {', '.join(sorted(strange))}")
    return found


def expressions() -> dict[str, str]:
    """Return every expression that is in use, and where."""
    found = {rule["expr"]: f"alert {rule['alert']}" for rule in rules()}
    for name in DASHBOARDS:
        for panel in dashboard(name)["panels"]:
            found |= {target["expr"]: f"{name}: {panel['title']}" for target in panel.get("targets", ())}
        for variable in dashboard(name)["templating"]["list"][1:]:
            metric, label = re.findall(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])[0]
            found[f'{metric}{{{label}=""}}'] = f"{name}: variable"
    return found


@pytest.fixture
def exposed(exchange: RunningExchange) -> dict[str, set[str] | None]:
    urls: dict[str, str] = exchange.command("status")["metrics"]

    def trades_are_stored() -> bool:
        found = metrics_of(urls.values())
        return all(found.get(name) for name in ("persist_batch_events_count", "gateway_stage_seconds_count"))

    eventually("something is traded and stored", trades_are_stored)
    return metrics_of(urls.values())


def test_every_process_tells_its_metrics_and_is_ready(exchange: RunningExchange) -> None:
    urls: dict[str, str] = exchange.command("status")["metrics"]
    names = [each.name for each in exchange.processes()]
    assert sorted(urls) == sorted(set(names) - {"redis", "redis-cache", "postgres", "frontend"})
    for name, url in urls.items():
        for path in ("/livez", "/readyz"):

            def is_fine(probe: str = url.removesuffix("/metrics") + path) -> bool:
                try:
                    with urllib.request.urlopen(probe, timeout=10) as response:
                        return bool(response.status == 200)
                except urllib.error.HTTPError:
                    return False

            eventually(f"{name}{path}", is_fine)


def test_every_metric_in_use_is_exposed(exposed: Labels) -> None:
    found = {place: wrong for text, place in expressions().items() if (wrong := mistakes(text, exposed))}
    assert not found


def test_what_alerts_look_at_is_there_before_anything_goes_wrong(exposed: Labels) -> None:
    # A counter that begins to exist at 1 does not increase.
    for rule in rules():
        for name, _ in parts(rule["expr"])[0]:
            assert exposed[name] is not None, name


def test_the_check_sees_what_is_not_exposed(exposed: Labels) -> None:
    assert mistakes("sum(rate(engine_trades_total[5m])) > 0", exposed) == []
    assert mistakes("sum(rate(engine_trade_total[5m])) > 0", exposed) == [
        "there is no metric engine_trade_total"
    ]
    assert mistakes('engine_leader{shrad="0"}', exposed) == ["engine_leader has no label shrad"]
    (wrong,) = mistakes("sum by (symbol) (engine_leader)", exposed)
    assert "has a label symbol" in wrong
    assert mistakes('absent(exchange_build_info{process="x"}) or vector(0)', exposed) == []


def test_the_documents_have_every_metric_and_no_other(exposed: Labels) -> None:
    table = documented()
    own = {name: labels for name, labels in exposed.items() if not name.startswith(OF_LIBRARIES)}
    names = {
        re.sub(r"_(bucket|sum|count)$", "", name) if f"{name.rsplit('_', 1)[0]}_bucket" in own else name
        for name in own
    }
    assert set(table) == names
    for name, labels in table.items():
        told = own.get(name, own.get(f"{name}_count"))
        assert told is None or told == labels, name
