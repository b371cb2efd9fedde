"""Any ``dspy.LM`` as a backend: every provider that DSPy reaches, natively or through LiteLLM.

DSPy's engines make one attempt; its retries and its cache, which sit above them, are switched off here,
since retries, accounting and the record of answers are the gateway's. Requests go through DSPy 3.4's
canonical interface (``dspy.lm15``: dspy.ai/community/normalized-lm-api-migration), which its chat-message
calls are to give way to.

Importing this module does not import dspy, which takes most of a second and is an extra:
``pip install 'heartloop[dspy]'``.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from heartloop.backends.address import usable_key
from heartloop.backends.base import bytes_bound
from heartloop.backends.dspy_errors import from_lm
from heartloop.backends.secrets import Redactor
from heartloop.backends.wire import (
    clean,
    credible,
    finish_reason_of,
    refuse_broken_off,
    request_body,
    usage_of,
)
from heartloop.errors import (
    BackendError,
    BadRequest,
    BadResponse,
    BudgetExhausted,
    CallTimeout,
    UsageError,
)
from heartloop.types import Completion, FinishReason, Message, Request, TokenLogprob, Usage

__all__ = ["DspyBackend"]

logger = logging.getLogger(__name__)

_POOL = 100
"""Connections that DSPy's own engine opens at most, with no setting for it: more calls would queue there."""

_TRANSLATED = frozenset(
    (
        *("top_k", "frequency_penalty", "presence_penalty", "service_tier", "store", "response_format"),
        *("reasoning_effort", "reasoning", "user", "safety_identifier", "logit_bias", "metadata"),
        *("top_p", "stop", "seed", "logprobs", "top_logprobs"),
    )
)
"""Of ``Sampling.extra`` and the LM's defaults, what lm15 knows by OpenAI's names; the rest goes on as is."""

_NOT_SAMPLING = frozenset(
    (
        *("api_key", "api_base", "base_url", "headers", "extra_headers", "timeout", "api_version"),
        *("azure_ad_token_provider", "organization", "project", "extra_query", "custom_llm_provider"),
        *("rollout_id", "n", "num_generations", "prompt_cache", "max_tokens", "max_completion_tokens"),
        *("temperature", "cache", "stream"),
    )
)
"""Among an LM's keyword arguments: the client's, the cache's, and what HeartLoop says for each request."""


_ANSWERS = frozenset(("output", "content", "candidates", "message", "generation", "text", "response"))
"""Where formats other than chat completions have their answer: OpenAI's responses, Anthropic, Gemini, ..."""


