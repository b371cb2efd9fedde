"""What a real llama.cpp server counts, and why no backend asks it for several answers at once."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from typing import Any

import pytest

from heartloop import HeartLoop, Model
from heartloop.backends import OpenAIBackend, VllmBackend
from heartloop.types import Message, Request, Sampling

URL = os.environ.get("HEARTLOOP_LLAMACPP_URL", "")
MODEL = "smollm2-135m"
COUNT = "Count from one to a hundred in words."
GO_ON = {"ignore_eos": True}

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not URL, reason="HEARTLOOP_LLAMACPP_URL names no llama.cpp server (http://HOST:PORT/v1)"
    ),
]


def post(**body: Any) -> dict[str, Any]:
    asked = {
        "model": MODEL,
        "messages": [{"role": "user", "content": COUNT}],
        "logprobs": True,
        **GO_ON,
        **body,
    }
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{URL}/chat/completions", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        data: dict[str, Any] = json.load(answer)
    return data


@pytest.mark.parametrize("field", ["n", "n_cmpl"])
def test_its_usage_is_wrong_for_several_answers(field: str) -> None:
    """Should this ever fail, the server has learned to count; nothing here depends on that it can't."""
    answer = post(max_tokens=12, temperature=0.9, **{field: 3})
    made = sum(len(choice["logprobs"]["content"]) for choice in answer["choices"])
    assert (len(answer["choices"]), made) == (3, 36)
    assert answer["usage"]["completion_tokens"] < made


@pytest.mark.parametrize("kind", [OpenAIBackend, VllmBackend])
def test_usage_is_what_was_generated(kind: type[OpenAIBackend] | type[VllmBackend]) -> None:
    async def main() -> None:
        backend = kind(MODEL, base_url=URL)
        sampling = Sampling(max_tokens=12, temperature=0.9, logprobs=0, extra=GO_ON)
        request = Request(MODEL, (Message("user", COUNT),), sampling)
        answers = await asyncio.gather(*(backend.complete(request) for _ in range(3)))
        await backend.aclose()
        for answer in answers:
            assert answer.usage is not None
            assert answer.logprobs is not None
            assert answer.usage.completion_tokens == len(answer.logprobs) == 12
            assert answer.usage.prompt_tokens > len(COUNT.split())

    asyncio.run(main())


def test_a_loop_with_branches_pays_for_each_of_them() -> None:
    """Where others send one request with n, HeartLoop sends n requests, and all their tokens count."""
    model = Model(MODEL, base_url=URL, sampling=Sampling(max_tokens=12, extra=GO_ON))
    with HeartLoop(model, strategy="resample", width=3, max_rounds=1) as loop:
        solution = loop.solve_sync(COUNT)
    assert (solution.calls, len(solution.attempts)) == (3, 3)
    assert solution.usage.completion_tokens == 36
