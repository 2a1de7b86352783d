"""Traces of orders, off unless EXCHANGE_TRACES_URL says where they go: one trace for each order that is
sampled, with a span per stage.

No message carries a trace's id. It is made of what every process knows an order by anyway – its account and
its client order id –, and so is the choice of which orders are traced. A span is made when its stage is over,
from the times that were taken for the metrics.
"""

import hashlib
import importlib
import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from protocol.codec import LaterFormatError, decode_events
from protocol.events import OrderAccepted
from protocol.units import PPM
from runtime.settings import PREFIX, Settings, SettingsError

_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8


class OrderTrace(NamedTuple):
    """The ids of one order's trace, and of its first span, which is the parent of all others."""

    trace_id: int
    root_id: int

    def stage_id(self, stage: str, process: str) -> int:
        """Return the id of a stage's span: the same when it happens once more, after a crash say."""
        named = f"{self.trace_id:x} {stage} {process}".encode()
        return int.from_bytes(hashlib.blake2b(named, digest_size=_SPAN_BYTES).digest(), "big")


def order_trace(account_id: int, client_order_id: str) -> OrderTrace:
    """Return the trace of an order, in every process the same."""
    named = f"{account_id} {client_order_id}".encode()
    digest = hashlib.blake2b(named, digest_size=_TRACE_BYTES + _SPAN_BYTES).digest()
    return OrderTrace(
        int.from_bytes(digest[:_TRACE_BYTES], "big"), int.from_bytes(digest[_TRACE_BYTES:], "big")
    )


class Exporter(Protocol):
    """Where spans go. Implemented with OpenTelemetry (runtime/otlp.py), which is loaded only when it is
    used.
    """

    def span(
        self,
        trace: OrderTrace,
        span_id: int,
        name: str,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, str | int],
    ) -> None:
        """Send a span, soon."""
        ...

    def close(self) -> None:
        """Send what waits."""
        ...


class Tracer:
    """Traces the orders that are sampled, as one process sees them. Times are nanoseconds since the epoch."""

    def __init__(self, process: str, exporter: Exporter, sample_ppm: int) -> None:
        self._process = process
        self._exporter = exporter
        self._sample_ppm = sample_ppm

    def trace_of(self, account_id: int, client_order_id: str) -> OrderTrace | None:
        """Return an order's trace; None: it is not sampled."""
        trace = order_trace(account_id, client_order_id)
        return trace if trace.trace_id % PPM < self._sample_ppm else None

    def whole(
        self, trace: OrderTrace, name: str, start_ns: int, end_ns: int, **attributes: str | int
    ) -> None:
        """Tell of all of an order's way, as its client saw it."""
        self._exporter.span(trace, trace.root_id, name, start_ns, end_ns, attributes)

    def stage(
        self, trace: OrderTrace, name: str, start_ns: int, end_ns: int, **attributes: str | int
    ) -> None:
        """Tell of a stage."""
        span_id = trace.stage_id(name, self._process)
        self._exporter.span(trace, span_id, name, start_ns, max(start_ns, end_ns), attributes)

    def close(self) -> None:
        """Send what waits."""
        self._exporter.close()


def trace_events(
    tracer: Tracer, stage: str, frames: Iterable[bytes], seconds: float, **attributes: str | int
) -> None:
    """Tell of a stage that has just ended, which all orders took part in that were accepted in these frames
    of events.
    """
    end_ns = time.time_ns()
    for frame in frames:
        try:
            events = decode_events(frame)
        except (msgspec.MsgspecError, LaterFormatError):
            continue
        for event in events:
            if isinstance(event, OrderAccepted) and (
                trace := tracer.trace_of(event.order.account_id, event.order.client_order_id)
            ):
                tracer.stage(trace, stage, end_ns - int(seconds * 1e9), end_ns, **attributes)


def tracer_of(settings: Settings, process: str) -> Tracer | None:
    """Return what traces orders in this process; None: nobody wants traces.

    Raises:
        SettingsError: they are wanted, and what sends them is not installed.
    """
    if not settings.traces_url:
        return None
    try:
        otlp: Any = importlib.import_module("runtime.otlp")
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{PREFIX}TRACES_URL: {error.name} is not installed; `pip install -r requirements/tracing.lock` "
            "has it"
        ) from error
    return Tracer(process, otlp.OtlpExporter(settings.traces_url, process), settings.traces_sample_ppm)
