"""OpenTelemetry's SDK as the standard environment variables set it up, for the command line's ``--otel``.

``OTEL_EXPORTER_OTLP_*`` (where to, with which headers), ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``,
``OTEL_TRACES_SAMPLER``, ``OTEL_BSP_*``, ``OTEL_METRIC_EXPORT_*`` and ``OTEL_SDK_DISABLED`` are read by the
SDK itself; ``OTEL_TRACES_EXPORTER`` and ``OTEL_METRICS_EXPORTER`` (``otlp``, ``console`` or ``none``) here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from heartloop.errors import UsageError
from heartloop.telemetry import disable, enable

__all__ = ["from_environment"]


@contextmanager
def from_environment() -> Iterator[None]:
    """Telemetry on, sent where the environment says; all of it is sent before this ends.

    Raises:
        UsageError: OpenTelemetry is not installed, or an exporter is asked for that there is none of.
    """
    kinds = {signal: _kind(signal) for signal in ("TRACES", "METRICS")}
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ImportError as error:
        raise UsageError(f"--otel needs OpenTelemetry: pip install 'heartloop[otel]' ({error})") from None
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in given
    resource = Resource.create({} if named else {SERVICE_NAME: "heartloop"})
    tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
    # The console's own stays readable: standard output is the command's answer.
    if kinds["TRACES"] != "none":
        spans = OTLPSpanExporter() if kinds["TRACES"] == "otlp" else ConsoleSpanExporter(out=sys.stderr)
        tracing.add_span_processor(BatchSpanProcessor(spans))
    readers = []
    if kinds["METRICS"] != "none":
        values = OTLPMetricExporter() if kinds["METRICS"] == "otlp" else ConsoleMetricExporter(out=sys.stderr)
        readers.append(PeriodicExportingMetricReader(values))
    measuring = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    enable(tracer_provider=tracing, meter_provider=measuring)
    try:
        yield
    finally:
        disable()
        tracing.shutdown()
        measuring.shutdown()


def _kind(signal: str) -> str:
    variable = f"OTEL_{signal}_EXPORTER"
    kind = os.environ.get(variable, "").strip().lower() or "otlp"
    if kind not in ("otlp", "console", "none"):
        raise UsageError(f"{variable} must be otlp, console or none, not {kind!r}")
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if kind == "otlp" and protocol != "http/protobuf":
        raise UsageError(f"OTEL_EXPORTER_OTLP_PROTOCOL: --otel speaks http/protobuf, not {protocol!r}")
    return kind
