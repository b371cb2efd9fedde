"""What went wrong at an OpenAI-compatible server, as a leaf of BackendError: one translation, by cause.

Through openai's aiohttp client a connection that is reset arrives as APITimeoutError, so broken
connections are told apart by the aiohttp exception at the bottom of the chain, not by openai's class.
Bodies of errors differ between servers; the shapes known here are those of OpenAI, Azure, vLLM,
llama.cpp and OpenRouter.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from heartloop.backends.base import RateLimits
from heartloop.backends.secrets import shorten
from heartloop.errors import (
    AuthenticationFailed,
    BackendError,
    BadRequest,
    BadResponse,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    ContentFiltered,
    ContextOverflow,
    ModelNotFound,
    QuotaExceeded,
    RateLimited,
    ServerError,
)

__all__ = [
    "ErrorBody",
    "chain",
    "from_connection",
    "from_status",
    "rate_limits",
    "refused_parameter",
    "retry_after",
]

_CONTEXT = re.compile(
    r"maximum context length|context_length_exceeded|exceed_context_size|exceeds? the (?:available |"
    r"model's )?context|longer than the maximum model length|prompt is too long|too many tokens|"
    r"greater than max_model_len",
    re.IGNORECASE,
)
_FILTER_CODES = frozenset(
    ("content_filter", "content_policy_violation", "moderation_blocked", "responsibleaipolicyviolation")
)
_UNSUPPORTED_CODES = frozenset(("unsupported_parameter", "unsupported_value"))
_UNSUPPORTED = re.compile(
    r"(?:unsupported|unrecognized|unknown) (?:parameter|value|request argument supplied)\W+(\w+)"
    r"|['\"`]?(\w+)['\"`]? (?:is|are) not supported (?:with|by|for) this model"
    r"|not allowed to request (\w+)",
    re.IGNORECASE,
)
_QUOTA_CODES = frozenset(("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"))
_LONGEST_RESET = 300.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class ErrorBody:
    """The fields of an error's JSON body that servers agree on; all "" where there is no such body."""

    __slots__ = ("code", "inner", "message", "param", "type")

    def __init__(self, data: Any) -> None:
        if isinstance(data, list) and len(data) == 1:  # Gemini's compatible endpoint
            data = data[0]
        error = data.get("error", data) if isinstance(data, dict) else None
        if isinstance(error, str):  # {"error": "text"}, as Ollama and some proxies write it
            error = {"message": error}
        if not isinstance(error, dict):
            error = {}
        # FastAPI's validation errors come as {"detail": ...}
        message = error.get("message") or error.get("detail") or ""
        self.message = message if isinstance(message, str) else str(message)
        self.code = str(error.get("code") or "")
        inner = error.get("innererror")  # Azure
        self.inner = str(inner.get("code") or "") if isinstance(inner, dict) else ""
        self.type = str(error.get("type") or "")
        self.param = str(error.get("param") or "")

    @classmethod
    def of(cls, content: bytes) -> ErrorBody:
        try:
            return cls(orjson.loads(content))
        except orjson.JSONDecodeError:
            body = cls(None)
            text = content[:2000].decode("utf-8", "replace")
            # An HTML page of a proxy says nothing that its status doesn't.
            body.message = "" if text.lstrip().startswith("<") else text
            return body


# --- answers with an error status ------------------------------------------------------------------------


