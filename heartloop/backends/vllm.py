"""vLLM's server on a path that costs little: aiohttp and orjson, and nothing in between.

What vLLM has beyond OpenAI's format goes in through ``Sampling.extra`` (``priority``,
``prompt_logprobs``, ``top_k``, ``min_p``, ``repetition_penalty``, ``structured_outputs`` or ``guided_json``,
``chat_template_kwargs``, ...: docs.vllm.ai/en/latest/serving/openai_compatible_server.html) and comes back
where there is a place for it. A request that the client leaves is aborted at the server, since leaving
closes its connection.

:class:`VllmBackend` is one server; :class:`~heartloop.backends.replicas.ReplicaSet` several under one name.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import orjson

from heartloop.backends.address import Address, usable_key
from heartloop.backends.body import content_of
from heartloop.backends.guided import under_both_names
from heartloop.backends.openai_errors import ErrorBody, from_connection, from_status
from heartloop.backends.server import IDLE_SECONDS, ServerBackend
from heartloop.backends.stream import STREAMED, StreamedAnswer
from heartloop.backends.vllm_metrics import VllmMetrics
from heartloop.backends.wire import (
    completion_of,
    decode,
    error_in_success,
    request_body,
)
from heartloop.confidence import ConfidenceWatch
from heartloop.errors import (
    BackendError,
    BadRequest,
    BadResponse,
    CallTimeout,
    ModelNotFound,
    UsageError,
)
from heartloop.types import Completion, Message, Request

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

__all__ = ["VllmBackend"]

_LOOK_SECONDS = 5.0
"""Limit for what is asked on the side: health, metrics, the list of models."""

_STALE_SECONDS = 10.0
"""After which a look at the gauges says nothing any more."""

Headers = Mapping[str, str]


class VllmBackend(ServerBackend):
    """One model at one vLLM server. Used from one event loop, that of the first call."""

    cuts: bool = True

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        api_key_env: str | None = None,
        api_key: str | None = None,
        timeout: float | None = None,
        idle_timeout: float = 60.0,
        context_tokens: int | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        """
        Args:
            name: the model, as the server knows it.
            base_url: ``http://HOST:PORT/v1``. A query is sent with every request; ``user:password@``
                becomes basic authentication. A proxy is used where the environment names one for it
                (HTTP_PROXY, NO_PROXY, ...).
            api_key_env: the environment variable that holds the server's ``--api-key``, if it has one.
            api_key: the key itself, in place of the variable.
            timeout: seconds for the whole call, from connecting to the last byte; None: as long as the
                caller waits (the gateway has a limit for each attempt).
            idle_timeout: seconds for which an answer that is streamed may pause once it has begun.
            context_tokens: the model's context length; :meth:`prepare` asks the server for it.

        Raises:
            UsageError: a base_url that is none, or a variable without a key.
        """
        key = "" if api_key is None else usable_key(api_key, "api_key")
        if api_key is None and api_key_env is not None:
            key = usable_key(os.environ.get(api_key_env, ""), api_key_env)
            if not key:
                raise UsageError(f"the environment variable {api_key_env} holds no API key")
        super().__init__(
            name,
            Address.of(base_url),
            key,
            timeout=timeout,
            context_tokens=context_tokens,
            max_concurrency=max_concurrency,
        )
        if not idle_timeout > 0:
            raise UsageError(f"idle_timeout must be a positive number of seconds, not {idle_timeout!r}")
        self._idle_timeout = idle_timeout
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        elif self.address.basic:
            self._headers["Authorization"] = f"Basic {self.address.basic}"
        self._seen: VllmMetrics | None = None
        self._looked_at = -math.inf
        self._look: asyncio.Task[None] | None = None
        self._watched = self._refused = False
        self._chat: URL | None = None

    # --- one attempt -------------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Completion:
        """One attempt; see :class:`~heartloop.backends.base.Backend`.

        Raises:
            BackendError: a leaf of it, by cause.
            UsageError: closed, or used from a second event loop.
        """
        session = self._client or await self._connected()
        if self._closed or self._loop is not asyncio.get_running_loop():
            await self._connected()  # says what is wrong
        if self._watched:
            self._look_again()
        body = under_both_names(request_body(request))
        start = time.perf_counter()
        failure: BackendError
        try:
            content = dumped(body)
            async with asyncio.timeout(self._timeout):
                if request.sampling.cut is not None:
                    return await self._watched_answer(
                        session, body, ConfidenceWatch(request.sampling.cut), start
                    )
                status, headers, answer = await self._send(session.post, self._chat, content)
            return self._read(status, headers, answer, start)
        except BackendError as error:
            failure = error
        except TimeoutError:
            failure = self._too_slow()
        self._refused = failure.ends_run
        if isinstance(failure, ModelNotFound):
            failure = await self._with_known_models(failure)
        # Raised out here, so that nothing with headers or a quoted key hangs on to it as its context.
        raise failure

    def _read(self, status: int, headers: Headers, content: bytes, start: float) -> Completion:
        """What an answer that is not streamed says. Raises BackendError where that is an error."""
        if status < 300:
            error = error_in_success(content)
            if error is None:
                return completion_of(decode(content), seconds=time.perf_counter() - start)
            status, content = error
        raise self._error(status, headers, content)

    async def _send(
        self, method: Callable[..., Any], url: URL | str | None, content: bytes | None = None
    ) -> tuple[int, Headers, bytes]:
        """Status, headers and content of the answer. Raises BackendError where there is none."""
        failure: BackendError | None
        try:
            async with method(url, data=content, allow_redirects=False) as response:
                content = await content_of(response, self._where)
                return response.status, response.headers, content
        except BackendError:
            raise
        except Exception as error:
            failure = from_connection(error, where=self._where, redact=self._redact)
            if failure is None:
                raise
        raise failure

    async def _watched_answer(
        self, session: aiohttp.ClientSession, body: dict[str, Any], watch: ConfidenceWatch, start: float
    ) -> Completion:
        """The answer, streamed, and left where ``watch`` says so: the server aborts what nobody reads."""
        assert self._chat is not None  # connected
        answer = StreamedAnswer(watch)
        asked = dumped(body | STREAMED)
        idle = asyncio.timeout(None)
        failure: BackendError | None
        try:
            async with session.post(self._chat, data=asked, allow_redirects=False) as response:
                encoded = "Content-Encoding" in response.headers
                if response.status >= 300 or encoded or "json" in response.content_type:
                    # An error; or one that does not stream, and can't be left in the middle.
                    content = await content_of(response, self._where)
                    if not (encoded and content.lstrip().startswith(b"data:")):
                        return self._read(response.status, response.headers, content, start)
                    answer.feed(content)
                else:
                    clock = asyncio.get_running_loop().time
                    async with idle:
                        async for content in response.content.iter_any():
                            if answer.feed(content):
                                break
                            idle.reschedule(clock() + self._idle_timeout)
                    if answer.cut:
                        response.close()
                if answer.error is None:
                    return answer.completion(start=start)
                failure = self._error(*answer.error)
        except BackendError:
            raise
        except Exception as error:
            if idle.expired():
                failure = CallTimeout(
                    f"{self._where}: the answer paused for more than {self._idle_timeout:g} s"
                )
            else:
                failure = from_connection(error, where=self._where, redact=self._redact)
            if failure is None:
                raise
        raise failure

    def _error(self, status: int, headers: Headers, content: bytes) -> BackendError:
        return from_status(status, headers, ErrorBody.of(content), where=self._where, redact=self._redact)

    # --- what the server knows ---------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Learn :attr:`context_tokens` (``max_model_len``) from the server, where it was not given.

        To be called before the first request is made up: what fits the context decides what is asked, so a
        length that became known in the middle of a run would make its record unrepeatable.

        Raises:
            BackendError: the server can't be asked, or does not have the model.
        """
        if self.context_tokens is not None:
            return
        models = {model["id"]: model for model in await self._models()}
        if self.name not in models:
            raise ModelNotFound(f"{self._where} does not exist there{self._known(sorted(models))}")
        length = models[self.name].get("max_model_len")
        if isinstance(length, int) and not isinstance(length, bool) and length > 0:
            self.context_tokens = length

    async def count_tokens(self, messages: tuple[Message, ...]) -> int:
        """The prompt's tokens, template included, as the server's tokenizer counts them.

        Raises:
            BackendError: it can't say.
        """
        body = {"model": self.name, "messages": [message.as_dict() for message in messages]}
        data = decode(await self._ask("/tokenize", dumped(body)))
        count = data.get("count") if isinstance(data, dict) else None
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise BadResponse(f"{self._where}: /tokenize gave no count")
        return count

    async def metrics(self) -> VllmMetrics:
        """The server's gauges and counters now.

        Raises:
            BackendError: it can't be asked, or has no ``/metrics``.
        """
        return VllmMetrics.parse(await self._ask("/metrics"))

    def queue(self) -> tuple[int, int] | None:
        """Requests running and waiting at the server as last seen, of others too; None if that is long ago.

        Asking makes this look at the gauges in the background, about once a second while there are calls.
        """
        self._watched = True
        self._look_again()
        if self._seen is None or time.monotonic() - self._looked_at > _STALE_SECONDS:
            return None
        return self._seen.running, self._seen.waiting

    def _look_again(self) -> None:
        if self._look is not None or self._client is None or time.monotonic() - self._looked_at < 1.0:
            return
        self._look = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            self._seen = await self.metrics()
        except BackendError:
            self._seen = None
        except UsageError:  # closed meanwhile
            pass
        finally:
            self._looked_at = time.monotonic()
            self._look = None

    async def probe(self) -> None:
        """Return if the server is up and fit to answer; if it has the model, where it last had not.

        Raises:
            BackendError: it is not, or not within seconds.
        """
        if self._refused:
            if self.name not in (names := sorted(model["id"] for model in await self._models())):
                raise ModelNotFound(f"{self._where} does not exist there{self._known(names)}")
            self._refused = False
            return
        try:
            await self._ask("/health")
        except ModelNotFound:  # another server of this format, or a proxy that hides it
            await self._models()

    async def _models(self) -> list[dict[str, Any]]:
        data = decode(await self._ask("/v1/models"))
        models = data.get("data") if isinstance(data, dict) else None
        if not isinstance(models, list):
            raise BadResponse(f"{self._where}: its list of models is none")
        return [m for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)]

    async def _ask(self, path: str, content: bytes | None = None) -> bytes:
        """What is at ``path`` (from the root, or under the base URL for ``/v1/...``)."""
        session = await self._connected()
        method = session.get if content is None else session.post
        failure: BackendError
        try:
            async with asyncio.timeout(min(_LOOK_SECONDS, self._timeout or _LOOK_SECONDS)):
                status, headers, answer = await self._send(method, self._url(path), content)
            if status < 300:
                return answer
            failure = self._error(status, headers, answer)
        except BackendError as error:
            failure = error
        except TimeoutError:
            failure = CallTimeout(f"{self._where}: no answer from {path} within seconds")
        raise failure

    async def _model_names(self) -> list[str]:
        try:
            return sorted(model["id"] for model in await self._models())
        except BackendError:
            return []

    def _url(self, path: str) -> str:
        shown = self.address.shown
        base = shown + path.removeprefix("/v1") if path.startswith("/v1/") else self.address.root + path
        return f"{base}?{urlencode(self.address.query)}" if self.address.query else base

    async def _open(self) -> aiohttp.ClientSession:
        # In a thread: it takes a quarter of a second, and the loop has others to serve.
        await asyncio.to_thread(importlib.import_module, "aiohttp")
        return self._make_session()

    def _make_session(self) -> aiohttp.ClientSession:
        import aiohttp
        from yarl import URL

        self._chat = URL(self._url("/v1/chat/completions"))
        parts = urlsplit(self.address.shown)
        proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            # The call as a whole is timed in complete().
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_seconds),
            headers=self._headers,
            skip_auto_headers=("Accept",),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            proxy=proxy,
        )

    async def aclose(self) -> None:
        self._closed = True
        if self._look is not None and self._loop is asyncio.get_running_loop():
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)
        await super().aclose()


def dumped(body: dict[str, Any]) -> bytes:
    """``body`` as JSON. Raises BadRequest for what JSON can't hold."""
    try:
        return orjson.dumps(body, default=_plain)
    except TypeError as error:
        why = str(error)[:200]
    raise BadRequest(f"the request can't be written as JSON: {why}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a request can't hold a {type(value).__name__}")
