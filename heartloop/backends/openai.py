"""Chat completions over HTTP: OpenAI, and the many servers that speak its format (vLLM, llama.cpp, ...).

The cheap path through the openai package: its client (authentication, proxies, TLS) over aiohttp, but
raw responses read with orjson in place of its typed models. Importing this module imports neither;
the first call does, in a thread, since it takes most of a second.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import time
from typing import Any

from heartloop.backends.address import Address, usable_key
from heartloop.backends.base import RateLimits
from heartloop.backends.openai_errors import (
    ErrorBody,
    from_connection,
    from_status,
    rate_limits,
    refused_parameter,
)
from heartloop.backends.server import IDLE_SECONDS, NO_KEY, ServerBackend
from heartloop.backends.wire import completion_of, decode, error_in_success, request_body
from heartloop.errors import BackendError, BadRequest, ModelNotFound, UsageError
from heartloop.types import Completion, Request

__all__ = ["OpenAIBackend"]

logger = logging.getLogger(__name__)

_OFFICIAL = "https://api.openai.com/v1"

_REASONING = re.compile(r"(?:^|/)(?:o[134](?:-|$)|gpt-5)")
"""Names of OpenAI's reasoning models, which take max_completion_tokens in place of max_tokens."""

DROPPABLE = frozenset(("temperature", "top_p", "seed", "logprobs", "top_logprobs", "stop", "response_format"))
_MAX_ADAPTATIONS = 8


