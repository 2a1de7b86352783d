"""One order, followed through every process to a collector that speaks OTLP over HTTP."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from runtime.tracing import order_trace
from tests.support.api import RefusedError, new_account
from tests.support.eventually import eventually
from tests.support.probed_processes import DEADLINE_S, Running

STAGES = {
    ("gateway", "place order"),
    ("gateway", "append"),
    ("engine-0", "wait"),
    ("engine-0", "apply"),
    ("engine-0", "commit"),
    ("feeds", "publish"),
    ("persist-worker", "store"),
}

BEFORE_EVENTS = {(process, name) for process, name in STAGES if process in ("gateway", "engine-0")}


class Span(NamedTuple):
    process: str
    name: str
    trace_id: int
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    attributes: dict[str, str]


class Collector:
    """Takes spans in."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.spans += spans_of(self.path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - it is called so there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def of(self, trace_id: int) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]


def spans_of(path: str, body: bytes) -> Iterator[Span]:
    assert path == "/v1/traces"
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        names = {each.key: each.value.string_value for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {each.key: each.value.string_value for each in span.attributes}
                yield Span(
                    names["service.name"],
                    span.name,
                    int.from_bytes(span.trace_id, "big"),
                    int.from_bytes(span.span_id, "big"),
                    int.from_bytes(span.parent_span_id, "big"),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    attributes,
                )


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def running(redis_url: str, database_url: str, tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(redis_url, database_url, tmp_path, stack)


def test_an_order_is_followed_through_every_process(running: Running, collector: Collector) -> None:
    for name in ("nudger", "worker", "engine", "gateway", "feeds"):
        running.start(name, traces_url=collector.url, traces_sample_ppm=1_000_000)
    for name in ("worker", "engine", "gateway", "feeds"):
        running.until(name, 200)
    api = new_account(running.rest_url, USDT="1000")
    before_ns = time.time_ns()
    api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000", newClientOrderId="followed")
    with pytest.raises(RefusedError, match="-2010"):
        api.order("BTCUSDT", "BUY", "LIMIT", quantity="1", price="20000", newClientOrderId="refused")
    account_id = int(api.signed("GET", "/api/v3/account")["uid"])
    trace, other = (order_trace(account_id, name).trace_id for name in ("followed", "refused"))
    eventually("a span of every stage", lambda: stages(collector, trace) == STAGES, DEADLINE_S)
    # One that was refused has no events, so nobody publishes or stores it.
    eventually(
        "one of every stage until it was refused",
        lambda: stages(collector, other) == BEFORE_EVENTS,
        DEADLINE_S,
    )
    spans = {span.name: span for span in collector.of(trace)}
    assert len(collector.of(trace)) == len(STAGES)
    root = spans["place order"]
    assert (root.span_id, root.parent_id) == (order_trace(account_id, "followed").root_id, 0)
    assert root.attributes | {"outcome": "OrderReply", "market": "BTCUSDT"} == root.attributes
    assert {span.parent_id for span in spans.values() if span is not root} == {root.span_id}
    assert len({span.span_id for span in spans.values()}) == len(STAGES)
    assert all(before_ns - 1_000_000 <= span.start_ns <= span.end_ns for span in spans.values())
    assert spans["wait"].end_ns <= spans["apply"].end_ns <= spans["commit"].end_ns <= root.end_ns
    assert spans["apply"].end_ns <= spans["publish"].end_ns
    assert (
        next(span for span in collector.of(other) if span.name == "place order").attributes["outcome"]
        == "Refused"
    )


def stages(collector: Collector, trace_id: int) -> set[tuple[str, str]]:
    return {(span.process, span.name) for span in collector.of(trace_id)}