def from_status(
    status: int, headers: Mapping[str, str], body: ErrorBody, *, where: str, redact: Callable[[str], str]
) -> BackendError:
    """The error for an answer of ``status``, 300 or more. ``where`` names server and model in messages."""
    if status < 400:
        # Not followed: it would take the prompt, and Azure's key, to a server that nobody named.
        return BadRequest(
            f"{where} answered {status}, a redirect: give the base_url behind it", status=status
        )
    # Shortened last: a key that is cut in two would not be recognised.
    said = shorten(redact(body.message[:4000]))
    text = f"{where} answered {status}" + (f": {said}" if said else "")
    wait = retry_after(headers)
    code = body.code.lower()
    if status == 402 or (
        status in (400, 403, 429) and (code in _QUOTA_CODES or body.type.lower() in _QUOTA_CODES)
    ):
        return QuotaExceeded(f"{text} (no quota or credit left: retrying won't help)", status=status)
    if status == 401:
        # Nothing the server says: it may quote the key in ways that can't be recognised.
        return AuthenticationFailed(f"{where} answered 401: the API key was refused", status=status)
    if code in _FILTER_CODES or body.inner.lower() in _FILTER_CODES:
        return ContentFiltered(text, status=status)
    if status == 403:
        return AuthenticationFailed(text, status=status)
    if status == 404:
        return ModelNotFound(text, status=status)
    if status == 408:
        return CallTimeout(text, status=status, retry_after=wait)
    if status in (413, 429) and (limit := _too_large_for_a_minute(body.message)) is not None:
        return ContextOverflow(
            f"{text} (alone it is more than what the account may use in a minute: no wait will help, a lower "
            "max_tokens or a shorter prompt may)",
            status=status,
            context_tokens=limit,
        )
    if status == 429:
        return RateLimited(text, status=status, retry_after=wait)
    if status >= 500 or status in (409, 425):
        # llama.cpp sent its context error as a 500 before it had a type of its own.
        if _is_overflow(body):
            return _overflow(text, status, body)
        return ServerError(text, status=status, retry_after=wait)
    if status in (400, 413, 422) and _is_overflow(body):
        return _overflow(text, status, body)
    return BadRequest(text, status=status)


# How servers word the two figures: OpenAI and older vLLM ("... is 4097 tokens. However, you requested 5000
# tokens (3000 in the messages, ..."), newer vLLM ("... your prompt contains 37 input tokens"), llama.cpp
# ("request (3000 tokens) exceeds the available context size (2048 tokens)").
_LIMIT = re.compile(r"(?:maximum context length is|available context size \(?)\s*(\d+)", re.IGNORECASE)
_PROMPT = re.compile(
    r"(\d+) in the messages|request has (\d+) input|contains (?:at least )?(\d+) input"
    r"|resulted in (\d+) tokens|request \((\d+) tokens\)",
    re.IGNORECASE,
)


# OpenAI's 429 and Groq's 413: "Request too large for NAME in organization ORG on tokens per min (TPM): Limit
# 30000, Requested 45012". With "Used 29000" in between it is the usual one, which time will cure.
_MINUTE = re.compile(r"\blimit:?\s*(\d[\d,]{0,14})\b.{0,60}?\brequested:?\s*(\d[\d,]{0,14})\b", re.I | re.S)


def _too_large_for_a_minute(message: str) -> int | None:
    """The limit, if the message says that the request by itself is larger than it."""
    if (found := _MINUTE.search(message)) is None:
        return None
    limit, requested = (int(number.replace(",", "")) for number in found.groups())
    return limit if requested > limit else None


def _overflow(text: str, status: int, body: ErrorBody) -> ContextOverflow:
    limit, prompt = _LIMIT.search(body.message), _PROMPT.search(body.message)
    return ContextOverflow(
        text,
        status=status,
        context_tokens=None if limit is None else int(limit[1]),
        prompt_tokens=None if prompt is None else int(next(found for found in prompt.groups() if found)),
    )


def _is_overflow(body: ErrorBody) -> bool:
    return any(_CONTEXT.search(field) for field in (body.code, body.type, body.message))


