"""What went wrong in a ``dspy.LM``, as a leaf of BackendError: by cause, not by the class on top.

An error of DSPy's (``dspy.utils.exceptions``) stands on one of lm15's, which stands on what happened: a
broken connection, an answer with an error status, an answer that is no answer. Through LiteLLM even a reset
connection arrives as a server error with status 500, so the bottom of the chain decides, where it is known.
Classes are told by name: none of these packages need be imported, or be of one version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from heartloop.backends.openai_errors import ErrorBody, chain, from_connection, from_status
from heartloop.backends.secrets import shorten
from heartloop.errors import (
    AuthenticationFailed,
    BackendError,
    BadRequest,
    BadResponse,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    ContextOverflow,
    ModelNotFound,
    QuotaExceeded,
    RateLimited,
    ServerError,
)

__all__ = ["from_lm"]

_UNREADABLE = frozenset(("JSONDecodeError", "ValidationError", "ProtocolError", "DecodingError"))

_BY_CLASS: dict[str, type[BackendError]] = {
    "ContextWindowExceededError": ContextOverflow,
    "LMAuthError": AuthenticationFailed,
    "LMNotConfiguredError": AuthenticationFailed,
    "LMBillingError": QuotaExceeded,
    "LMRateLimitError": RateLimited,
    "LMUnsupportedModelError": ModelNotFound,
    "LMTimeoutError": CallTimeout,
    "LMServerError": ServerError,
    "LMTransportError": ConnectionLost,
    "LMLockTimeoutError": ConnectionFailed,  # a file of credentials was busy: nothing was sent
    "LMInvalidRequestError": BadRequest,
    "LMUnsupportedFeatureError": BadRequest,
    "LMConfigurationError": BadRequest,
}
"""For errors with nothing under them that says more. Whatever is not here was an answer nobody can read."""


def from_lm(error: Exception, *, where: str, redact: Callable[[str], str]) -> BackendError:
    """The error for ``error``, raised by an LM's call. ``where`` names the LM in messages."""
    links = list(chain(error))
    if (broken := _broken(links, error, where, redact)) is not None:
        return broken
    if (answered := _answered(links)) is not None:
        status, headers, body = answered
        if status == 500 and any(map(_is_litellms_own, links)):
            # Its word for a success that it can't read, too: that may have been billed.
            return BadResponse(f"{where}: {shorten(redact(body.message[:4000]))}")
        return from_status(status, headers, body, where=where, redact=redact)
    names = list(_names(links))
    text = f"{where}: {shorten(redact(str(getattr(error, 'message', '') or error)[:4000]))}"
    if not _is_dspys(error):
        # From before the call: the request can't be put into DSPy's form.
        return BadRequest(text) if isinstance(error, TypeError | ValueError) else BadResponse(text)
    kind = next((_BY_CLASS[name] for name in names if name in _BY_CLASS), BadResponse)
    if issubclass(kind, RateLimited | ServerError | CallTimeout):
        return kind(text, retry_after=getattr(error, "retry_after", None))
    return kind(text)


def _broken(
    links: list[BaseException], error: Exception, where: str, redact: Callable[[str], str]
) -> BackendError | None:
    """The error of a call that got no complete answer, else None."""
    names = set(_names(links))
    said = shorten(redact(str(links[-1])[:1000])) or type(links[-1]).__name__
    own = {type(link).__name__ for link in links if ".transports." in type(link).__module__}
    if "ConnectError" in own or "ConnectTimeout" in own:
        return ConnectionFailed(f"no connection to {where}: {said}")
    if own & {"ReadTimeout", "WriteTimeout"}:
        return CallTimeout(f"{where} did not answer in time")
    if own and "ProtocolError" not in own:
        # The bare class is a pool of connections that was busy for ten minutes.
        kind = ConnectionLost if own & {"ReadError", "WriteError"} else ConnectionFailed
        return kind(f"{where} broke off: {said}")
    if own or names & _UNREADABLE:
        return BadResponse(f"{where} sent what can't be read: {said}")
    if any(_answer_of(link) for link in links):
        return None
    return from_connection(error, where=where, redact=redact)


def _answered(links: list[BaseException]) -> tuple[int, Any, ErrorBody] | None:
    """Status, headers and body of an answer with an error status, from the bottom of the chain."""
    for link in reversed(links):
        if (answer := _answer_of(link)) is not None:
            return answer.status_code, answer.headers, ErrorBody.of(answer.content)
    for link in links:
        status = getattr(link, "status", None)
        if _is_dspys(link) and isinstance(status, int) and status >= 400:
            wait = getattr(link, "retry_after", None)
            said = {"message": getattr(link, "message", ""), "code": getattr(link, "provider_code", None)}
            return status, {} if wait is None else {"retry-after": f"{wait:f}"}, ErrorBody({"error": said})
    return None


def _answer_of(link: BaseException) -> Any:
    """The HTTP answer that an error of httpx or openai holds; LiteLLM makes up answers of its own."""
    answer = getattr(link, "response", None)
    if type(link).__module__.partition(".")[0] not in ("httpx", "httpx2", "openai"):
        return None
    status = getattr(answer, "status_code", None)
    return answer if isinstance(status, int) and status >= 400 else None


def _is_litellms_own(link: BaseException) -> bool:
    """Whether it is LiteLLM's InternalServerError with no answer of a server under it."""
    if type(link).__name__ != "InternalServerError" or not type(link).__module__.startswith("litellm"):
        return False
    return not any(map(_answer_of, chain(link)))


def _is_dspys(link: BaseException) -> bool:
    return any(cls.__module__.startswith("dspy.") for cls in type(link).__mro__)


def _names(links: list[BaseException]) -> Iterator[str]:
    return (cls.__name__ for link in links for cls in type(link).__mro__)
