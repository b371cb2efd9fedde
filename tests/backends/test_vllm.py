"""The OpenAI-compatible backend against a real vLLM."""

from __future__ import annotations

import asyncio
import os
import re
import time

import aiohttp
import pytest

from heartloop.backends import OpenAIBackend
from heartloop.errors import BadRequest, ContextOverflow, ModelNotFound
from heartloop.types import Message, Request, Sampling

URL = os.environ.get("HEARTLOOP_VLLM_URL", "")
MODEL = os.environ.get("HEARTLOOP_VLLM_MODEL", "smollm2-135m")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not URL, reason="HEARTLOOP_VLLM_URL names no vLLM server (http://HOST:PORT/v1)"),
]


def ask(text: str, **sampling: object) -> Request:
    return Request(MODEL, (Message("user", text),), Sampling(**sampling))  # type: ignore[arg-type]


async def running(session: aiohttp.ClientSession) -> int:
    """The server's own gauge."""
    async with session.get(URL.removesuffix("/v1").rstrip("/") + "/metrics") as response:
        found = re.search(r"^vllm:num_requests_running\{.*\} (\S+)$", await response.text(), re.MULTILINE)
    assert found
    return int(float(found[1]))


def test_cancelled_calls_stop_at_the_server_within_a_second() -> None:
    async def main() -> float:
        backend = OpenAIBackend(MODEL, base_url=URL)
        async with aiohttp.ClientSession() as session:
            endless = {"ignore_eos": True}
            calls = [
                asyncio.create_task(backend.complete(ask(f"Story {n}", max_tokens=1500, extra=endless)))
                for n in range(8)
            ]
            async with asyncio.timeout(30):
                while await running(session) < 8:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            start = time.perf_counter()
            for call in calls:
                call.cancel()
            async with asyncio.timeout(10):
                while await running(session):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            seconds = time.perf_counter() - start
            await asyncio.wait(calls)
        await backend.aclose()
        return seconds

    seconds = asyncio.run(main())
    print(f"vllm:num_requests_running was 0 again after {seconds:.2f} s")
    assert seconds < 1


def test_answers_usage_logprobs_and_the_bound() -> None:
    async def main() -> None:
        backend = OpenAIBackend(MODEL, base_url=URL)
        for text in ("What is 2 + 3?", "Grüße, 世界! 🎉", "1234567890" * 10):
            request = ask(text, max_tokens=5, logprobs=2, seed=1, stop=("\n\n",))
            completion = await backend.complete(request)
            assert completion.usage is not None
            assert 0 < completion.usage.prompt_tokens <= backend.prompt_tokens_bound(request.messages)
            assert completion.usage.completion_tokens <= 5
            assert completion.finish_reason in ("stop", "length")
            assert completion.logprobs is not None
            assert all(len(row.top) >= 2 and row.logprob <= 0 for row in completion.logprobs)
        await backend.aclose()

    asyncio.run(main())


def test_errors_as_vllm_words_them() -> None:
    async def main() -> None:
        backend = OpenAIBackend(MODEL, base_url=URL)
        with pytest.raises(ContextOverflow):
            await backend.complete(ask("word " * 5000, max_tokens=5))
        with pytest.raises(ContextOverflow):
            await backend.complete(ask("hi", max_tokens=1_000_000))
        with pytest.raises(BadRequest, match="temperature"):
            await backend.complete(ask("hi", temperature=-1.0))
        with pytest.raises(ModelNotFound, match=MODEL):
            await backend.complete(Request("no-such-model", (Message("user", "hi"),)))
        await backend.aclose()

    asyncio.run(main())
