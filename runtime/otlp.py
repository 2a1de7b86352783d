"""Exports spans to an OpenTelemetry collector, by OTLP over HTTP, in batches from the library's thread."""

from importlib import metadata
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from runtime.tracing import OrderTrace

_DELAY_MS: Final = 1_000
_TIMEOUT_S: Final = 5

_sampled: Final = TraceFlags(TraceFlags.SAMPLED)


class OtlpExporter:
    """Implements `runtime.tracing.Exporter`. An unreachable collector loses spans and has no other effect."""

    def __init__(self, url: str, process: str) -> None:
        version = metadata.version("exchange")
        self._resource = Resource.create(
            {"service.namespace": "exchange", "service.name": process, "service.version": version}
        )
        self._scope = InstrumentationScope("exchange", version)
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint=url, timeout=_TIMEOUT_S), schedule_delay_millis=_DELAY_MS
        )

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
        is_root = span_id == trace.root_id
        self._processor.on_end(
            ReadableSpan(
                name,
                context=SpanContext(trace.trace_id, span_id, is_remote=False, trace_flags=_sampled),
                parent=None
                if is_root
                else SpanContext(trace.trace_id, trace.root_id, is_remote=True, trace_flags=_sampled),
                resource=self._resource,
                attributes=attributes,
                kind=SpanKind.SERVER if is_root else SpanKind.INTERNAL,
                start_time=start_ns,
                end_time=end_ns,
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        """Send the pending spans."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the library lacks the annotation
