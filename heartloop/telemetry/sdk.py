"""OpenTelemetry's SDK as the standard environment variables set it up, for the command line's ``--otel``.

``OTEL_EXPORTER_OTLP_*`` (where to, with which headers), ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``,
``OTEL_TRACES_SAMPLER``, ``OTEL_BSP_*``, ``OTEL_METRIC_EXPORT_*`` and ``OTEL_SDK_DISABLED`` are read by the
SDK itself; ``OTEL_TRACES_EXPORTER`` and ``OTEL_METRICS_EXPORTER`` (``otlp``, ``console`` or ``none``) here.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

from heartloop.errors import UsageError
from heartloop.telemetry import disable, enable

__all__ = ["LONGEST_FLUSH", "SILENT_SECONDS", "from_environment"]

logger = logging.getLogger(__name__)

SILENT_SECONDS = 5.0
"""At the end: after so long without anything getting through, what is left is given up."""
LONGEST_FLUSH = 30.0
"""The end takes no longer than this, even where something does."""
REPEATED_SECONDS = 300.0
"""An exporter that can't send says so no more often than this."""


@contextmanager
def from_environment() -> Iterator[None]:
    """Telemetry on, sent where the environment says; all of it is sent before this ends.

    A collector that does not answer holds nothing up for longer than :data:`SILENT_SECONDS`.

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
    sent: list[bool] = []
    for exporter in (OTLPSpanExporter, OTLPMetricExporter):
        logging.getLogger(exporter.__module__).addFilter(_Seldom())
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in given
    resource = Resource.create({} if named else {SERVICE_NAME: "heartloop"})
    tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
    # The console's own stays readable: standard output is the command's answer.
    if kinds["TRACES"] != "none":
        spans = (
            _noting(OTLPSpanExporter, sent)()
            if kinds["TRACES"] == "otlp"
            else ConsoleSpanExporter(out=sys.stderr)
        )
        tracing.add_span_processor(BatchSpanProcessor(spans))
    readers = []
    if kinds["METRICS"] != "none":
        values = (
            _noting(OTLPMetricExporter, sent)()
            if kinds["METRICS"] == "otlp"
            else ConsoleMetricExporter(out=sys.stderr)
        )
        readers.append(PeriodicExportingMetricReader(values))
    measuring = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    enable(tracer_provider=tracing, meter_provider=measuring)
    try:
        yield
    finally:
        disable()
        _finish((tracing.shutdown, measuring.shutdown), sent)


def _noting(kind: type[Any], sent: list[bool]) -> type[Any]:
    """An exporter of that kind that adds to ``sent`` whenever it has sent something."""

    class Noting(kind):  # type: ignore[misc]
        def export(self, *given: Any, **settings: Any) -> Any:
            result = super().export(*given, **settings)
            if result.name == "SUCCESS":
                sent.append(True)
            return result

    return Noting


def _finish(ends: Sequence[Callable[[], object]], sent: Sequence[bool]) -> None:
    """Run ``ends`` side by side, as long as that brings anything."""
    threads = [Thread(target=end, daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    begun = heard = time.monotonic()
    known = len(sent)
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(0.02)
        now = time.monotonic()
        if len(sent) != known:
            known, heard = len(sent), now
        if now - heard > SILENT_SECONDS or now - begun > LONGEST_FLUSH:
            logger.warning("telemetry: what was not sent yet is dropped, for nobody takes it")
            return


class _Seldom(logging.Filter):
    """Lets a message through that was not said lately, whatever its figures."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._said.get(str(record.msg), -REPEATED_SECONDS) < REPEATED_SECONDS:
            return False
        self._said[str(record.msg)] = now
        return True


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
