"""The baselines: what each shows the model, and what it ends with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

import heartloop.strategies as registry
from heartloop.errors import ContextOverflow, UnknownName, UsageError
from heartloop.strategies import known_strategies, strategy_from_name
from heartloop.strategies.stimuli import stimuli
from heartloop.types import Attempt, Problem, Request, Solution, StopReason, Verdict, text_of
from tests.loop.helpers import answers_by_round, asked, boxed, loop, run, scripted

PROBLEM = Problem("p", "What is six times seven?", reference="42")
SETS = {"emotion_prompt": 11, "negative_prompt": 10, "stress_prompt": 10, "persona": 10}


async def solve(
    script: Any, *, problem: Problem = PROBLEM, **settings: Any
) -> tuple[Solution, list[Request]]:
    backend = scripted(script)
    async with loop(backend, **settings) as held:
        return await held.solve(problem), backend.requests


def one_by_one(*answers: object) -> Any:
    """The n-th request gets the n-th answer; the last for ever."""
    left = list(answers)
    return lambda _: boxed(left.pop(0) if len(left) > 1 else left[0])


def test_self_consistency_takes_the_mode_whatever_the_judge() -> None:
    script = one_by_one(42, 7, 7, 42, 7)
    for judge in ("majority", "oracle"):
        solution, requests = run(solve(script, strategy="self_consistency:n=5", judge=judge, seed=1))
        assert len(requests) == 5
        script = one_by_one(42, 7, 7, 42, 7)
        assert (solution.answer, solution.stop_reason) == ("7", StopReason.ROUNDS)


def test_best_of_n_takes_the_highest_score() -> None:
    class Longest:
        name, needs_reference = "longest", False

        async def assess(self, problem: Problem, attempt: Attempt, session: Any) -> Verdict:
            return Verdict(None, "longest", score=min(1.0, len(attempt.text) / 100))

        async def select(self, problem: Problem, attempts: Any, session: Any) -> Attempt:
            raise AssertionError("there are scores")

    solution, _ = run(solve(one_by_one(1, 123456, 2), strategy="best_of_n:n=3", judge=Longest()))
    assert solution.answer == "123456"


def test_self_refine_passes_the_critique_on_and_ends_when_there_is_none() -> None:
    said = iter(["first \\boxed{1}", "Carry the two.", "second \\boxed{2}", "NOTHING TO CHANGE."])
    solution, requests = run(solve(lambda _: next(said), strategy="self_refine"))
    assert (solution.stop_reason, solution.answer) == (StopReason.SATISFIED, "2")
    assert "first" in asked(requests[1])
    assert "Carry the two." in asked(requests[2])
    assert solution.calls == 4


def test_within_a_longer_critique_nothing_to_change_means_a_step() -> None:
    def script(request: Request) -> str:
        return "Step 1: nothing to change. Step 2 is off." if "Examine" in asked(request) else boxed(1)

    solution, _ = run(solve(script, strategy="self_refine", max_rounds=3))
    assert (solution.stop_reason, len(solution.attempts)) == (StopReason.ROUNDS, 3)


def test_after_an_oracles_no_the_model_can_not_call_itself_satisfied() -> None:
    script = lambda r: "NOTHING TO CHANGE" if "known to be incorrect" in asked(r) else boxed(1)  # noqa: E731
    solution, _ = run(solve(script, strategy="self_refine", judge="oracle", max_rounds=3))
    assert (solution.stop_reason, len(solution.attempts)) == (StopReason.ROUNDS, 3)


def test_reflexion_starts_afresh_with_its_latest_notes() -> None:
    notes = iter(["note one", "note two", "note three", "note four"])
    script = lambda r: next(notes) if "note to yourself" in asked(r) else boxed(1)  # noqa: E731
    _, requests = run(solve(script, strategy="reflexion:memory=2", max_rounds=5))
    trials = [asked(r) for r in requests if "note to yourself" not in asked(r)]
    assert all(len(r.messages) == 1 for r in requests)  # no earlier answer is shown
    assert ["note" in t for t in trials] == [False, True, True, True, True]
    assert "note three" in trials[-1]
    assert "note four" in trials[-1]
    assert "note two" not in trials[-1]


def test_rsa_makes_each_new_answer_from_k_of_the_population() -> None:
    count = iter(range(100))
    _, requests = run(solve(lambda _: boxed(next(count)), strategy="rsa:k=2", max_rounds=3, width=4))
    assert len(requests) == 12
    for generation, first in ((requests[4:8], 0), (requests[8:12], 4)):
        shown = [asked(r) for r in generation]
        seen = [[n for n in range(first, first + 4) if f"\\boxed{{{n}}}" in text] for text in shown]
        assert [len(few) for few in seen] == [2, 2, 2, 2]
        assert len({tuple(few) for few in seen}) > 1
    with pytest.raises(UsageError, match="--width 4"):
        strategy_from_name("rsa", width=1)


def test_pdr_shows_notes_instead_of_drafts() -> None:
    script = lambda r: "the drafts agree on 7" if "Distill" in asked(r) else boxed(7)  # noqa: E731
    solution, requests = run(solve(script, strategy="pdr", max_rounds=3, width=3))
    assert [a.round for a in solution.attempts] == [1, 1, 1, 2, 2, 2, 3]
    drafting = [asked(r) for r in requests if "Distill" not in asked(r)][3:]
    assert all("the drafts agree on 7" in text and "Draft 1" not in text for text in drafting)
    assert solution.calls == 9


def test_candidates_that_overflow_are_cut_to_their_ends() -> None:
    def script(request: Request) -> Any:
        if len(asked(request)) > 2_000:
            return ContextOverflow("too long")
        return "x" * 3_000 + " \\boxed{5}"

    solution, requests = run(solve(script, strategy="rsa", max_rounds=2, width=3))
    assert (solution.stop_reason, solution.answer) == (StopReason.ROUNDS, "5")
    assert "[...]" in asked(requests[-1])
    assert asked(requests[-1]).count("\\boxed{5}") == 3


def test_a_critique_that_overflows_is_cut_and_the_attempt_knows_what_it_was_shown() -> None:
    def script(request: Request) -> Any:
        if sum(len(text_of(message.content)) for message in request.messages) > 2_000:
            return ContextOverflow("too long")
        return "It is step two. " * 300 if "Examine each step" in asked(request) else boxed(5)

    solution, requests = run(solve(script, strategy="self_refine", max_rounds=3))
    assert (solution.stop_reason, len(solution.attempts)) == (StopReason.ROUNDS, 3)
    last = solution.attempts[-1]
    assert "[...]" in last.feedback
    assert last.feedback == asked(requests[-1])


def test_parallel_heart_restarts_all_branches_from_the_best() -> None:
    count = iter(range(100))

    class Last:
        name, needs_reference = "last", False

        async def assess(self, problem: Problem, attempt: Attempt, session: Any) -> Verdict:
            return Verdict(None, "last")

        async def select(self, problem: Problem, attempts: Any, session: Any) -> Attempt:
            return max(attempts, key=lambda a: int(a.answer))

    script = lambda _: boxed(next(count))  # noqa: E731
    solution, requests = run(solve(script, strategy="parallel_heart", max_rounds=3, width=3, judge=Last()))
    starts = [[m.content for m in r.messages if m.role == "assistant"] for r in requests]
    assert starts == [[], *[[boxed(0)]] * 3, *[[boxed(3)]] * 3]
    prefixes = {r.messages[:-1] for r in requests[1:4]}
    assert len(prefixes) == 1  # a round's branches share all but the cue
    assert len({asked(r) for r in requests[1:]}) == 6
    assert solution.answer == "6"


# --- stimuli ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), SETS.items())
def test_a_stimulus_is_drawn_for_each_problem_and_noted(name: str, count: int) -> None:
    known = stimuli(name)
    assert len(known.texts) == len(set(known.texts.values())) == count
    drawn: Counter[str] = Counter()
    for n in range(12 * count):
        problem = Problem(f"p{n}", "What is 1 + 1?")
        solution, [request] = run(solve(lambda _: boxed(2), strategy=name, problem=problem, max_rounds=1))
        [attempt] = solution.attempts
        stimulus = attempt.condition.removeprefix(f"{name}/")
        assert known.text(stimulus) in asked(request)
        before, after = asked(request).split("What is 1 + 1?")
        assert known.text(stimulus) in (before if known.place == "before" else after)
        drawn[stimulus] += 1
    assert len(drawn) == count
    assert max(drawn.values()) < 12 * 3


def test_a_stimulus_can_be_given() -> None:
    for n in range(5):
        problem = Problem(f"p{n}", "What is 1 + 1?")
        solution, _ = run(
            solve(lambda _: boxed(2), strategy="stress_prompt:stimulus=6", problem=problem, max_rounds=2)
        )
        assert {a.condition for a in solution.attempts} == {"stress_prompt/6"}
    with pytest.raises(UnknownName, match="openness-high"):
        strategy_from_name("persona:stimulus=nice")


# --- strategies of the user's own ------------------------------------------------------------------


@dataclass(frozen=True)
class Twice:
    """A user's strategy: two attempts, and the last one counts."""

    max_rounds: int = 2
    name: str = "twice"

    async def solve(self, problem: Problem, session: Any) -> Solution:
        for k in range(self.max_rounds):
            attempt = await session.branch(k).respond(round=k + 1)
        return session.finish(attempt, StopReason.ROUNDS)


