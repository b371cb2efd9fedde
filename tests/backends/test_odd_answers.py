"""Answers that servers do send and no specification has, at every backend that reads chat completions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from heartloop.backends import AzureOpenAIBackend, Backend, DspyBackend, OpenAIBackend, VllmBackend
from heartloop.backends.batch_lines import outcome_in
from heartloop.backends.openai_errors import rate_limits
from heartloop.errors import BackendError, BadRequest, BadResponse, ConnectionLost, RateLimited, ServerError
from heartloop.types import Completion, ConfidenceCut, Message, Request, Sampling, TokenLogprob, Usage
from tests.support.causes import KEY
from tests.support.loopback import Handler, listening

Make = Callable[[str], Backend]
ASK = Request("m", (Message("user", "Hi"),), Sampling(max_tokens=8))
WATCHED = Request("m", ASK.messages, Sampling(max_tokens=8, logprobs=1, cut=ConfidenceCut(4, 0.001)))
TRUE = Usage(5, 2)


def through_dspy(url: str, engine: str = "lm15") -> Backend:
    dspy = pytest.importorskip("dspy", reason="dspy is not installed (make test-dspy has it)")
    return DspyBackend(dspy.LM("openai/m", api_base=url, api_key=KEY, engine=engine))


@pytest.fixture(params=["openai", "vllm", "dspy"])
def make(request: pytest.FixtureRequest) -> Make:
    makes: dict[str, Make] = {
        "openai": lambda url: OpenAIBackend("m", base_url=url, api_key=KEY),
        "vllm": lambda url: VllmBackend("m", base_url=url, api_key=KEY),
        "dspy": through_dspy,
    }
    return makes[request.param]


def answered(
    make: Make, body: Any, status: int = 200, request: Request = ASK, **headers: str
) -> Completion | BackendError:
    """What comes of an answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    class Server(Handler):
        def do_POST(self) -> None:
            self.content()
            self.answer(content, status, **{"content_type": "application/json", **headers})

    async def main(url: str) -> Completion | BackendError:
        backend = make(url)
        try:
            return await asyncio.wait_for(backend.complete(request), 20)
        except BackendError as error:
            return error
        finally:
            await backend.aclose()

    with listening(Server) as root:
        return asyncio.run(main(f"{root}/v1"))


def answer(content: str | None = "hello", ended: Any = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": ended}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    whole = {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    choice |= more.pop("choice", {})
    return {**whole, **more}


@pytest.mark.parametrize(
    ("usage", "taken"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}, None),
        ({"prompt_tokens": 5.0, "completion_tokens": 2.0}, TRUE),
    ],
)
def test_zeros_of_a_server_that_does_not_count_are_no_usage(make: Make, usage: Any, taken: Any) -> None:
    """Taken for true, such answers would be free, and no budget would ever end."""
    found = answered(make, answer(usage=usage))
    assert isinstance(found, Completion)
    assert found.usage == taken


def test_an_answer_of_nothing_took_no_tokens(make: Make) -> None:
    found = answered(make, answer(None, usage={"prompt_tokens": 5, "completion_tokens": 0}))
    assert isinstance(found, Completion)
    assert found.usage == Usage(5, 0)


@pytest.mark.parametrize(
    "more",
    [{"ended": "abort"}, {"ended": "error"}, {"choice": {"error": {"code": 502, "message": "upstream"}}}],
)
def test_an_answer_that_broke_off_at_the_server_is_none(make: Make, more: dict[str, Any]) -> None:
    found = answered(make, answer("The answer is 4", **more))
    assert type(found) is BadResponse
    assert found.may_have_been_billed


@pytest.mark.parametrize(("word", "reason"), [("MAX_TOKENS", "length"), ({"type": "odd"}, "other")])
def test_words_for_how_it_ended(make: Make, word: Any, reason: str) -> None:
    found = answered(make, answer(ended=word))
    assert isinstance(found, Completion)
    assert found.finish_reason == reason


