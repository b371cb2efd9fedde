"""What a backend is: one attempt at one completion, and nothing else.

A backend does not retry, throttle, queue or count: the gateway does that, once, for all of them. It
translates whatever goes wrong into the leaves of :class:`heartloop.errors.BackendError`, once.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from heartloop.errors import ModelCallsForbidden, UsageError
from heartloop.types import Completion, Message, Request

__all__ = ["FORBID_ENV", "Backend", "RateLimits", "bytes_bound", "check_calls_allowed", "own_loop"]

FORBID_ENV = "HEARTLOOP_FORBID_MODEL_CALLS"
"""Set to 1 (as the tests of a program that uses HeartLoop might) to refuse calls to real models."""

IMAGE_TOKENS = 2048
"""Upper bound for one image part where the backend knows no better (a tiled high-detail image)."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What a server said is left of its limits; None where it did not say.

    Attributes:
        remaining_requests, remaining_tokens: what may still be sent ...
        reset_requests, reset_tokens: ... until so many seconds later all of it is there again.
    """

    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    reset_requests: float | None = None
    reset_tokens: float | None = None


@runtime_checkable
class Backend(Protocol):
    """Where completions come from.

    One instance serves one model name and is used from one event loop. Implementations are checked by
    the conformance suite in ``tests/conformance``.

    A backend may offer more, which the lane in front of it uses where it is there:

    * an attribute ``rate_limits: RateLimits | None``, replaced by each answer that says something of the
      server's limits, before :meth:`complete` returns or raises;
    * an attribute ``structured_output: bool``: it takes OpenAI's ``response_format`` with a JSON schema, or
      leaves it out where the server refuses it; judges then ask for JSON;
    * a coroutine method ``warm_up()``: what the first call would otherwise do within its time limit (import a
      client, load a model);
    * an attribute ``serving: bool``: whether somebody else can answer though a call has just failed (another
      replica); the lane then doesn't take that for an outage;
    * a method ``queue() -> tuple[int, int] | None``: calls running and waiting at the server, as last known,
      without waiting for anything;
    * an attribute ``cuts = True``: it watches the log-probabilities while an answer is made, and leaves it
      where ``sampling.cut`` says so (finish reason ``"cut"``, usage as far as the server told it).
    """

    @property
    def name(self) -> str:
        """The model's name, as sent to the backend."""
        ...

    @property
    def real(self) -> bool:
        """Whether a call reaches a real model; False for scripted and replay backends."""
        ...

    @property
    def max_concurrency(self) -> int | None:
        """The most calls it can usefully run at once (slots of an embedded model), or None."""
        ...

    @property
    def context_tokens(self) -> int | None:
        """The model's context length in tokens where known, else None."""
        ...

    async def complete(self, request: Request) -> Completion:
        """One attempt. Raises a leaf of :class:`~heartloop.errors.BackendError`.

        Cancelling the awaiting task stops the work at the backend, not only the waiting.
        """
        ...

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        """An upper bound of the prompt's tokens, without a network call. Never below the truth."""
        ...

    async def aclose(self) -> None:
        """Release connections, threads and model memory. Calling it twice is harmless."""
        ...


def bytes_bound(messages: tuple[Message, ...]) -> int:
    """Prompt tokens can't exceed UTF-8 bytes (byte-level vocabularies) plus the chat template's.

    The template is allowed 16 tokens a message and 64 for what it puts around them all (a default
    system prompt, the generation prompt).
    """
    total = 64
    for message in messages:
        total += 16
        if isinstance(message.content, str):
            total += len(message.content.encode("utf-8", "surrogatepass"))
            continue
        for part in message.content:
            if part.get("type") == "text":
                total += len(str(part["text"]).encode("utf-8", "surrogatepass"))
            else:
                total += IMAGE_TOKENS
    return total


def own_loop(
    backend: object, own: asyncio.AbstractEventLoop | None, closed: bool
) -> asyncio.AbstractEventLoop:
    """The running loop, which must be ``own``, that of the backend's first call (None before that).

    Raises:
        UsageError: it is another one, or the backend is closed.
    """
    if closed:
        raise UsageError(f"{backend!r} is closed")
    loop = asyncio.get_running_loop()
    if own is not None and own is not loop:
        raise UsageError(f"{backend!r} belongs to another event loop: make one for each")
    return loop


def check_calls_allowed(backend: Backend) -> None:
    """Raise :class:`~heartloop.errors.ModelCallsForbidden` for a real backend while the switch is on."""
    if backend.real and os.environ.get(FORBID_ENV, "") not in ("", "0"):
        raise ModelCallsForbidden(
            f"a call to the model {backend.name!r} was stopped: {FORBID_ENV} is set. "
            "Unset it, or use a scripted backend in tests."
        )