def test_an_own_strategy_goes_in_as_an_object() -> None:
    solution, _ = run(solve(one_by_one(1, 2), strategy=Twice()))
    assert (solution.answer, len(solution.attempts)) == ("2", 2)
    with pytest.raises(UsageError, match="set them on the strategy object"):
        run(solve(one_by_one(1), strategy=Twice(), stop="agreement"))


def test_an_own_strategy_registers_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "twice"

        def load(self) -> Any:
            return Twice

    def points(*, group: str, name: str | None = None) -> list[Point]:
        assert group == "heartloop.strategies"
        return [Point()] if name in (None, "twice") else []

    monkeypatch.setattr(registry, "entry_points", points)
    assert "twice" in known_strategies()
    # Options that it has no use for (the command line always has a width) are left out.
    assert strategy_from_name("twice", max_rounds=3, width=2, rotation="random") == Twice(3)
    solution, _ = run(solve(answers_by_round(5), strategy="twice", max_rounds=4))
    assert len(solution.attempts) == 4
    with pytest.raises(UnknownName, match="twice"):
        strategy_from_name("thrice")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("rsa:q=1", "option of the strategy 'rsa'"),
        ("rsa:k=two", "k is a whole number"),
        ("rsa:k=0", "at least 1"),
        ("heart:k=1", "option of the strategy 'heart'"),
        ("rsa:", "option is missing"),
    ],
)
def test_a_bad_option_says_what_is_wrong(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        strategy_from_name(spec, width=4)
