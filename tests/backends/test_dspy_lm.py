"""``dspy.LM`` as a backend: one attempt each, what is sent and understood, errors by cause."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from heartloop import HeartLoop, Model, errors
from heartloop.backends import DspyBackend, make_backend
from heartloop.errors import BackendError, UsageError
from heartloop.types import Completion, Message, Request, Sampling, TokenLogprob, Usage
from tests.support.causes import KEY, assert_cause, causes
from tests.support.fault_server import FaultServer
from tests.support.loopback import nobody_listening

dspy = pytest.importorskip("dspy", reason="dspy is not installed (make test-dspy has it)")

ENGINES = ["lm15", "litellm"]
ASK = (Message("user", "What is 20 + 22?"),)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(server: FaultServer, engine: str, **settings: Any) -> DspyBackend:
    settings.setdefault("num_retries", 5)  # which must not be used
    lm = dspy.LM("openai/test-model", api_base=server.base_url, api_key=KEY, engine=engine, **settings)
    return DspyBackend(lm)


def complete(backend: DspyBackend, *requests: Request, **sampling: Any) -> list[Completion]:
    async def main() -> list[Completion]:
        try:
            asked = requests or (Request(backend.name, ASK, Sampling(**sampling)),)
            return [await backend.complete(request) for request in asked]
        finally:
            await backend.aclose()

    return asyncio.run(main())


def test_an_answer_and_what_it_cost(engine: str) -> None:
    with FaultServer() as server:
        (completion,) = complete(make(server, engine))
    assert completion.text == r"I add the two numbers. The answer is \boxed{42}."
    assert completion.usage == Usage(5, 9)
    assert completion.finish_reason == "stop"
    assert completion.model == "test-model"
    assert completion.reasoning == ""


def test_what_is_sent(engine: str) -> None:
    parts = ({"type": "text", "text": "What is 1 + 1?"}, {"type": "text", "text": "Be brief."})
    sampling = Sampling(
        temperature=0.25, max_tokens=7, stop=("END",), seed=3, logprobs=2, extra={"priority": 1}
    )
    with FaultServer() as server:
        backend = make(server, engine, temperature=0.9, max_tokens=999, top_p=0.5, frequency_penalty=0.1)
        turns = (Message("system", "Be brief."), Message("user", parts))
        complete(backend, Request(backend.name, turns, sampling))
        (call,) = server.calls
    body = call["body"]
    assert body.pop("max_completion_tokens", None) == 7 or body.pop("max_tokens") == 7
    assert body.pop("n", 1) == 1
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "Be brief." in str(body.pop("messages")[1])
    assert body == {
        "model": "test-model",
        "temperature": 0.25,
        "top_p": 0.5,  # the LM's own, where Sampling says nothing
        "frequency_penalty": 0.1,
        "stop": ["END"],
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "priority": 1,
    }
    assert call["headers"]["authorization"] == f"Bearer {KEY}"


def test_logprobs(engine: str) -> None:
    with FaultServer() as server:
        (completion,) = complete(make(server, engine), logprobs=2)
    assert completion.logprobs is not None
    assert completion.logprobs[0] == TokenLogprob("I", -0.5, (("I0", -1.0), ("I1", -2.0)))


@pytest.mark.parametrize(
    ("fault", "reason", "text", "usage"),
    [
        ("length", "length", "I add the two", Usage(5, 4)),
        ("content_filter", "content_filter", None, Usage(5, 9)),
        ("null_content", "stop", "", Usage(5, 9)),
        ("surrogate", "stop", "half ? of a pair", Usage(5, 9)),
        ("reasoning", "stop", None, Usage(5, 12, 3, 2)),
        ("hidden_reasoning", "stop", None, Usage(5, 309, 300)),
        ("no_usage", "stop", None, None),
    ],
)
def test_how_an_answer_ended_and_what_it_used(
    engine: str, fault: str, reason: str, text: str | None, usage: Usage | None
) -> None:
    with FaultServer([fault]) as server:
        (completion,) = complete(make(server, engine))
    assert (completion.finish_reason, completion.usage) == (reason, usage)
    if text is not None:
        assert completion.text == text
    if fault == "reasoning":
        assert completion.reasoning == "Let me think."


def test_a_refusal_is_one() -> None:  # LiteLLM drops it
    with FaultServer(["refusal"]) as server:
        (completion,) = complete(make(server, "lm15"))
    assert (completion.finish_reason, completion.text) == ("refusal", "I can't help with that.")


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    # LiteLLM makes answers of some of these, and other errors of others; truncated and not_http come below.
    causes(
        without=[
            *("409", "502", "504", "529", "context_length_llamacpp", "error_200", "truncated", "not_http"),
            *("bad_gzip", "no_choices", "no_message", "wrong_types", "not_object"),
        ]
    ),
)
def test_errors_have_their_cause_and_one_attempt_is_made(
    engine: str, fault: str, kind: type[BackendError], status: int | None
) -> None:
    with FaultServer([fault, "ok"]) as server:
        with pytest.raises(BackendError) as raised:
            complete(make(server, engine))
        assert len(server.calls) == 1
    assert_cause(raised.value, kind, status)


@pytest.mark.parametrize("fault", ["truncated", "not_http"])
def test_answers_that_broke_off_may_have_been_billed(engine: str, fault: str) -> None:
    with FaultServer([fault]) as server, pytest.raises(BackendError) as raised:
        complete(make(server, engine))
    assert isinstance(raised.value, errors.ConnectionLost | errors.BadResponse)
    assert raised.value.may_have_been_billed


def test_retry_after_is_heard(engine: str) -> None:
    with FaultServer(["429-seconds"]) as server, pytest.raises(errors.RateLimited) as raised:
        complete(make(server, engine))
    assert raised.value.retry_after == 2


def test_nothing_listens(engine: str) -> None:
    with nobody_listening() as url, pytest.raises(errors.ConnectionFailed):
        complete(DspyBackend(dspy.LM("openai/m", api_base=url, api_key="sk-none", engine=engine)))


def test_cancelling_closes_the_connection(engine: str) -> None:
    async def main() -> None:
        backend = make(server, engine)
        call = asyncio.create_task(backend.complete(Request(backend.name, ASK)))
        while not server.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while server.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await backend.aclose()

    with FaultServer(["hang"]) as server:
        asyncio.run(asyncio.wait_for(main(), 20))
        assert server.count("cancelled") == 1


def test_a_time_limit_holds(engine: str) -> None:
    with FaultServer(["hang"]) as server:
        lm = dspy.LM("openai/test-model", api_base=server.base_url, api_key=KEY, engine=engine)
        with pytest.raises(errors.CallTimeout):
            complete(DspyBackend(lm, timeout=0.3))


def test_the_lm_itself_is_left_alone(engine: str) -> None:
    with FaultServer() as server:
        lm = dspy.LM(
            "openai/test-model",
            api_base=server.base_url,
            api_key=KEY,
            engine=engine,
            cache=True,
            num_retries=3,
        )
        with dspy.track_usage() as tracker:
            complete(DspyBackend(lm))
            complete(DspyBackend(lm))  # the same again: not from a cache
        assert len(server.calls) == 2
    assert (lm.cache, lm.num_retries, lm.history) == (True, 3, [])
    assert tracker.get_total_tokens()["openai/test-model"]["total_tokens"] == 28


def test_what_can_not_be_asked_is_a_bad_request() -> None:
    with FaultServer() as server:
        with pytest.raises(errors.BadRequest, match="temperature"):
            complete(make(server, "lm15"), temperature=9.0)
        with pytest.raises(errors.BadRequest, match="can't set n"):
            complete(make(server, "lm15"), extra={"n": 2})
        assert server.calls == []


def test_only_an_lm_will_do() -> None:
    with pytest.raises(UsageError, match=r"dspy\.LM is wanted"):
        DspyBackend("openai/gpt")
    with pytest.raises(UsageError, match="MY_KEY"):
        make_backend("dspy/openai/gpt", api_key_env="MY_KEY")


def test_an_lm_with_an_engine_of_its_own() -> None:
    """DSPy's own fake for tests of programs."""
    from dspy.utils import DummyLM

    lm = DummyLM([{"answer": "blue"}])
    (completion,) = complete(DspyBackend(lm))
    assert "blue" in completion.text


