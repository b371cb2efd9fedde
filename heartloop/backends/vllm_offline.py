"""vLLM inside this process: ``LLM.chat`` over a whole wave at once, in a thread of its own.

For machines that hold the model and have vLLM installed beside HeartLoop. A wave dies with the process; its
calls were paid to nobody, and are made again.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from heartloop.backends.base import bytes_bound
from heartloop.backends.batch_lines import line_of
from heartloop.backends.guided import without_old_names
from heartloop.backends.openai_errors import ErrorBody, from_status
from heartloop.backends.waves import Note, Outcome, WaveLine, WaveLook, complete_alone
from heartloop.backends.wire import LOWEST_LOGPROB, clean, request_body
from heartloop.errors import BackendError, BadRequest, BadResponse, UsageError
from heartloop.types import Completion, FinishReason, Message, Request, TokenLogprob, Usage

__all__ = ["VllmOffline"]

logger = logging.getLogger(__name__)

_CHAT = ("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
"""Fields of ``Sampling.extra`` that go to ``LLM.chat`` and not into its sampling parameters."""
_FINISH: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


class VllmOffline:
    """A vLLM ``LLM`` that answers waves.

    Args:
        name: the model as vLLM loads it.
        llm: an ``LLM`` that is there already; otherwise one is made on first use, with ``engine_args``.
        context_tokens: default: what the engine says, once it is there.
        engine_args: for ``vllm.LLM``: ``max_model_len``, ``tensor_parallel_size``, ``dtype``, ...

    Raises:
        UsageError: vLLM is not installed in this Python.
    """

    real: bool = True
    max_concurrency: int | None = None
    batch_priced = False

    def __init__(
        self,
        name: str,
        *,
        llm: Any = None,
        context_tokens: int | None = None,
        wave_calls: int = 10_000,
        poll_seconds: tuple[float, float] = (0.02, 1.0),
        api_key_env: str | None = None,
        **engine_args: Any,
    ) -> None:
        if not name:
            raise UsageError("the model's name is empty: vllm-offline/MODEL, as vllm.LLM takes it")
        if llm is None and importlib.util.find_spec("vllm") is None:
            raise UsageError(
                "vLLM is not installed in this Python: install it beside HeartLoop, or use vllm-batch/MODEL, "
                "which runs it by its command, or a vLLM server with vllm/MODEL and a base_url"
            )
        self.name = name
        self.context_tokens = context_tokens
        self.wave_calls = wave_calls
        self.wave_bytes = 1 << 40
        self.poll_seconds = poll_seconds
        self._llm = llm
        self._own = llm is None
        self._engine_args = engine_args
        self._thread: ThreadPoolExecutor | None = None
        self._running: dict[str, Future[list[tuple[str, Outcome]]]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return bytes_bound(messages)

    async def prepare(self) -> None:
        """Load the model; :attr:`context_tokens` is known then."""
        await self.warm_up()

    async def warm_up(self) -> None:
        """Load the model, which may take minutes."""
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        await asyncio.wrap_future(self._worker().submit(self._loaded))

    async def complete(self, request: Request) -> Completion:
        """A wave of one; see :class:`~heartloop.backends.base.Backend`."""
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        return await complete_alone(self, request, self._leaving)

    # --- a wave ---------------------------------------------------------------------------------------------

    def wave_line(self, id: str, request: Request) -> bytes:
        return line_of(id, request_body(request))

    async def submit(self, wave: str, lines: Sequence[WaveLine], note: Note) -> str:
        self._running[wave] = self._worker().submit(self._answer, list(lines))
        return wave

    async def find(self, wave: str, noted: Mapping[str, Any]) -> str | None:
        return wave if wave in self._running else None

    async def look(self, ref: str) -> WaveLook:
        working = self._running.get(ref)
        if working is None or working.cancelled():
            return WaveLook(True, cut=True)  # of a process that is gone
        if not working.done():
            return WaveLook(False)
        if (error := working.exception()) is not None:
            logger.error("vLLM broke on a wave", exc_info=error)
            return WaveLook(True, refused=BadResponse(f"vLLM broke: {type(error).__name__}: {error}"))
        return WaveLook(True)

    async def results(self, ref: str) -> AsyncIterator[tuple[str, Outcome]]:
        working = self._running.pop(ref, None)
        if working is None or working.cancelled():
            return
        for id, outcome in working.result():
            yield id, outcome

    async def cancel(self, ref: str) -> None:
        """One that runs can't be stopped; its answers are dropped."""
        if (working := self._running.get(ref)) is not None:
            working.cancel()

    async def aclose(self) -> None:
        """Waits for a wave that runs: the engine can't be left in the middle."""
        self._closed = True
        for working in self._running.values():
            working.cancel()
        thread, self._thread = self._thread, None
        llm, self._llm = self._llm, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)
        if llm is not None and self._own:
            # Its engine is a process that would be waited for, in vain, when this one ends.
            core = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
            if callable(stop := getattr(core, "shutdown", None)):
                await asyncio.to_thread(stop)

    # --- in the thread --------------------------------------------------------------------------------------

    def _worker(self) -> ThreadPoolExecutor:
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="heartloop-vllm")
        return self._thread

    def _loaded(self) -> Any:
        if self._llm is None:
            vllm = importlib.import_module("vllm")
            self._llm = vllm.LLM(model=self.name, **self._engine_args)
        if self.context_tokens is None:
            config = getattr(self._llm, "model_config", None) or self._llm.llm_engine.model_config
            self.context_tokens = int(config.max_model_len)
        return self._llm

    def _answer(self, lines: list[WaveLine]) -> list[tuple[str, Outcome]]:
        llm = self._loaded()
        groups: dict[str, tuple[dict[str, Any], list[tuple[WaveLine, Any]]]] = {}
        outcomes: list[tuple[str, Outcome]] = []
        for line in lines:
            extra = dict(line.request.sampling.extra)
            chat = {name: extra.pop(name) for name in _CHAT if name in extra}
            try:
                parameters = _parameters(line.request, extra)
            except Exception as error:
                outcomes.append((line.id, BadRequest(f"vLLM refuses the sampling settings: {error}")))
                continue
            groups.setdefault(repr(sorted(chat.items())), (chat, []))[1].append((line, parameters))
        for chat, members in groups.values():
            outcomes += self._chat(llm, chat, members)
        return outcomes

    def _chat(
        self, llm: Any, chat: dict[str, Any], members: list[tuple[WaveLine, Any]]
    ) -> list[tuple[str, Outcome]]:
        """Answer ``members`` together; where vLLM refuses one it refuses all, so halves are tried then."""
        messages = [[message.as_dict() for message in line.request.messages] for line, _ in members]
        parameters = [given for _, given in members]
        try:
            answers = llm.chat(messages, parameters, use_tqdm=False, **chat)
        except Exception as error:
            if "Dead" in type(error).__name__:  # the engine, not the request
                raise
            if len(members) == 1:
                return [(members[0][0].id, self._refusal(error))]
            half = len(members) // 2
            return self._chat(llm, chat, members[:half]) + self._chat(llm, chat, members[half:])
        return [
            (line.id, _completion(answer, self.name))
            for (line, _), answer in zip(members, answers, strict=True)
        ]

    def _refusal(self, error: Exception) -> BackendError:
        where = f"vLLM (model {self.name!r})"
        body = ErrorBody({"message": str(error)})
        return from_status(400, {}, body, where=where, redact=lambda text: text)


def _parameters(request: Request, extra: dict[str, Any]) -> Any:
    vllm = importlib.import_module("vllm")
    s = request.sampling
    request_body(request)  # refuses what is not the user's to set
    given: dict[str, Any] = {"max_tokens": s.max_tokens, **without_old_names(extra)}
    for name in ("temperature", "top_p", "seed", "logprobs"):
        if getattr(s, name) is not None:
            given[name] = getattr(s, name)
    if s.stop:
        given["stop"] = list(s.stop)
    if isinstance(structure := given.get("structured_outputs"), Mapping):
        module = importlib.import_module("vllm.sampling_params")
        if hasattr(module, "StructuredOutputsParams"):
            given["structured_outputs"] = module.StructuredOutputsParams(**structure)
        else:  # before 0.10.2
            del given["structured_outputs"]
            given["guided_decoding"] = module.GuidedDecodingParams(**structure)
    return vllm.SamplingParams(**given)


def _completion(answer: Any, model: str) -> Outcome:
    """The first output of a ``vllm.RequestOutput``."""
    output = answer.outputs[0]
    if output.finish_reason in ("abort", "error"):
        return BadResponse(f"vLLM (model {model!r}) broke off the answer")
    cached = getattr(answer, "num_cached_tokens", None) or 0
    prompt = len(answer.prompt_token_ids or ())
    return Completion(
        text=clean(output.text),
        finish_reason=_FINISH.get(output.finish_reason or "", "other"),
        usage=Usage(prompt, len(output.token_ids), 0, min(cached, prompt)),
        model=model,
        logprobs=_logprobs(output),
        prompt_logprobs=_prompt_logprobs(answer),
    )


def _logprobs(output: Any) -> tuple[TokenLogprob, ...] | None:
    if not output.logprobs:
        return None
    rows = []
    for token, found in zip(output.token_ids, output.logprobs, strict=False):
        rows.append(_row(found, token))
    return tuple(rows)


def _prompt_logprobs(answer: Any) -> tuple[TokenLogprob | None, ...] | None:
    """One row a prompt token, None for the first, as :attr:`Completion.prompt_logprobs` has them."""
    if not (rows := getattr(answer, "prompt_logprobs", None)):
        return None
    return tuple(
        _row(found, token) if found else None
        for token, found in zip(answer.prompt_token_ids, rows, strict=False)
    )


def _row(found: Mapping[int, Any], token: int) -> TokenLogprob:
    pairs = [(clean(str(entry.decoded_token or "")), _finite(entry.logprob)) for entry in found.values()]
    chosen = found[token]
    return TokenLogprob(clean(str(chosen.decoded_token or "")), _finite(chosen.logprob), tuple(pairs))


def _finite(value: float) -> float:
    return max(float(value), LOWEST_LOGPROB)
