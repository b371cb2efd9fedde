"""An OpenTelemetry collector on loopback: OTLP over HTTP, protobuf, perhaps packed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.loopback import Handler, listening

__all__ = ["Collected", "attributes", "collecting"]


class Collected:
    """What has arrived.

    Attributes:
        spans, metrics: protobuf messages.
        schemas: the schema URLs of what they came with.
    """

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.schemas: set[str] = set()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name.startswith(name)]

    def orphans(self) -> list[Any]:
        known = {span.span_id for span in self.spans}
        return [span for span in self.spans if span.parent_span_id and span.parent_span_id not in known]

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
                    self.schemas.add(scope.schema_url)
        else:
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics += scope.metrics
                    self.schemas.add(scope.schema_url)


@contextmanager
def collecting() -> Iterator[tuple[str, Collected]]:
    """The collector's root URL, and what has arrived there."""
    collected = Collected()

    class Collector(Handler):
        def do_POST(self) -> None:
            body = self.content()
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collected.take(self.path, body)
            self.answer(content_type="application/x-protobuf")

    with listening(Collector) as root:
        yield root, collected


def attributes(message: Any) -> dict[str, Any]:
    """A message's attributes as plain values."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in message.attributes}