@pytest.mark.parametrize("kind", [OpenAIBackend, VllmBackend])
def test_log_probabilities_of_the_prompt_come_by_every_way_to_vllm(kind: Any) -> None:
    row = {"5": {"logprob": -1.0, "rank": 1, "decoded_token": "Hi"}}
    body = answer(prompt_logprobs=[None, row])
    found = answered(lambda url: kind("m", base_url=url), body)
    assert isinstance(found, Completion)
    assert found.prompt_logprobs == (None, TokenLogprob("Hi", -1.0, (("Hi", -1.0),)))
    id, outcome = outcome_in(
        json.dumps(
            {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
        ).encode(),
        where="",
        redact=str,
    )
    assert (id, outcome) == ("a", replace(found, seconds=0.0))


@pytest.mark.parametrize("body", [{"error": "boom"}, {"detail": "Not allowed"}, {"choices": [None]}])
def test_a_success_without_an_answer_is_no_empty_answer(make: Make, body: Any) -> None:
    assert type(answered(make, body)) is BadResponse


@pytest.mark.parametrize("body", [b"", b"<html>sign in</html>", {"choices": "none"}])
def test_what_litellm_cannot_read_may_have_been_billed(body: Any) -> None:
    """It makes a status 500 of it, as of an answer with that status."""
    found = answered(lambda url: through_dspy(url, "litellm"), body)
    assert type(found) is BadResponse
    failed = answered(lambda url: through_dspy(url, "litellm"), {"error": {"message": "no"}}, 500)
    assert type(failed) is ServerError


def test_a_status_as_text_is_one() -> None:
    body = {"error": {"message": "slow down", "code": "429"}}
    assert type(answered(lambda url: VllmBackend("m", base_url=url), body)) is RateLimited


def test_the_words_of_an_error_in_a_list_are_read() -> None:
    """As Gemini's compatible endpoint sends them."""
    body = [{"error": {"code": 400, "message": "max_tokens is too odd", "status": "INVALID_ARGUMENT"}}]
    found = answered(lambda url: OpenAIBackend("m", base_url=url), body, 400)
    assert type(found) is BadRequest
    assert "too odd" in str(found)


def test_a_number_of_thousands_of_digits_is_no_limit() -> None:
    limits = rate_limits({"x-ratelimit-remaining-requests": "9" * 5000, "x-ratelimit-remaining-tokens": "7"})
    assert limits is not None
    assert (limits.remaining_requests, limits.remaining_tokens) == (None, 7)


@pytest.mark.parametrize("kind", [OpenAIBackend, VllmBackend, AzureOpenAIBackend])
@pytest.mark.parametrize("status", [301, 307, 308])
def test_no_redirect_takes_prompt_and_key_elsewhere(kind: Any, status: int) -> None:
    asked: list[str] = []

    class Elsewhere(Handler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.content()
            self.answer(json.dumps(answer()).encode())

        do_GET = do_POST

    with listening(Elsewhere) as other:
        location = f"{other}/v1/chat/completions"
        found = answered(lambda url: kind("m", base_url=url, api_key=KEY), b"", status, location=location)
    assert type(found) is BadRequest
    assert "give the base_url" in str(found)
    assert asked == []


# --- streamed --------------------------------------------------------------------------------------------


def piece(text: str | None = None, ended: str | None = None, **delta: str) -> bytes:
    row = {"token": text, "logprob": -0.1, "top_logprobs": [{"token": text, "logprob": -0.1}]}
    choice = {
        "delta": delta if text is None else {"content": text, **delta},
        "finish_reason": ended,
        "logprobs": None if text is None else {"content": [row]},
    }
    return b"data: " + json.dumps({"model": "m", "choices": [choice]}).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\n'
HELLO = piece("hel") + piece("lo", "stop") + USAGE
DONE = b"data: [DONE]\n\n"


def streamed(body: Any, content_type: str = "text/event-stream") -> Completion | BackendError:
    return answered(
        lambda url: VllmBackend("m", base_url=url), body, request=WATCHED, content_type=content_type
    )


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (HELLO + DONE, "text/event-stream"),
        (b"\xef\xbb\xbf" + HELLO + DONE, "text/event-stream"),
        (HELLO.rstrip(), "text/event-stream"),
        ((HELLO + DONE).replace(b"\n", b"\r\n"), "text/event-stream; charset=utf-8"),
        (b": ping\n\n" + HELLO.replace(b"data: ", b"data:") + DONE, ""),
        (answer(), "application/json"),
    ],
    ids=["usual", "byte order mark", "no end of line", "crlf", "no space", "not streamed"],
)
def test_a_streamed_answer_is_read_whole(body: Any, content_type: str) -> None:
    found = streamed(body, content_type)
    assert isinstance(found, Completion), found
    assert (found.text, found.finish_reason, found.usage) == ("hello", "stop", TRUE)


def test_a_refusal_in_pieces() -> None:
    found = streamed(piece(refusal="No ") + piece(refusal="way") + piece(None, "stop") + USAGE + DONE)
    assert isinstance(found, Completion)
    assert (found.text, found.finish_reason) == ("No way", "refusal")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (piece("hel") + piece(None, "abort") + DONE, BadResponse),
        (DONE, BadResponse),
        (b"<html>sign in</html>", BadResponse),
        (piece("hel"), ConnectionLost),
        (piece("hel") + piece("lo")[:20], ConnectionLost),
        (piece("hel") + b'data: {"error": {"message": "slow", "code": 429}}\n\n', RateLimited),
    ],
    ids=["aborted", "nothing", "a page", "broken off", "broken off in a line", "an error in the middle"],
)
def test_a_streamed_answer_that_is_none(body: bytes, kind: type[BackendError]) -> None:
    assert type(streamed(body)) is kind