def refused_parameter(status: int, body: ErrorBody) -> str | None:
    """The request field that the model does not take, if that is what the error says."""
    if status not in (400, 403, 422):
        return None
    if body.code in _UNSUPPORTED_CODES and body.param:
        return body.param
    found = _UNSUPPORTED.search(body.message)
    return next((name for name in found.groups() if name), None) if found else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the server wants to hear again, or None where it does not say.

    From ``retry-after-ms``, ``retry-after`` (seconds or an HTTP date, RFC 9110 section 10.2.3), or the
    longer of OpenAI's ``x-ratelimit-reset-*`` among the limits that have nothing remaining (where each has
    something left, which is then not enough for this request, the shorter of all).
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if value.replace(".", "", 1).isdecimal() and value.isascii():
            return float(value) * unit
    if value:
        try:
            # By the server's own clock where it tells the time: ours may be wrong.
            now = headers.get("date")
            since = parsedate_to_datetime(now).timestamp() if now else time.time()
            return max(0.0, parsedate_to_datetime(value).timestamp() - since)
        except (ValueError, TypeError, OverflowError, OSError):
            pass
    resets = {
        kind: seconds
        for kind in ("requests", "tokens")
        if (seconds := _duration(headers.get(f"x-ratelimit-reset-{kind}", ""))) is not None
    }
    spent = [resets[kind] for kind in resets if headers.get(f"x-ratelimit-remaining-{kind}", "0") == "0"]
    # By then all of the limit is there again, and some of it long before.
    wait = max(spent) if spent else min(resets.values(), default=None)
    return None if wait is None else min(wait, _LONGEST_RESET)


def rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """What ``x-ratelimit-remaining-*`` and ``x-ratelimit-reset-*`` say, as OpenAI and Azure send them."""
    left = {kind: headers.get(f"x-ratelimit-remaining-{kind}") for kind in ("requests", "tokens")}
    if left["requests"] is None and left["tokens"] is None:
        return None
    numbers = {
        kind: int(text) if text and len(text) < 16 and text.isascii() and text.isdecimal() else None
        for kind, text in left.items()
    }
    resets = {kind: _duration(headers.get(f"x-ratelimit-reset-{kind}", "")) for kind in left}
    return RateLimits(numbers["requests"], numbers["tokens"], resets["requests"], resets["tokens"])


def _duration(text: str) -> float | None:
    """Seconds in OpenAI's notation: ``"1s"``, ``"6m0s"``, ``"250ms"``; a bare number is seconds."""
    text = text.strip()
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNIT[unit] for number, unit in parts)
    if not (text.isascii() and text.replace(".", "", 1).isdecimal()):
        return None
    seconds = float(text)
    return seconds if seconds < 10**8 else None  # a point in time (OpenRouter): whose clock, in which unit?


# --- connections that broke ------------------------------------------------------------------------------


def from_connection(error: BaseException, *, where: str, redact: Callable[[str], str]) -> BackendError | None:
    """The error for a request that got no complete answer; None if ``error`` is not of that kind."""
    import aiohttp

    links = list(chain(error))
    said = next((shorten(redact(str(link))) for link in reversed(links) if str(link)), type(error).__name__)
    for link in links:
        if isinstance(link, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            if getattr(link, "errno", None) in (errno.EMFILE, errno.ENFILE):
                said += " (too many open files: raise `ulimit -n` or lower the concurrency)"
            return ConnectionFailed(f"no connection to {where}: {said}")
        if isinstance(link, aiohttp.SocketTimeoutError):
            return CallTimeout(f"{where} sent nothing for too long")
        if isinstance(link, aiohttp.ClientResponseError):
            return BadResponse(f"{where} does not speak HTTP as it should: {said}")
        if isinstance(link, aiohttp.InvalidURL):
            return BadRequest(f"{where}: invalid URL")
        if isinstance(link, aiohttp.ClientError):
            return ConnectionLost(f"{where} broke off: {said}")
    # No aiohttp underneath: openai 2 without it falls back to httpx, whose classes are told by name.
    names = {cls.__name__ for link in links for cls in type(link).__mro__}
    if names & {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}:
        return ConnectionFailed(f"no connection to {where}: {said}")
    if "DecodingError" in names:
        return BadResponse(f"{where} sent a body that can't be decoded: {said}")
    if names & {"TimeoutException", "APITimeoutError"}:
        return CallTimeout(f"{where} did not answer in time")
    if names & {"UnsupportedProtocol", "InvalidURL"}:
        return BadRequest(f"{where}: invalid URL")
    if names & {"TransportError", "APIConnectionError", "ConnectionError"}:
        return ConnectionLost(f"{where} broke off: {said}")
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and what it came from, down to the first cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
