"""What a run does, as OpenTelemetry's spans and metrics; off until :func:`enable` is called.

Needs the extra ``heartloop[otel]``; nothing of it is imported, and nothing is done for a call, before that
(:mod:`heartloop.engine.watch`). Names are those of the semantic conventions for generative AI, as of semantic
conventions 1.41 (github.com/open-telemetry/semantic-conventions-genai), and ``heartloop.*`` for what those
have no word for. No prompt and no answer is in them unless asked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from heartloop.engine import watch
from heartloop.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["CONTENT_ENV", "disable", "enable", "enabled"]

CONTENT_ENV = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Set to ``true`` to have prompts and answers in the spans of calls."""

_YES = ("true", "1", "span_only", "span_and_event")


def enable(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    content: bool | None = None,
) -> None:
    """Have every engine made from now on traced and measured.

    Args:
        tracer_provider, meter_provider: where spans and metrics go; None takes OpenTelemetry's global ones.
        content: prompts and answers in spans; None asks the variable :data:`CONTENT_ENV`.

    Raises:
        UsageError: OpenTelemetry is not installed.
    """
    try:
        from heartloop.telemetry.otel import Telemetry
    except ImportError as error:
        raise UsageError(f"telemetry needs OpenTelemetry: pip install 'heartloop[otel]' ({error})") from None
    if content is None:
        content = os.environ.get(CONTENT_ENV, "").strip().lower() in _YES
    watch.factory = Telemetry(tracer_provider, meter_provider, content=content)


def disable() -> None:
    """Engines made from now on are not watched. Those that exist go on as they are."""
    watch.factory = None


def enabled() -> bool:
    """Whether engines made now are watched."""
    factory: Any = watch.factory
    return factory is not None
