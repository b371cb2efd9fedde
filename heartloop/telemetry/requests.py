"""The span of a request to ``heartloop serve``; the problems that are solved for it are its children.

Names: opentelemetry.io/docs/specs/semconv/http/http-spans. Who asked may name a span of its own in the header
``traceparent`` (or what ``OTEL_PROPAGATORS`` says); this one is its child then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

__all__ = ["METHODS", "SERVING", "Tell", "answering"]

METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
"""Known ones; any other is ``_OTHER``, lest a client make up names without end."""

SERVING: ContextVar[bool] = ContextVar("heartloop_serving", default=False)
"""Whether what happens is for a request of the server's."""

Tell = Callable[[int], None]


@contextmanager
def answering(
    tracer: Tracer, method: str, path: str, route: str, headers: Mapping[str, str]
) -> Iterator[Tell]:
    """Entered while a request is answered; what it yields is told the status.

    Args:
        path: without the query.
        route: as the server has it, "" where nothing is there.
    """
    SERVING.set(True)  # in the request's own task, and in those that it starts
    outer = trace.get_current_span().get_span_context()
    if outer.is_valid:  # somebody's own instrumentation of the server has made the span already
        yield lambda status: None
        return
    known = method if method in METHODS else "_OTHER"
    about = {"http.request.method": known, "url.scheme": "http", "url.path": path}
    if route:
        about["http.route"] = route
    name = f"{known if known != '_OTHER' else 'HTTP'} {route}".rstrip()
    with tracer.start_as_current_span(
        name,
        propagate.extract(headers),
        SpanKind.SERVER,
        about,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:

        def tell(status: int) -> None:
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status(Status(StatusCode.ERROR))

        try:
            yield tell
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise
