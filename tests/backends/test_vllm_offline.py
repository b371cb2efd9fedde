"""A vLLM in the process: what it is asked, and what is made of its answers. Its engine is a stand-in here."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heartloop import errors
from heartloop.backends import VllmOffline
from heartloop.types import Completion, Message, Request, Sampling
from tests.support import fake_vllm


def complete(llm: fake_vllm.LLM, text: str = "What is 2 + 2?", **extra: Any) -> Completion:
    async def main() -> Completion:
        backend = VllmOffline("test-model", llm=llm, poll_seconds=(0.001, 0.01))
        try:
            asked = Request("test-model", (Message("user", text),), Sampling(max_tokens=16, extra=extra))
            return await asyncio.wait_for(backend.complete(asked), 10)
        finally:
            await backend.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("old", [False, True], ids=["new vLLM", "old vLLM"])
@pytest.mark.parametrize(
    "extra", [{"structured_outputs": {"choice": ["red", "blue"]}}, {"guided_choice": ["red", "blue"]}]
)
def test_guided_decoding_by_both_names_in_old_and_new_vllm(
    extra: dict[str, Any], old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm.install(monkeypatch, old=old)
    llm = fake_vllm.LLM()
    assert complete(llm, top_k=3, **extra).text == "red"
    [asked] = llm.asked
    given, other = asked.structured_outputs, asked.guided_decoding
    if old:
        given, other = other, given
    assert given is not None
    assert given.choice == ["red", "blue"]
    assert other is None
    assert asked.top_k == 3


def test_log_probabilities_of_the_prompt_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    completion = complete(fake_vllm.LLM(), prompt_logprobs=1)
    assert completion.usage is not None
    assert completion.prompt_logprobs is not None
    first, *rows = completion.prompt_logprobs
    assert first is None
    assert len(rows) == completion.usage.prompt_tokens - 1
    assert [row.token for row in rows if row is not None] == [f"t{n + 1}" for n in range(len(rows))]


def test_an_answer_that_was_broken_off_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    with pytest.raises(errors.BadResponse, match="broke off"):
        complete(fake_vllm.LLM(), "abort")


def test_settings_that_it_does_not_know_are_a_bad_request(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    with pytest.raises(errors.BadRequest, match="no_such"):
        complete(fake_vllm.LLM(), no_such=1)
