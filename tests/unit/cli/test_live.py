"""The live view: what two looks at the metrics say, and that it fits."""

import time

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from rich.console import Console

from cli.live import STAGES, Between, Latency, Look, Values, View, parsed, quantile, view_of
from cli.live_status import title
from cli.live_view import LiveView, duration, number
from cli.local.state_file import ProcessState, ProcessStatus, State
from runtime.settings import Settings


def values(registry: CollectorRegistry) -> Values:
    return dict(parsed(generate_latest(registry).decode()))


def look(time_s: float, **processes: CollectorRegistry) -> Look:
    return Look(time_s, {name: values(registry) for name, registry in processes.items()})


def test_a_rate_is_of_all_processes_and_survives_a_restart() -> None:
    first, second, restarted = (CollectorRegistry() for _ in range(3))
    counters = [Counter("engine_trades", "", ["shard"], registry=each) for each in (first, second, restarted)]
    counters[0].labels("0").inc(100)
    counters[1].labels("1").inc(50)
    before = look(10.0, a=first, b=second)
    counters[0].labels("0").inc(20)
    counters[2].labels("1").inc(4)
    between = Between(before, look(12.0, a=first, b=restarted))
    assert between.rate("engine_trades_total") == 12.0
    assert between.rate("engine_trades_total", shard="1") == 2.0
    assert between.rate("engine_trades_total", shard="2") == 0.0
    # One that did not answer before says nothing of what has happened since.
    assert Between(look(10.0), look(12.0, a=first)).rate("engine_trades_total") == 0.0


def test_quantiles_are_prometheus_s() -> None:
    buckets = {0.1: 50.0, 0.2: 90.0, float("inf"): 100.0}
    assert quantile(buckets, 0.5) == pytest.approx(0.1)
    assert quantile(buckets, 0.25) == pytest.approx(0.05)
    assert quantile(buckets, 0.7) == pytest.approx(0.15)
    assert quantile(buckets, 0.99) == 0.2  # more is not known
    assert quantile({0.1: 0.0, float("inf"): 0.0}, 0.5) is None
    assert quantile({}, 0.5) is None


def test_a_latency_is_of_what_happened_in_between() -> None:
    registry = CollectorRegistry()
    histogram = Histogram(
        "gateway_request_seconds", "", ["function"], registry=registry, buckets=(0.001, 0.01, 0.1)
    )
    orders = histogram.labels("POST /api/v3/order")
    histogram.labels("GET /api/v3/ping").observe(0.05)
    for _ in range(1_000):
        orders.observe(0.05)
    before = look(0.0, gateway=registry)
    assert Between(before, before).latency("gateway_request_seconds") is None
    for _ in range(100):
        orders.observe(0.0005)
    latency = Between(before, look(1.0, gateway=registry)).latency("gateway_request_seconds")
    assert latency == Latency(pytest.approx(0.0005), pytest.approx(0.00099))  # type: ignore[arg-type]


def test_numbers_and_times_are_short() -> None:
    assert [number(each) for each in (0, 0.04, 3.25, 12.6, 1_234, 123_456, 1_234_567)] == [
        *("0", "0.0", "3.2", "13", "1,234", "123.5k", "1.23M"),
    ]
    assert [duration(each) for each in (0, 0.0004, 0.0123, 0.5, 12, 100, 7_200)] == [
        *("0 ms", "400 µs", "12 ms", "0.5 s", "12 s", "2 min", "2.0 h"),
    ]
    assert str(number(None)) == str(duration(None)) == "–"


def whole_exchange() -> tuple[View, State]:
    engine, gateway = CollectorRegistry(), CollectorRegistry()
    for name, value in (
        ("leader", 1),
        ("epoch", 12),
        ("standbys", 1),
        ("money_conserved", 1),
        ("dead_letters", 0),
    ):
        Gauge(f"engine_{name}", "", ["shard"], registry=engine).labels("0").set(value)
    resting = Gauge("engine_resting_orders", "", ["shard", "market"], registry=engine)
    for market in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
        resting.labels("0", market).set(1_234)
    Gauge("exchange_ready", "", ["process"], registry=engine).labels("engine-0").set(1)
    Gauge("exchange_ready", "", ["process"], registry=gateway).labels("gateway").set(0)
    Gauge("gateway_backlog_age_seconds", "", ["shard"], registry=gateway).labels("0").set(1.5)
    orders = Counter("gateway_orders", "", ["answer"], registry=gateway)
    requests = Counter("gateway_requests", "", ["function", "status"], registry=gateway)
    before = Look(0.0, {"engine-0": values(engine), "gateway": values(gateway)})
    orders.labels("accepted").inc(500)
    orders.labels("-2010").inc(10)
    requests.labels("POST /api/v3/order", "503").inc(5)
    between = Between(before, Look(5.0, {"engine-0": values(engine), "gateway": values(gateway)}))
    processes = [
        ProcessState("gateway", 101, 0.0, ProcessStatus.RUNNING),
        ProcessState("engine-0", 102, 0.0, ProcessStatus.RUNNING),
        ProcessState("mm", 0, 0.0, ProcessStatus.RESTARTING, 3),
    ]
    state = State(1, time.time() - 60, {}, processes)
    return view_of(between, state, Settings(), time.time()), state


def test_a_view_has_what_the_processes_say() -> None:
    view, state = whole_exchange()
    assert (view.orders_rate, view.refused_rate, view.failed_rate) == (100.0, 2.0, 1.0)
    (shard,) = view.shards
    assert (shard.leader, shard.epoch, shard.standbys, shard.conserved) == ("engine-0", 12, 1, True)
    assert (shard.resting, shard.waiting_s, shard.feeds_lag_s) == (3_702, 1.5, None)
    assert [each.ready for each in view.processes] == [False, True, None]
    assert view.stages == dict.fromkeys(STAGES)
    assert "look at gateway, mm" in title(view, state)


@pytest.mark.parametrize("width", [200, 80, 60, 40, 24])
def test_it_fits_and_what_matters_most_stays(width: int) -> None:
    view, state = whole_exchange()
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(LiveView(view, title(view, state)))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert all(word in text for word in ("orders/s", "shard", "BTCUSDT", "restarting"))
    assert ("epoch" in text) == (width >= 80)
    if width >= 80:
        assert len(lines) <= 24
