"""The OpenAI-compatible backend and vLLM's own against a real vLLM."""

from __future__ import annotations

import asyncio
import os
import re
import time

import aiohttp
import pytest

from heartloop.backends import OpenAIBackend, VllmBackend
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


EITHER = pytest.mark.parametrize("kind", [OpenAIBackend, VllmBackend])


@EITHER
def test_cancelled_calls_stop_at_the_server_within_a_second(kind: type[OpenAIBackend | VllmBackend]) -> None:
    async def main() -> float:
        backend = kind(MODEL, base_url=URL)
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


@EITHER
def test_answers_usage_logprobs_and_the_bound(kind: type[OpenAIBackend | VllmBackend]) -> None:
    async def main() -> None:
        backend = kind(MODEL, base_url=URL)
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


@EITHER
def test_errors_as_vllm_words_them(kind: type[OpenAIBackend | VllmBackend]) -> None:
    async def main() -> None:
        backend = kind(MODEL, base_url=URL)
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


def test_what_only_vllm_has() -> None:
    async def main() -> None:
        backend = VllmBackend(MODEL, base_url=URL)
        await backend.probe()
        await backend.prepare()
        assert backend.context_tokens is not None
        extra = {
            "prompt_logprobs": 2,
            "top_k": 5,
            "min_p": 0.01,
            "repetition_penalty": 1.1,
            "priority": -1,
            "structured_outputs": {"choice": ["yes", "no"]},
        }
        request = ask("Is 7 a prime number?", max_tokens=8, extra=extra)
        completion = await backend.complete(request)
        assert completion.text in ("yes", "no")
        assert completion.usage is not None
        assert completion.prompt_logprobs is not None
        assert len(completion.prompt_logprobs) == completion.usage.prompt_tokens
        assert completion.prompt_logprobs[0] is None
        rows = [row for row in completion.prompt_logprobs if row is not None]
        assert all(row.logprob <= 0 and 2 <= len(row.top) <= 3 for row in rows)
        assert "prime" in "".join(row.token for row in rows)
        assert await backend.count_tokens(request.messages) == completion.usage.prompt_tokens
        await backend.aclose()

    asyncio.run(main())


def test_metrics_count_what_the_prefix_cache_saved() -> None:
    async def main() -> None:
        backend = VllmBackend(MODEL, base_url=URL)
        text = f"{time.time_ns()} " + "green river " * 300
        before = await backend.metrics()
        for _ in range(2):
            completion = await backend.complete(ask(text, max_tokens=2))
        after = await backend.metrics()
        assert completion.usage is not None
        assert after.prefix_queries - before.prefix_queries >= 2 * completion.usage.prompt_tokens
        assert after.prefix_hits - before.prefix_hits >= completion.usage.prompt_tokens // 2
        assert after.cache_tokens is None or after.cache_tokens > 0
        await backend.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("field", ["structured_outputs", "guided_choice"])
def test_guided_decoding_holds_under_its_old_name_too(field: str) -> None:
    choice = ["red", "blue"]
    extra = {field: choice if field == "guided_choice" else {"choice": choice}}

    async def main() -> None:
        backend = VllmBackend(MODEL, base_url=URL)
        completion = await backend.complete(ask("Tell me a story.", max_tokens=8, extra=extra))
        assert completion.text in choice
        await backend.aclose()

    asyncio.run(main())
