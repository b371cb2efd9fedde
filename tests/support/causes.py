"""Which error each fault of :mod:`tests.support.fault_server` is, whichever backend meets it."""

from __future__ import annotations

import traceback
from collections.abc import Collection

from heartloop import errors
from heartloop.errors import BackendError, PermanentError, RetryableError

__all__ = ["KEY", "assert_cause", "causes"]

KEY = "sk-test-SECRETSECRETSECRET-4242"
"""Given to the backend; the faults' messages repeat it or parts of it."""

Cause = tuple[str, type[BackendError], int | None]

_CAUSES: tuple[Cause, ...] = (
    ("400", errors.BadRequest, 400),
    ("401", errors.AuthenticationFailed, 401),
    ("402", errors.QuotaExceeded, 402),
    ("403", errors.AuthenticationFailed, 403),
    ("404", errors.ModelNotFound, 404),
    ("408", errors.CallTimeout, 408),
    ("409", errors.ServerError, 409),
    ("429", errors.RateLimited, 429),
    ("429-too-large", errors.ContextOverflow, 429),
    ("429-quota", errors.QuotaExceeded, 429),
    ("500", errors.ServerError, 500),
    ("502", errors.ServerError, 502),
    ("503", errors.ServerError, 503),
    ("504", errors.ServerError, 504),
    ("529", errors.ServerError, 529),
    ("context_length", errors.ContextOverflow, 400),
    ("context_length_vllm", errors.ContextOverflow, 400),
    ("context_length_llamacpp", errors.ContextOverflow, 400),
    ("content_filter_400", errors.ContentFiltered, 400),
    ("error_200", errors.ServerError, 502),
    ("reset", errors.ConnectionLost, None),
    ("eof", errors.ConnectionLost, None),
    ("truncated", errors.ConnectionLost, None),
    ("truncated_json", errors.BadResponse, None),
    ("malformed", errors.BadResponse, None),
    ("not_http", errors.BadResponse, None),
    ("bad_gzip", errors.BadResponse, None),
    ("bad_usage", errors.BadResponse, None),
    ("empty_choices", errors.BadResponse, None),
    ("no_choices", errors.BadResponse, None),
    ("no_message", errors.BadResponse, None),
    ("wrong_types", errors.BadResponse, None),
    ("not_object", errors.BadResponse, None),
)


def causes(*, without: Collection[str] = (), **statuses: int) -> list[Cause]:
    """(fault, error, status) for all faults but those of ``without``; ``statuses`` where they differ."""
    return [(f, kind, statuses.get(f, status)) for f, kind, status in _CAUSES if f not in without]


def assert_cause(error: BackendError, kind: type[BackendError], status: int | None) -> None:
    """It is this error, says little, repeats no key, and nothing with headers hangs on to it."""
    assert type(error) is kind
    assert error.status == status
    assert isinstance(error, RetryableError) != isinstance(error, PermanentError)
    assert len(str(error)) < 600
    shown = "".join(traceback.format_exception(error))
    assert KEY not in shown
    assert "SECRET" not in shown
    assert error.__context__ is None
