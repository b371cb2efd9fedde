"""What telemetry exports, kept in memory."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from heartloop import telemetry

__all__ = ["Seen"]


class Seen:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.measuring = MeterProvider(metric_readers=[self.reader])

    def enable(self, **settings: Any) -> None:
        telemetry.enable(tracer_provider=self.tracing, meter_provider=self.measuring, **settings)

    def spans(self, name: str = "") -> list[Any]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(name)]

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        scopes = [] if data is None else [s for r in data.resource_metrics for s in r.scope_metrics]
        return [p for s in scopes for m in s.metrics if m.name == name for p in m.data.data_points]

    def everything(self) -> str:
        return "".join(span.to_json() for span in self.spans()) + str(self.reader.get_metrics_data())

    def close(self) -> None:
        telemetry.disable()
        self.tracing.shutdown()
        self.measuring.shutdown()
