"""Which orders are traced, and that nothing is loaded for it when none is."""

import subprocess
import sys

import pytest

from runtime.settings import Settings, SettingsError
from runtime.tracing import OrderTrace, Tracer, order_trace, tracer_of

ORDERS = [(1 + number % 7, f"order-{number}") for number in range(20_000)]


class Kept:
    """Keeps spans."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int, str]] = []

    def span(
        self,
        trace: OrderTrace,
        span_id: int,
        name: str,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, str | int],
    ) -> None:
        self.spans.append((trace.trace_id, span_id, name))

    def close(self) -> None:
        pass


def test_every_process_makes_the_same_ids() -> None:
    # Written down: a process of another version must make them, too.
    assert order_trace(1001, "my-42") == OrderTrace(0x57976CDF04AD97318B9F2C49B6B3A693, 0x957D0E87B00CAD6E)
    assert len({order_trace(*order) for order in ORDERS}) == len(ORDERS)


def test_the_same_share_of_orders_is_traced_everywhere() -> None:
    first, second = (Tracer(name, Kept(), 10_000) for name in ("gateway", "feeds"))
    traced = [order for order in ORDERS if first.trace_of(*order)]
    assert traced == [order for order in ORDERS if second.trace_of(*order)]
    assert len(ORDERS) // 200 < len(traced) < len(ORDERS) // 50
    assert all(Tracer("gateway", Kept(), 1_000_000).trace_of(*order) for order in ORDERS)


def test_a_stage_that_happens_once_more_is_the_same_span() -> None:
    kept = Kept()
    gateway, feeds = (Tracer(name, kept, 1_000_000) for name in ("gateway", "feeds"))
    trace = order_trace(1, "x")
    for tracer in (feeds, feeds, gateway):
        tracer.stage(trace, "publish", 1, 2)
    feeds.whole(trace, "place order", 1, 2)
    ids = [span_id for _, span_id, _ in kept.spans]
    assert ids[0] == ids[1] != ids[2]
    assert ids[3] == trace.root_id


def test_without_an_address_nothing_of_it_is_loaded() -> None:
    assert tracer_of(Settings(), "test") is None
    # Other libraries may load its interface; what sends is ours alone.
    program = (
        "import sys, gateway.main, engine_worker.main, feeds.main, persist.main;"
        "print({'runtime.otlp', 'opentelemetry.exporter.otlp'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("opentelemetry", "runtime.otlp"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(SettingsError, match=r"EXCHANGE_TRACES_URL: opentelemetry.* is not installed"):
        tracer_of(Settings(traces_url="http://127.0.0.1:1/v1/traces"), "test")
