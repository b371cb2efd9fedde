"""The OpenAI-compatible backend where things go well: what is sent, what is understood, how it ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from heartloop.backends import OpenAIBackend
from heartloop.errors import BadRequest, UsageError
from heartloop.types import Completion, Message, Request, Sampling, TokenLogprob, Usage
from tests.support.fault_server import FaultServer

MESSAGES = (Message("system", "Be brief."), Message("user", "What is 20 + 22?"))


def complete(server: FaultServer, *requests: Request, name: str = "test-model") -> list[Completion]:
    async def main() -> list[Completion]:
        backend = OpenAIBackend(name, base_url=server.base_url)
        try:
            return [await backend.complete(request) for request in requests]
        finally:
            await backend.aclose()

    return asyncio.run(main())


def answer(fault: str, **sampling: Any) -> Completion:
    with FaultServer([fault]) as server:
        return complete(server, Request("test-model", MESSAGES, Sampling(**sampling)))[0]


def test_an_answer_and_what_it_cost() -> None:
    completion = answer("ok")
    assert completion.text == r"I add the two numbers. The answer is \boxed{42}."
    assert completion.finish_reason == "stop"
    assert completion.usage == Usage(7, 9)
    assert completion.model == "test-model"
    assert completion.reasoning == ""
    assert 0 < completion.seconds < 5


def test_what_is_sent() -> None:
    parts = (
        {"type": "text", "text": "What is 1 + 1?"},
        {"type": "image_url", "image_url": {"url": "data:,"}},
    )
    sampling = Sampling(
        temperature=0.0, top_p=0.5, max_tokens=7, stop=("END",), seed=3, logprobs=2, extra={"priority": 1}
    )
    with FaultServer() as server:
        complete(
            server,
            Request("test-model", (Message("user", parts),), sampling),
            Request("test-model", MESSAGES, Sampling(temperature=None)),
        )
        full, bare = (call["body"] for call in server.calls)
    assert full == {
        "model": "test-model",
        "messages": [{"role": "user", "content": [dict(part) for part in parts]}],
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 3,
        "stop": ["END"],
        "logprobs": True,
        "top_logprobs": 2,
        "priority": 1,
    }
    assert bare.keys() == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize(
    ("fault", "reason", "text"),
    [
        ("length", "length", "I add the two"),
        ("content_filter", "content_filter", r"I add the two numbers. The answer is \boxed{42}."),
        ("refusal", "refusal", "I can't help with that."),
        ("null_content", "stop", ""),
        ("tool_calls", "other", ""),
        ("surrogate", "stop", "half ? of a pair"),
    ],
)
def test_how_an_answer_ended(fault: str, reason: str, text: str) -> None:
    completion = answer(fault)
    assert (completion.finish_reason, completion.text) == (reason, text)


def test_reasoning_is_apart_and_counted() -> None:
    completion = answer("reasoning")
    assert completion.reasoning == "Let me think."
    assert "think" not in completion.text
    assert completion.usage == Usage(7, 12, reasoning_tokens=3, cached_tokens=2)
    hidden = answer("hidden_reasoning")
    assert hidden.usage == Usage(7, 309, reasoning_tokens=300)
    parts = answer("parts")
    assert (parts.reasoning, parts.text[:5]) == ("Hm.", "I add")


@pytest.mark.parametrize("fault", ["no_usage", "bad_usage"])
def test_unknown_usage_is_unknown_not_zero(fault: str) -> None:
    assert answer(fault).usage is None


def test_logprobs() -> None:
    completion = answer("ok", logprobs=2)
    assert completion.logprobs is not None
    assert len(completion.logprobs) == 9
    assert completion.logprobs[0] == TokenLogprob("I", -0.5, (("I0", -1.0), ("I1", -2.0)))
    assert answer("nan", logprobs=0).logprobs == (TokenLogprob("a", -9999.0),)


# --- parameters that models refuse -----------------------------------------------------------------------


def test_refused_parameters_are_learned_once(caplog: pytest.LogCaptureFixture) -> None:
    refuses = ("max_tokens", "temperature", "top_p", "seed", "logprobs", "stop")
    sampling = Sampling(temperature=0.5, top_p=0.9, seed=1, logprobs=1, stop=("x",), max_tokens=50)
    request = Request("thinker", MESSAGES, sampling)
    with FaultServer(refuses=refuses) as server:
        first, second = complete(server, request, request, name="thinker")
        assert first.text == second.text
        assert len(server.calls) == len(refuses) + 2
        assert server.calls[-1]["body"].keys() == {"model", "messages", "max_completion_tokens"}
        assert server.calls[-1]["body"]["max_completion_tokens"] == 50
    assert caplog.text.count("refuses temperature") == 1


def test_calls_side_by_side_learn_together() -> None:
    async def main(server: FaultServer) -> None:
        backend = OpenAIBackend("thinker", base_url=server.base_url)
        request = Request("thinker", MESSAGES, Sampling(temperature=0.5))
        await asyncio.gather(*(backend.complete(request) for _ in range(8)))
        await backend.aclose()

    with FaultServer(refuses=("max_tokens", "temperature"), delay_ms=(1, 20)) as server:
        asyncio.run(main(server))
        assert sum(call["fault"] == "ok" for call in server.calls) == 8


@pytest.mark.parametrize(
    "name", ["o1", "o3-mini", "o4-mini-2025-04-16", "gpt-5", "gpt-5-nano", "openai/gpt-5.1"]
)
def test_known_reasoning_models_start_with_the_right_name(name: str) -> None:
    with FaultServer() as server:
        complete(server, Request(name, MESSAGES), name=name)
        assert "max_tokens" not in server.calls[0]["body"]


@pytest.mark.parametrize("name", ["gpt-4o", "olmo-3", "o1x", "my-gpt-50"])
def test_other_models_do_not(name: str) -> None:
    with FaultServer() as server:
        complete(server, Request(name, MESSAGES), name=name)
        assert "max_tokens" in server.calls[0]["body"]


def test_a_refused_field_of_the_users_own_is_an_error() -> None:
    request = Request("test-model", MESSAGES, Sampling(extra={"reasoning_effort": "high"}))
    with FaultServer(refuses=("reasoning_effort",)) as server:
        with pytest.raises(BadRequest, match="reasoning_effort"):
            complete(server, request)
        assert len(server.calls) == 1


def test_the_bound_of_tokens_is_never_given_up() -> None:
    with FaultServer(refuses=("max_tokens", "max_completion_tokens")) as server:
        with pytest.raises(BadRequest, match="max_completion_tokens"):
            complete(server, Request("test-model", MESSAGES))
        assert len(server.calls) == 2


# --- connections -----------------------------------------------------------------------------------------


def test_connections_are_kept() -> None:
    with FaultServer() as server:
        complete(server, *(Request("test-model", (Message("user", f"What is {n} + 1?"),)) for n in range(5)))
        assert server.connections_made == 1


def test_connections_are_not_capped() -> None:
    async def main(server: FaultServer) -> None:
        backend = OpenAIBackend("test-model", base_url=server.base_url)
        calls = [asyncio.create_task(backend.complete(Request("test-model", MESSAGES))) for _ in range(120)]
        # httpx and aiohttp both stop at 100 unless told not to.
        await until(lambda: server.running == 120)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await backend.aclose()

    with FaultServer(["hang"] * 120) as server:
        asyncio.run(main(server))


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_cancelling_hangs_up_at_once(fault: str) -> None:
    async def main(server: FaultServer) -> float:
        backend = OpenAIBackend("test-model", base_url=server.base_url)
        calls = [asyncio.create_task(backend.complete(Request("test-model", MESSAGES))) for _ in range(8)]
        await until(lambda: server.running == 8)
        start = time.perf_counter()
        for call in calls:
            call.cancel()
        await until(lambda: server.running == 0)
        seconds = time.perf_counter() - start
        assert [type(r) for r in await asyncio.gather(*calls, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 8
        await backend.complete(Request("test-model", MESSAGES))  # and the backend is as good as before
        await backend.aclose()
        return seconds

    with FaultServer([fault] * 8) as server:
        assert asyncio.run(asyncio.wait_for(main(server), 20)) < 0.5
        assert server.count("cancelled") == 8


def test_one_loop_and_one_life() -> None:
    with FaultServer() as server:
        backend = OpenAIBackend("test-model", base_url=server.base_url)
        request = Request("test-model", MESSAGES)

        async def main() -> None:
            await backend.complete(request)
            await backend.aclose()
            await backend.aclose()
            with pytest.raises(UsageError, match="closed"):
                await backend.complete(request)

        asyncio.run(main())
        second = OpenAIBackend("test-model", base_url=server.base_url)

        async def other_loop() -> None:
            with pytest.raises(UsageError, match="another event loop"):
                await second.complete(request)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(second.complete(request))
        asyncio.run(other_loop())
        loop.run_until_complete(second.aclose())
        loop.close()


def test_importing_is_light() -> None:
    code = "import sys, heartloop.backends; print([m for m in ('openai', 'aiohttp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]", done.stderr


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 (the server lives in another thread)
            await asyncio.sleep(0.005)