class OpenAIBackend(ServerBackend):
    """One model behind an OpenAI-compatible URL. Used from one event loop, that of the first call.

    Parameters that the model refuses (a 400 that names one) are renamed or left out, for this request and
    all later ones of this instance; a warning says so. ``max_tokens`` is never left out.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        api_key: str | None = None,
        timeout: float | None = None,
        context_tokens: int | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        """
        Args:
            name: the model, as the server knows it.
            base_url: None for api.openai.com; otherwise usually ending in ``/v1``. A query is sent with
                every request; ``user:password@`` becomes basic authentication.
            api_key_env: the environment variable that holds the key. Only api.openai.com insists on one.
            api_key: the key itself, in place of the variable.
            timeout: seconds for the whole call, from connecting to the last byte; None: as long as the
                caller waits (the gateway has a limit for each attempt).
            context_tokens: the model's context length, if known.

        Raises:
            UsageError: no key for api.openai.com, or a base_url that is none.
        """
        key = usable_key(api_key if api_key is not None else os.environ.get(api_key_env, ""), api_key_env)
        if not key and base_url is None:
            raise UsageError(
                f"no API key for api.openai.com: set the environment variable {api_key_env}, "
                "or give base_url for a server of your own"
            )
        super().__init__(
            name,
            Address.of(base_url or _OFFICIAL),
            key or NO_KEY,
            timeout=timeout,
            context_tokens=context_tokens,
            max_concurrency=max_concurrency,
        )
        self.rate_limits: RateLimits | None = None
        self._rename_max_tokens = _REASONING.search(name) is not None
        self._dropped: set[str] = set()
        self._response_type: Any = None
        self._options: dict[str, Any] = {}

    # --- one attempt -------------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Completion:
        """One attempt; see :class:`~heartloop.backends.base.Backend`.

        Raises:
            BackendError: a leaf of it, by cause.
            UsageError: closed, or used from a second event loop.
        """
        body = request_body(request)
        client = await self._connected()
        start = time.perf_counter()
        failure: BackendError | None = None
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._post(client, body)
            return completion_of(decode(response), seconds=time.perf_counter() - start)
        except BackendError as error:
            failure = error
        except TimeoutError:
            failure = self._too_slow()
        if isinstance(failure, ModelNotFound):
            failure = await self._with_known_models(failure)
        # Raised out here, so that nothing with headers or a quoted key hangs on to it as its context.
        raise failure

    async def _post(self, client: Any, body: dict[str, Any]) -> bytes:
        """The body of a successful answer, after leaving out what the model refuses."""
        for _ in range(_MAX_ADAPTATIONS):
            sent = self._adapted(body)
            status, headers, content = await self._send(client, sent)
            self.rate_limits = rate_limits(headers)
            if status < 300:
                error = error_in_success(content)
                if error is None:
                    return content
                status, content = error
            refusal = ErrorBody.of(content)
            parameter = refused_parameter(status, refusal)
            if parameter is None or not self._give_up(parameter, sent):
                break
        raise from_status(status, headers, refusal, where=self._where, redact=self._redact)

    async def _send(self, client: Any, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        """Status, headers and content of the answer. Raises BackendError where there is none."""
        failure: BackendError | None
        try:
            response = await client.post(
                "/chat/completions", cast_to=self._response_type, body=body, options=self._options
            )
            return response.status_code, response.headers, response.content
        except Exception as error:
            answer = getattr(error, "response", None)
            if answer is not None:  # openai's APIStatusError
                return answer.status_code, answer.headers, answer.content
            if isinstance(error, UnicodeEncodeError | TypeError | ValueError | RecursionError):
                failure = BadRequest(
                    f"the request can't be written as JSON: {self._redact(str(error))[:200]}"
                )
            else:
                failure = from_connection(error, where=self._where, redact=self._redact)
            if failure is None:
                raise
        raise failure

    # --- parameters that models refuse -------------------------------------------------------------------

    def _adapted(self, body: dict[str, Any]) -> dict[str, Any]:
        if not (self._rename_max_tokens or self._dropped):
            return body
        adapted = {name: value for name, value in body.items() if name not in self._dropped}
        if self._rename_max_tokens:
            adapted["max_completion_tokens"] = adapted.pop("max_tokens")
        return adapted

    def _give_up(self, parameter: str, sent: dict[str, Any]) -> bool:
        """Stop sending ``parameter``. False where that is not possible: the error is then the caller's."""
        if parameter == "max_tokens" and parameter in sent:
            self._rename_max_tokens = True
        elif parameter in DROPPABLE and (parameter in sent or parameter == "top_logprobs"):
            gone = {"logprobs", "top_logprobs"} if "logprobs" in parameter else {parameter}
            if not gone - self._dropped:
                # Another call in flight has learned it meanwhile; this one was sent before.
                return bool(gone & sent.keys())
            self._dropped |= gone
            logger.warning("%s refuses %s: left out from now on", self._where, parameter)
        else:
            return False
        return True

    # --- what the server knows ---------------------------------------------------------------------------

    async def _model_names(self) -> list[str]:
        try:
            async with asyncio.timeout(5.0):
                response = await self._client.get("/models", cast_to=self._response_type)
            models = decode(response.content)["data"]
            return sorted(m["id"] for m in models if isinstance(m["id"], str))
        except Exception:
            return []

    # --- the client's life -------------------------------------------------------------------------------

    async def warm_up(self) -> None:
        """Import the openai package and make the client, which takes about a second."""
        await self._connected()

    async def _open(self) -> Any:
        return self._make_client(await asyncio.to_thread(importlib.import_module, "openai"))

    def _make_client(self, openai: Any) -> Any:
        # openai 3 moved from httpx to httpx2, and cast_to wants the response class of the one in use.
        httpx = importlib.import_module("httpx2" if int(openai.VERSION.partition(".")[0]) >= 3 else "httpx")
        self._response_type = httpx.Response
        self._options = {"follow_redirects": False, **self._call_options(openai)}
        # The call as a whole is timed in complete(); 0 is aiohttp's word for no limit of connections.
        timeout = httpx.Timeout(None, connect=self._connect_seconds)
        limits = httpx.Limits(max_connections=0, keepalive_expiry=IDLE_SECONDS)
        return openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self.address.shown,
            max_retries=0,
            timeout=timeout,
            default_query=self.address.query or None,
            default_headers={"Authorization": f"Basic {basic}"} if (basic := self.address.basic) else None,
            http_client=openai.DefaultAioHttpClient(timeout=timeout, limits=limits),
        )

    def _call_options(self, openai: Any) -> dict[str, Any]:
        """The openai package's options of each chat call, beside the key as a bearer token."""
        return {}