def test_a_loop_by_object_and_by_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.INFO, "heartloop")
    with FaultServer(["500"], api_key=KEY) as server:
        lm = dspy.LM("openai/test-model", api_base=server.base_url, api_key=KEY)
        named = Model("dspy/openai/test-model", base_url=server.base_url, api_key_env="MY_KEY")
        for model in (Model(backend=DspyBackend(lm)), named):
            with HeartLoop(model, strategy="single_pass") as loop:
                solution = loop.solve_sync("What is 20 + 22?")
            assert (solution.answer, solution.usage.total_tokens > 0) == ("42", True)
        assert server.count("answered") == 3
    assert KEY not in caplog.text


def test_an_lm_with_a_forward_of_its_own() -> None:
    """The plug-ins of DSPy up to 3.4: what they return is OpenAI's format."""
    from dspy.dsp.utils.utils import dotdict

    asked: list[dict[str, Any]] = []

    class Own(dspy.BaseLM):  # type: ignore[misc]
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            asked.append({"messages": messages, **kwargs})
            message = {"role": "assistant", "content": r"\boxed{42}"}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
            return dotdict(model="own-1", choices=[choice], usage=usage)

        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return self.forward(prompt, messages, **kwargs)

    (completion,) = complete(DspyBackend(Own("own")), max_tokens=9)
    assert (completion.text, completion.finish_reason, completion.model) == (r"\boxed{42}", "length", "own-1")
    assert completion.usage == Usage(11, 3)
    assert asked[0]["messages"] == [{"role": "user", "content": "What is 20 + 22?"}]
    assert 9 in (asked[0].get("max_tokens"), asked[0].get("max_completion_tokens"))