class DspyBackend:
    """One ``dspy.LM`` (or another ``dspy.BaseLM``) as a backend.

    The LM's own sampling settings are defaults below :class:`~heartloop.types.Sampling`, but its temperature
    and limit of tokens, which HeartLoop always decides. The LM itself is left as it is: a copy without
    cache and retries does the work, its calls stay out of DSPy's history, and count in ``dspy.track_usage``.
    """

    real: bool = True

    def __init__(
        self,
        lm: Any,
        *,
        timeout: float | None = None,
        context_tokens: int | None = None,
        max_concurrency: int | None = _POOL,
    ) -> None:
        """
        Args:
            timeout: seconds for the whole call; None: as long as the caller waits, and the LM itself.
            context_tokens: the model's context length, if known.
            max_concurrency: calls at once. DSPy's native engine has 100 connections; None suits an LM with an
                engine that has more, and leaves it to HeartLoop to find out what the provider can take.

        Raises:
            UsageError: no LM of DSPy's, or dspy is not installed.
        """
        dspy = _dspy()
        if not isinstance(lm, dspy.BaseLM):
            raise UsageError(
                f"a dspy.LM is wanted, not {type(lm).__name__}: DspyBackend(dspy.LM('openai/...'))"
            )
        if timeout is not None and not timeout > 0:
            raise UsageError(f"timeout must be a positive number of seconds, not {timeout!r}")
        self.name: str = lm.model
        self.max_concurrency = max_concurrency
        self.context_tokens = context_tokens
        self._timeout = timeout
        self._lm = lm.copy(cache=False, num_retries=0)
        if hasattr(self._lm, "__setstate__"):  # connections of its own: closing them is not the caller's loss
            self._lm.__setstate__(self._lm.__getstate__())
        self._defaults = {
            name: value
            for name, value in (getattr(lm, "kwargs", None) or {}).items()
            if name not in _NOT_SAMPLING and value is not None
        }
        self._redact = Redactor(_secrets(getattr(lm, "kwargs", None) or {}))
        self._where = f"dspy.LM {self.name!r}"
        self._noted: set[str] = set()
        self._closed = False

    @classmethod
    def named(
        cls,
        name: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        **options: Any,
    ) -> DspyBackend:
        """A backend for ``dspy.LM(name)``, as the command line asks for it (``dspy/PROVIDER/NAME``).

        Raises:
            UsageError: no such LM, no key in ``api_key_env``, or dspy is not installed.
        """
        settings: dict[str, Any] = {}
        if base_url is not None:
            settings["api_base"] = base_url
        if api_key_env is not None:
            settings["api_key"] = usable_key(os.environ.get(api_key_env, ""), api_key_env)
            if not settings["api_key"]:
                raise UsageError(f"the environment variable {api_key_env} holds no API key")
        dspy = _dspy()
        try:
            lm = dspy.LM(name, cache=False, num_retries=0, **settings)
        except (ValueError, TypeError, dspy.DSPyError) as error:
            raise UsageError(f"dspy.LM({name!r}): {error}") from None
        return cls(lm, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return bytes_bound(messages)

    async def complete(self, request: Request) -> Completion:
        """One attempt; see :class:`~heartloop.backends.base.Backend`."""
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        start = time.perf_counter()
        failure: BackendError
        try:
            asked = self._asked(request)
            async with asyncio.timeout(self._timeout):
                response, usage = await self._call(asked)
            return self._completion(response, usage, time.perf_counter() - start)
        except BudgetExhausted:
            raise  # an LM with a budget of its own
        except BackendError as error:
            failure = error
        except TimeoutError:
            failure = CallTimeout(f"{self._where} did not answer within {self._timeout:g} s")
        except ImportError as error:
            raise UsageError(f"{self._where}: {error}") from None
        except Exception as error:
            failure = from_lm(error, where=self._where, redact=self._redact)
        # Raised out here, so that nothing with headers or a quoted key hangs on to it as its context.
        raise failure

    async def _call(self, asked: Any) -> tuple[Any, Usage | None]:
        dspy = _dspy()
        # DSPy's tracker, and not the response's counters: those are each provider's own, and differ in what
        # they include (Anthropic's prompt is without what was cached, Gemini's answer without its reasoning).
        with dspy.context(disable_history=True, send_stream=None), dspy.track_usage() as tracker:
            response = await self._lm.acall(asked)
            counted = tracker.get_total_tokens().get(self._lm.model, {})
        usage = usage_of(counted)
        # LiteLLM makes zeros of what a server did not say.
        return response, usage if usage is not None and usage.total_tokens else None

    def _asked(self, request: Request) -> Any:
        """``request`` in DSPy's canonical form."""
        own = request.sampling.extra
        body = {name: value for name, value in request_body(request).items() if name not in own}
        more = {**self._defaults, **own}
        further = {name: more.pop(name) for name in [*more] if name not in _TRANSLATED}
        lm15 = importlib.import_module("dspy.lm15")
        failure = ""
        try:
            asked = lm15.request_from_openai_chat({**more, **body, "model": self._lm.model})
            if further:
                extensions = {**(asked.config.extensions or {}), **further}
                asked = replace(asked, config=replace(asked.config, extensions=extensions))
            return asked
        except (lm15.LM15Error, ValueError, TypeError) as error:
            failure = self._redact(str(error))[:300]
        raise BadRequest(f"{self._where} can't be asked this: {failure}")

    def _completion(self, response: Any, usage: Usage | None, seconds: float) -> Completion:
        parts: dict[str, list[str]] = {"text": [], "thinking": [], "refusal": []}
        for part in response.message.parts:
            if part.type in parts:
                parts[part.type].append(str(part.text))
        text, refusal = "".join(parts["text"]), "".join(parts["refusal"])
        thinking = "".join(parts["thinking"])
        choice = self._choice(response.provider_data, said=bool(text or refusal))
        refuse_broken_off(choice)  # lm15 takes any word it does not know for "stop"
        for adapted in getattr(response, "adaptations", ()):
            self._note(f"{adapted.field} {adapted.action}: {adapted.reason}")
        ended = choice.get("finish_reason") or response.finish_reason
        finish_reason: FinishReason = "refusal" if refusal else finish_reason_of(ended)
        return Completion(
            text=clean(text or refusal),
            finish_reason=finish_reason,
            usage=credible(usage, text or refusal or thinking),
            model=clean(response.model),
            reasoning=clean(thinking),
            logprobs=_logprobs(response.logprobs),
            seconds=seconds,
        )

    def _choice(self, raw: Any, *, said: bool) -> Mapping[str, Any]:
        """The first choice of an answer in OpenAI's format, {} for other formats.

        Raises:
            BadResponse: nothing was ``said``, and the answer is none: an error that came as a success, ...
        """
        if not isinstance(raw, Mapping):
            return {}
        choices = raw.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(choice, Mapping) and isinstance(choice.get("message"), Mapping):
            return choice
        if not said and ("choices" in raw or not _ANSWERS & raw.keys()):
            raise BadResponse(f"{self._where}: the answer has no choices")
        return {}

    def _note(self, what: str) -> None:
        """Say once what DSPy sent otherwise than asked."""
        if what not in self._noted and len(self._noted) < 100:
            self._noted.add(what)
            logger.warning("%s: %s", self._where, self._redact(what))

    async def warm_up(self) -> None:
        """Import what the first call would otherwise spend its time limit on."""
        await asyncio.to_thread(importlib.import_module, "dspy.clients.execution")

    async def aclose(self) -> None:
        closed, self._closed = self._closed, True
        if not closed and hasattr(self._lm, "aclose"):
            await self._lm.aclose()


def _dspy() -> Any:
    try:
        return importlib.import_module("dspy")
    except ImportError:
        raise UsageError("dspy is not installed: pip install 'heartloop[dspy]'") from None


def _logprobs(tokens: Any) -> tuple[TokenLogprob, ...] | None:
    if tokens is None:
        return None
    return tuple(
        TokenLogprob(clean(t.token), t.logprob, tuple((clean(o.token), o.logprob) for o in t.top))
        for t in tokens
    )


def _secrets(kwargs: Mapping[str, Any]) -> Iterable[str]:
    """What may not be repeated: the LM's key and headers, and every key in the environment."""
    values = [kwargs.get("api_key")]
    for name in ("headers", "extra_headers"):
        headers = kwargs.get(name)
        values += headers.values() if isinstance(headers, Mapping) else ()
    values += (value for name, value in os.environ.items() if name.endswith(("_API_KEY", "_TOKEN")))
    return [value for value in values if isinstance(value, str) and len(value) > 3]
