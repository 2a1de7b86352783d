"""What alerts and dashboards ask for is there in a process that has just started, before anything has
happened to it.

A series that begins with its first event is no increase to Prometheus, and an alert on it does not fire:
silence looks like health.
"""

import re
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import prometheus_client.parser
import pytest

from deploy.monitoring.grafana import FOLDER
from mm.quoting_state import Activity, Pause
from tests.support.eventually import eventually
from tests.support.own_servers import OwnRedis
from tests.support.probed_processes import PROCESSES, Running

MARKETS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
UNKNOWN_BEFORE: Final = {
    "engine_snapshot_timestamp_seconds": "no snapshot was saved yet",
    "engine_snapshot_duration_seconds": "no snapshot was written yet",
    "engine_snapshot_bytes": "no snapshot was written yet",
    "engine_snapshot_fork_seconds": "no snapshot was written yet",
    "mm_spread_ratio": "there is no spread without quotes",
}
"""Of dashboards, which then say `No data`; alerts have no such excuse."""
_selector = re.compile(
    r"\b((?:exchange|engine|gateway|feeds|persist|ws_edge|mm|process)_[a-z0-9_]+)(?:\{([^}]*)\})?"
)
_matcher = re.compile(r'(\w+)(=~|=)"([^"]*)"')

Sample = tuple[str, dict[str, str]]


def alerts() -> dict[str, str]:
    """Return name -> expression."""
    groups = msgspec.yaml.decode((FOLDER / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def panels() -> Iterator[str]:
    """Return the dashboards' expressions."""
    for path in sorted((FOLDER / "dashboards").glob("*.json")):
        for panel in msgspec.json.decode(path.read_bytes())["panels"]:
            yield from (target["expr"] for target in panel.get("targets", []) if "expr" in target)


def missing(expression: str, samples: list[Sample]) -> list[str]:
    """Return the selectors of an expression that match no sample."""
    found = []
    for name, conditions in _selector.findall(expression):
        wanted = [
            (label, "=~", ".*") if "$" in value else (label, how, value)
            for label, how, value in _matcher.findall(conditions)
        ]
        if not any(
            name == sample and all(_matches(labels, *each) for each in wanted) for sample, labels in samples
        ):
            found.append(f"{name}{{{conditions}}}")
    return found


def _matches(labels: dict[str, str], label: str, how: str, value: str) -> bool:
    text = labels.get(label, "")
    return text == value if how == "=" else re.fullmatch(value, text) is not None


def test_a_selector_without_a_series_is_found() -> None:
    samples = [("mm_paused", {"reason": "keys"}), ("gateway_requests_total", {"status": "500"})]
    assert (
        missing(
            'max by (reason) (mm_paused) == 1 or rate(gateway_requests_total{status=~"5.."}[5m])', samples
        )
        == []
    )
    assert missing('mm_paused{reason="rain"}', samples) == ['mm_paused{reason="rain"}']
    assert missing('gateway_requests_total{status=~"4.."}', samples) == [
        'gateway_requests_total{status=~"4.."}'
    ]
    assert missing("time() - mm_last_quoted_timestamp_seconds", samples) == [
        "mm_last_quoted_timestamp_seconds{}"
    ]


@pytest.fixture
def running(own_redis: OwnRedis, database_url: str, tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(own_redis.settings.resolved_redis_url(), database_url, tmp_path, stack)


def samples_of(running: Running, names: Iterable[str]) -> list[Sample]:
    found: list[Sample] = []
    for name in names:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{running.ports[name]}/metrics", timeout=10
        ) as response:
            text = response.read().decode()
        for family in prometheus_client.parser.text_string_to_metric_families(text):
            found += [(sample.name, sample.labels) for sample in family.samples]
    return found


def test_every_alert_and_panel_has_its_series_before_anything_has_happened(running: Running) -> None:
    names = [name for name in PROCESSES if name != "mm"]
    for name in names:
        running.start(name)
    for name in names:
        running.until(name, 200)
    # Nobody quotes: the market maker is tested below.
    known: list[Sample] = [("mm_open_quotes", {})]
    known += [
        (name, {})
        for name in ("mm_quotes_placed_total", "mm_quotes_canceled_total", "mm_quotes_refused_total")
    ]
    known += [("mm_paused", {"reason": reason}) for reason in Pause]
    known += [("mm_last_quoted_timestamp_seconds", {"market": market}) for market in MARKETS]
    # The engine looks after its metrics once a second.
    eventually(
        "the engine has measured its markets",
        lambda: "engine_trades_total" in dict(samples_of(running, ["engine"])),
    )
    samples = [*samples_of(running, names), *known]
    assert {
        name: found for name, expression in alerts().items() if (found := missing(expression, samples))
    } == {}
    unknown = {each.partition("{")[0] for expression in panels() for each in missing(expression, samples)}
    assert unknown == UNKNOWN_BEFORE.keys()


def test_the_market_maker_has_a_series_for_each_market_that_it_cannot_quote(running: Running) -> None:
    """Everything but a shard is there, so it knows the markets, and has no account with money to quote
    with.
    """
    running.say_markets()
    for name in ("gateway", "feeds", "mm"):
        running.start(name)
    running.until("gateway", 200)

    def quiet() -> set[Any]:
        samples = samples_of(running, ["mm"])
        return {labels["market"] for name, labels in samples if name == "mm_last_quoted_timestamp_seconds"}

    eventually("every market counts as quiet", lambda: quiet() == set(MARKETS))
    names = {name for name, _ in samples_of(running, ["mm"])}
    assert names >= {"mm_paused", "mm_open_quotes", "mm_quotes_placed_total", "mm_quotes_refused_total"}
    status, reasons = running.ready("mm")
    assert (status, list(reasons)) == (503, ["quotes"]), "it is not ready before it has quoted"
    for name in ("engine", "nudger", "worker"):
        running.start(name)
    running.until("mm", 200)


def test_a_maker_that_has_quoted_stays_ready_while_it_waits() -> None:
    seconds = 0.0
    activity = Activity(10, lambda: seconds)
    assert activity.why_not_ready() == "it has not quoted yet"
    activity.paused(Pause.EXCHANGE)
    assert activity.why_not_ready() == "it has not quoted yet, and waits for the exchange"
    activity.quoted("BTCUSDT")
    activity.paused(Pause.EXCHANGE)
    assert activity.why_not_ready() is None
    seconds = 11.0
    assert activity.why_not_ready() == "it has not quoted for 11 s, and does not say why"
