"""Traces of orders, if EXCHANGE_TRACES_URL is set: one trace per sampled order, with a span per stage.

No message carries a trace id. The id and the sampling decision are derived from what every process knows of
an order: its account and its client order id. A span is created when its stage is over, from the times that
were taken for the metrics.
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
    """The ids of one order's trace and of its first span, which is the parent of all others."""

    trace_id: int
    root_id: int

    def stage_id(self, stage: str, process: str) -> int:
        """Return the id of a stage's span: the same for a repetition, for example after a crash."""
        key = f"{self.trace_id:x} {stage} {process}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=_SPAN_BYTES).digest(), "big")


def order_trace(account_id: int, client_order_id: str) -> OrderTrace:
    """Return the trace of an order, the same in every process."""
    key = f"{account_id} {client_order_id}".encode()
    digest = hashlib.blake2b(key, digest_size=_TRACE_BYTES + _SPAN_BYTES).digest()
    return OrderTrace(
        int.from_bytes(digest[:_TRACE_BYTES], "big"), int.from_bytes(digest[_TRACE_BYTES:], "big")
    )


class Exporter(Protocol):
    """The destination of spans.

    Implemented with OpenTelemetry (runtime/otlp.py), which is loaded only when it is used.
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
        """Enqueue a span for export."""
        ...

    def close(self) -> None:
        """Send the pending spans."""
        ...


class Tracer:
    """Traces sampled orders in one process. Times are nanoseconds since the epoch."""

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
        """Record the whole time of an order, as its client saw it."""
        self._exporter.span(trace, trace.root_id, name, start_ns, end_ns, attributes)

    def stage(
        self, trace: OrderTrace, name: str, start_ns: int, end_ns: int, **attributes: str | int
    ) -> None:
        """Record one stage."""
        span_id = trace.stage_id(name, self._process)
        self._exporter.span(trace, span_id, name, start_ns, max(start_ns, end_ns), attributes)

    def close(self) -> None:
        """Send the pending spans."""
        self._exporter.close()


def trace_events(
    tracer: Tracer, stage: str, frames: Iterable[bytes], seconds: float, **attributes: str | int
) -> None:
    """Record a stage that has just ended, for all orders that were accepted in these frames of events."""
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
    """Return the tracer of this process; None: traces are off.

    Raises:
        SettingsError: traces are on, and the exporter is not installed.
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
