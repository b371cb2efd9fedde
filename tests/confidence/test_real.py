"""Log-probabilities as a real vLLM gives them: of answers, cut answers, prompts, the whole vocabulary."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from heartloop.backends import VllmBackend
from heartloop.confidence import WHOLE_VOCABULARY, confidence_of
from heartloop.judges.follow_up import DISSATISFIED, SATISFIED, log_odds
from heartloop.types import Completion, ConfidenceCut, Message, Request, Sampling

T = TypeVar("T")
URL = os.environ.get("HEARTLOOP_VLLM_URL", "")
MODEL = os.environ.get("HEARTLOOP_VLLM_MODEL", "smollm2-135m")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not URL, reason="HEARTLOOP_VLLM_URL names no vLLM server (http://HOST:PORT/v1)"),
]
QUESTION = "Tom has 3 apples and buys 4 more. How many has he?"
ASK = Request(
    MODEL, (Message("user", QUESTION),), Sampling(temperature=0.7, max_tokens=48, seed=1, logprobs=20)
)


def with_backend(work: Callable[[VllmBackend], Awaitable[T]]) -> T:
    async def main() -> T:
        backend = VllmBackend(MODEL, base_url=URL)
        try:
            async with asyncio.timeout(120):
                return await work(backend)
        finally:
            await backend.aclose()

    return asyncio.run(main())


def test_answers_come_with_twenty_alternatives_and_can_be_cut() -> None:
    async def work(backend: VllmBackend) -> tuple[Completion, Completion]:
        whole = await backend.complete(ASK)
        sampling = replace(ASK.sampling, cut=ConfidenceCut(16, 1000.0))
        return whole, await backend.complete(replace(ASK, sampling=sampling))

    whole, cut = with_backend(work)
    summary = confidence_of(whole.logprobs, alternatives=20)
    assert summary is not None
    assert whole.usage is not None
    assert summary.alternatives == 20
    assert summary.tokens == whole.usage.completion_tokens
    assert 0 < summary.lowest <= summary.mean
    assert cut.finish_reason == "cut"
    assert cut.usage is not None
    assert 16 <= cut.usage.completion_tokens < 48


def test_a_prompts_last_turn_has_a_likelihood() -> None:
    async def work(backend: VllmBackend) -> list[Completion]:
        extra = {"prompt_logprobs": 0, "add_generation_prompt": False}
        sampling = Sampling(temperature=0.0, max_tokens=1, extra=extra)
        turns = [(Message("user", QUESTION), Message("assistant", "He has 7.")) for _ in range(2)]
        said = (SATISFIED, DISSATISFIED)
        return [
            await backend.complete(Request(MODEL, (*turn, Message("user", last)), sampling))
            for turn, last in zip(turns, said, strict=True)
        ]

    one, other = with_backend(work)
    assert one.prompt_logprobs is not None
    assert one.usage is not None
    assert len(one.prompt_logprobs) == one.usage.prompt_tokens
    assert -60 < log_odds(one, other) < 60
    assert log_odds(one, other) == -log_odds(other, one)


def test_the_whole_vocabulary_gives_self_certainty() -> None:
    sampling = replace(ASK.sampling, max_tokens=1, logprobs=WHOLE_VOCABULARY)
    completion = with_backend(lambda backend: backend.complete(replace(ASK, sampling=sampling)))
    summary = confidence_of(completion.logprobs, alternatives=WHOLE_VOCABULARY)
    assert summary is not None
    assert summary.alternatives > 10_000
    assert summary.self_certainty is not None
    assert summary.self_certainty > 0
