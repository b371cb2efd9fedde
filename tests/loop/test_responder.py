"""The conversation an attempt is made of, and what gives way when it overflows the context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heartloop import Completion, Model, Problem, Prompts, Sampling, Shot, Solution, StopReason, Usage
from heartloop.errors import ContextOverflow, DataError, UnknownName
from heartloop.types import Message, Request, text_of
from tests.loop.helpers import answers_by_round, asked, boxed, loop, run, scripted


async def solve(
    script: Any, question: Any = "What is it?", **settings: Any
) -> tuple[Solution, list[Request]]:
    backend = scripted(script, context_tokens=settings.pop("context_tokens", None))
    sampling = Sampling(max_tokens=settings.pop("max_tokens", 300))
    settings.setdefault("max_rounds", 4)
    async with loop(Model(backend=backend, sampling=sampling), **settings) as held:
        return await held.solve(question), backend.requests


def roles(request: Request) -> str:
    return "".join(m.role[0] for m in request.messages)


def counted(request: Request) -> int:
    return sum(len(text_of(m.content).split()) for m in request.messages)


# --- overflow --------------------------------------------------------------------------------------


def test_overflow_drops_the_oldest_rounds_and_keeps_question_and_last_answer() -> None:
    def script(request: Request) -> Any:
        if len(request.messages) > 3:
            return ContextOverflow("too long")
        return boxed(f"answer {len(seen)}") if seen.append(request) is None else ""

    seen: list[Request] = []
    solution, _ = run(solve(script))
    assert solution.stop_reason is StopReason.ROUNDS
    assert [roles(r) for r in seen] == ["u", "uau", "uau", "uau"]
    for before, after in zip(solution.attempts, seen[1:], strict=False):
        assert after.messages[0] == seen[0].messages[0]
        assert after.messages[1].content == before.text
    assert [a.feedback for a in solution.attempts[1:]] == [asked(r) for r in seen[1:]]


def test_when_that_is_not_enough_the_last_answer_is_cut_to_its_result() -> None:
    def script(request: Request) -> Any:
        if counted(request) > 200:
            return ContextOverflow("too long")
        return "word " * 250 + boxed(7)

    solution, requests = run(solve(script, max_rounds=3, max_tokens=1_000))
    assert solution.stop_reason is StopReason.ROUNDS
    assert len(solution.attempts) == 3
    assert requests[-1].messages[1] == Message("assistant", "\\boxed{7}")


def test_and_then_fewer_new_tokens_are_asked_for() -> None:
    def script(request: Request) -> Any:
        room = 500 - counted(request)
        if request.sampling.max_tokens > room:
            return ContextOverflow("too long", context_tokens=500, prompt_tokens=counted(request))
        return boxed(7)

    solution, requests = run(solve(script, max_rounds=2, max_tokens=480))
    assert solution.stop_reason is StopReason.ROUNDS
    assert len(solution.attempts) == 2
    assert 64 <= requests[-1].sampling.max_tokens < 480


def test_a_question_that_can_never_fit_is_an_error_after_one_try() -> None:
    backend = scripted(lambda r: ContextOverflow("too long", context_tokens=100, prompt_tokens=99))

    async def scene() -> None:
        async with loop(backend) as held:
            with pytest.raises(ContextOverflow):
                await held.solve("q")

    run(scene())
    assert len(backend.requests) == 1


def test_where_the_prompt_fits_fewer_new_tokens_come_before_dropping_rounds() -> None:
    """A model whose max_tokens is its whole context must not lose its history to that."""

    def script(request: Request) -> Any:
        room = 500 - counted(request)
        if request.sampling.max_tokens > room:
            return ContextOverflow("too long", context_tokens=500, prompt_tokens=counted(request))
        return "word " * 20 + boxed(7)

    solution, requests = run(solve(script, max_rounds=3, max_tokens=500))
    answered = [r for r in requests if r.sampling.max_tokens < 500]
    assert len(solution.attempts) == len(answered) == 3
    assert [roles(r) for r in answered] == ["u", "uau", "uauau"]
    assert all(r.sampling.max_tokens == 500 - counted(r) for r in answered)


def test_a_context_known_beforehand_drops_nothing_that_fits() -> None:
    solution, requests = run(solve(lambda r: "word " * 100 + boxed(1), max_rounds=4, context_tokens=3_000))
    assert [len(r.messages) for r in requests] == [1, 3, 5, 7]
    assert len(solution.attempts) == 4


# --- what is said ----------------------------------------------------------------------------------


@pytest.mark.parametrize("separated", [False, True])
def test_reasoning_is_kept_apart_and_never_sent_back(separated: bool) -> None:
    def script(request: Request) -> Any:
        if separated:
            return Completion(boxed(1), reasoning="SECRET", usage=Usage(1, 1))
        return f"<think>SECRET {boxed(5)}</think>{boxed(1)}"

    solution, requests = run(solve(script, max_rounds=3))
    assert all("SECRET" in a.reasoning and "SECRET" not in a.text for a in solution.attempts)
    assert {a.answer for a in solution.attempts} == {"1"}
    assert all("SECRET" not in repr(r) for r in requests)


def test_a_completion_cut_while_thinking_has_no_answer_and_the_loop_goes_on() -> None:
    solution, requests = run(solve(lambda r: Completion("<think>hm, \\boxed{4}?", "length"), max_rounds=2))
    assert [a.answer for a in solution.attempts] == [None, None]
    assert solution.attempts[0].finish_reason == "length"
    assert all(text_of(m.content) for m in requests[1].messages)


NASTY = "Is $cue or ${question} {0} %s %(x)d {cue} $$5 \\1 \\g<0> <b>&amp;</b> 🎉\u202e the \x00 answer?"


def test_a_question_with_format_characters_is_sent_as_it_is() -> None:
    solution, requests = run(solve(lambda r: boxed("$cue {0} \\1"), NASTY, max_rounds=3, judge="synthesis"))
    assert all(NASTY in text_of(r.messages[0].content) for r in requests)
    assert "$cue {0} \\1" in text_of(requests[2].messages[1].content)
    assert solution.answer == "$cue {0} \\1"


PARTS: tuple[dict[str, Any], ...] = (
    {"type": "text", "text": "Look: $cue"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    {"type": "text", "text": "and compare"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,BBBB"}},
)


@pytest.mark.parametrize("place", ["$question", "${question}"])
def test_parts_of_a_multimodal_question_keep_their_order(place: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(f'[question]\nchain_of_thought = "Before $$1. {place} After."\n')
    _, requests = run(solve(answers_by_round(1), PARTS, prompts=mine, max_rounds=2))
    for request in requests:
        content = request.messages[0].content
        assert not isinstance(content, str)
        assert content[0]["text"].strip() == "Before $1."
        assert content[1:5] == PARTS
        assert content[5]["text"].strip() == "After."
    _, requests = run(solve(answers_by_round(1), PARTS, max_rounds=1))
    assert requests[0].messages[0].content[: len(PARTS)] == PARTS


def test_system_message_and_worked_examples_come_first() -> None:
    prompts = Prompts(
        Prompts.default().sections,
        system="Be exact.",
        shots=(Shot("1 + 1?", boxed(2)), Shot("2 + 2?", boxed(4))),
    )
    _, requests = run(solve(answers_by_round(1), prompts=prompts, max_rounds=2))
    assert [roles(r) for r in requests] == ["suauau", "suauauau"]
    first = requests[1].messages
    assert first[0] == Message("system", "Be exact.")
    assert "1 + 1?" in text_of(first[1].content)
    assert first[2] == Message("assistant", boxed(2))
    assert "What is it?" in text_of(first[5].content)
    assert Prompts.from_dict(prompts.as_dict()) == prompts


def test_prompts_of_ones_own_replace_what_they_name_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('system = "Hi."\n[feedback]\nheart = "<<$cue>>"\n')
    solution, requests = run(solve(answers_by_round(1), prompts=str(mine), max_rounds=2))
    cue = solution.attempts[1].cue
    assert cue is not None
    assert asked(requests[1]) == f"<<{cue.text}>>"
    default = Prompts.default().fill("question", "chain_of_thought", question="What is it?")
    assert requests[0].messages == (Message("system", "Hi."), Message("user", default))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[question\n", ["not valid TOML", "line 1"]),
        ("[questions]\na = '$question'\n", ["[questions]", "question, feedback, synthesis"]),
        ("[question]\nchain_of_thought = 'hi'\n", ["question.chain_of_thought", "has no $question"]),
        (
            "[question]\nmine = '$question $cue'\n",
            ["question.mine", "$cue", "allowed here: $context, $question"],
        ),
        ("[feedback]\nheart = 'costs 5$ or so $cue'\n", ["feedback.heart", "write $$"]),
        ("[feedback]\nheart = 3\n", ["feedback.heart", "must be a string"]),
        ("feedback = 3\n", ["feedback", "table"]),
        ("system = 3\n", ["system", "string"]),
    ],
)
def test_a_broken_prompts_file_says_what_is_wrong(text: str, names: list[str], tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(text)
    with pytest.raises(DataError) as caught:
        Prompts.load(mine)
    for name in ["mine.toml", *names]:
        assert name in str(caught.value)


def test_a_prompts_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.toml"):
        Prompts.load(tmp_path / "nowhere.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"b\.toml"):
        Prompts.load(tmp_path / "b.toml")


def test_an_unknown_template_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="chain_of_thought, reflexion, single_pass"):
        Prompts.default().fill("question", "chain_of_though", question="?")


def test_attempts_come_back_whole_from_the_journal() -> None:
    from heartloop.engine.serial import attempt_from_dict, attempt_to_dict

    async def scene() -> Solution:
        async with loop(scripted(answers_by_round(1, 2)), judge="oracle", max_rounds=2) as held:
            return await held.solve(Problem("p", "q", reference="1 2"))

    for attempt in run(scene()).attempts:
        assert attempt_from_dict(attempt_to_dict(attempt)) == attempt
