"""HEART and its baselines: what is said to the model, when they stop, and what they end with."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from heartloop import Budget
from heartloop.emotions import Deck
from heartloop.emotions.deck import asserted_wrongness
from heartloop.errors import BadRequest, BudgetExhausted, ServerError
from heartloop.types import Attempt, Problem, Request, Solution, SpeechAct, StopReason, Verdict
from tests.loop.helpers import NO_ANSWER, answers_by_round, asked, boxed, loop, random_answers, run, scripted

PROBLEM = Problem("p", "What is six times seven?", reference="42")


async def solve(
    script: Any, *, problem: Problem = PROBLEM, **settings: Any
) -> tuple[Solution, list[Request]]:
    backend = scripted(script)
    async with loop(backend, **settings) as held:
        return await held.solve(problem), backend.requests


def heart(script: Any, **settings: Any) -> tuple[Solution, list[Request]]:
    return run(solve(script, strategy="heart", **settings))


# --- what cues may say -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3])
def test_after_the_oracle_said_no_the_cue_says_that_it_was_wrong(width: int) -> None:
    solution, requests = heart(answers_by_round(1, 2, 3, 4), judge="oracle", max_rounds=4, width=width)
    later = [a for a in solution.attempts if a.round > 1]
    assert len(later) == 3 * width
    for attempt in later:
        assert attempt.cue is not None
        assert attempt.cue.speech_act is SpeechAct.ASSERT_WRONG
        assert attempt.cue.text in attempt.feedback
    assert sorted(a.feedback for a in later) == sorted(asked(r) for r in requests[1:])


@pytest.mark.parametrize("judge", ["majority", "synthesis"])
def test_without_an_oracle_nothing_ever_claims_that_an_answer_was_wrong(judge: str) -> None:
    solution, requests = heart(answers_by_round(1, 2, 3), judge=judge, max_rounds=6, width=2)
    cues = [a.cue for a in solution.attempts if a.cue is not None]
    assert len(cues) == 10
    assert {cue.speech_act for cue in cues} == {SpeechAct.INVITE_RECHECK}
    assert [asserted_wrongness(asked(r)) for r in requests[1:11]] == [None] * 10


def test_an_oracle_that_cannot_tell_leads_to_no_claim() -> None:
    async def unsure(problem: Problem, answer: str | None) -> Verdict:
        return Verdict(None if answer == "1" else False, "unsure", "killed")

    solution, _ = heart(answers_by_round(1, 2, 3), judge="oracle", max_rounds=3, verify=unsure)
    acts = [a.cue.speech_act for a in solution.attempts if a.cue]
    assert acts == [SpeechAct.INVITE_RECHECK, SpeechAct.ASSERT_WRONG]


def test_scored_afterwards_all_rounds_run_and_nothing_tells() -> None:
    script = answers_by_round(42, 1, 42, 2)
    solution, requests = heart(script, judge="oracle", max_rounds=4, score_after=True)
    assert solution.stop_reason is StopReason.ROUNDS
    assert len(solution.attempts) == 4
    assert [a.verdict for a in solution.attempts] == [None] * 4
    # The scores show the right answer found, lost, found and lost again.
    assert [a.score.correct for a in solution.attempts if a.score] == [True, False, True, False]
    assert all(a.cue.speech_act is SpeechAct.INVITE_RECHECK for a in solution.attempts if a.cue)
    blind, blind_requests = heart(script, judge="majority", max_rounds=4)
    assert requests == blind_requests
    assert [a.cue for a in blind.attempts] == [a.cue for a in solution.attempts]


def test_branches_of_a_round_have_different_cues_and_none_comes_twice() -> None:
    solution, _ = heart(answers_by_round(1), max_rounds=6, width=3)
    cues = [a.cue for a in solution.attempts if a.cue]
    assert len({cue.text for cue in cues}) == len(cues) == 15


def test_the_valence_alternates_from_round_to_round() -> None:
    for first, rotation in (("negative", "alternating"), ("positive", "alternating:positive")):
        solution, _ = heart(answers_by_round(1), max_rounds=6, width=2, rotation=rotation)
        valences: list[set[str]] = [set() for _ in range(5)]
        for attempt in solution.attempts:
            if attempt.cue is not None and attempt.cue.emotion is not None:
                valences[attempt.round - 2].add(attempt.cue.emotion.valence.value)
        other = "positive" if first == "negative" else "negative"
        assert valences == [{first}, {other}, {first}, {other}, {first}]


def test_the_neutral_rotation_sends_the_twins_on_the_same_schedule() -> None:
    charged, _ = heart(answers_by_round(1), max_rounds=5, width=2)
    neutral, requests = heart(answers_by_round(1), max_rounds=5, width=2, rotation="neutral")
    twins = {entry.id: entry.twin for entry in Deck.default().entries}
    pairs = list(zip(charged.attempts[1:], neutral.attempts[1:], strict=True))
    assert pairs
    for ours, twin in pairs:
        assert ours.cue is not None
        assert ours.cue.affective
        assert twin.cue == twins[ours.cue.id]
        assert (ours.branch, ours.round) == (twin.branch, twin.round)
    assert all(n.cue and n.cue.text in asked(r) for (_, n), r in zip(pairs, requests[1:], strict=True))


# --- the conversation ------------------------------------------------------------------------------


def test_each_round_shows_question_answers_and_feedback_so_far() -> None:
    solution, requests = heart(answers_by_round(1, 2, 3), max_rounds=3)
    question = asked(requests[0])
    assert "What is six times seven?" in question
    first, second, third = solution.attempts
    roles = [(m.role, m.content) for m in requests[2].messages]
    assert roles == [
        ("user", question),
        ("assistant", first.text),
        ("user", second.feedback),
        ("assistant", second.text),
        ("user", third.feedback),
    ]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_rounds_and_branches_are_numbered(width: int) -> None:
    solution, requests = heart(answers_by_round(1), max_rounds=3, width=width)
    expected = [("0", 1)] + [(str(k), r) for r in (2, 3) for k in range(width)]
    assert [(a.branch, a.round) for a in solution.attempts] == expected
    assert solution.calls == len(requests) == len(expected)
    total = sum((a.usage.total_tokens for a in solution.attempts), 0)
    assert solution.usage.total_tokens == total > 0


def test_a_round_of_branches_takes_the_time_of_one_call() -> None:
    async def scene() -> int:
        backend = scripted(answers_by_round(1), latency=0.01)
        async with loop(backend, max_rounds=2, width=4) as held:
            await held.solve(PROBLEM)
        return backend.peak

    assert run(scene()) == 4


# --- stops -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("right_at", [1, 2, 4])
def test_it_stops_as_soon_as_the_oracle_says_right(right_at: int) -> None:
    answers: list[Any] = [*range(1, right_at), 42]
    solution, requests = heart(answers_by_round(*answers), judge="oracle", max_rounds=6)
    assert solution.stop_reason is StopReason.VERIFIED
    assert (solution.answer, solution.correct) == ("42", True)
    assert solution.chosen == solution.attempts[-1]
    assert len(requests) == right_at


def test_all_rounds_without_a_right_answer_end_with_the_last_one() -> None:
    solution, requests = heart(answers_by_round(1, 2, 3), judge="oracle", max_rounds=3)
    assert (solution.stop_reason, solution.answer, solution.correct) == (StopReason.ROUNDS, "3", False)
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("answers", "rounds", "calls"), [((1, 1), 2, 2), ((1, 2, 2), 2, 3), ((1, 2, 2, 2), 3, 4), ((7,), 1, 1)]
)
def test_it_stops_when_answers_are_stable(answers: Sequence[int], rounds: int, calls: int) -> None:
    solution, requests = heart(answers_by_round(*answers), stable_rounds=rounds)
    assert solution.stop_reason is StopReason.STABLE
    assert len(requests) == calls


def test_answers_that_were_not_found_are_not_stable() -> None:
    solution, requests = heart(lambda r: NO_ANSWER, stable_rounds=2, max_rounds=3)
    assert solution.stop_reason is StopReason.ROUNDS
    assert solution.answer is None
    assert len(requests) == 3


def test_the_budget_ends_it_with_the_best_attempt_so_far() -> None:
    script = answers_by_round(1, 2, 2, 3)
    solution, requests = heart(script, max_rounds=6, problem_budget=Budget(calls=3))
    assert (solution.stop_reason, len(requests)) == (StopReason.BUDGET, 3)
    assert [a.answer for a in solution.attempts] == ["1", "2", "2"]
    assert solution.answer == "2"
    assert "calls" in str(solution.error)


def test_a_budget_without_room_for_one_call_ends_it_with_nothing() -> None:
    solution, requests = heart(answers_by_round(1), budget=Budget(tokens=10))
    assert (solution.stop_reason, solution.answer, solution.chosen) == (StopReason.BUDGET, None, None)
    assert not requests


def test_a_failure_ends_it_with_the_best_attempt_so_far() -> None:
    def script(request: Request) -> Any:
        said = sum(m.role == "assistant" for m in request.messages)
        return boxed(5 if said else 42) if said < 2 else BadRequest("no more")

    solution, _ = heart(script, max_rounds=6)
    assert solution.stop_reason is StopReason.FAILED
    assert solution.answer == "42"
    assert "BadRequest: no more" in str(solution.error)


def test_a_failure_at_once_is_raised_by_solve() -> None:
    with pytest.raises(BadRequest, match="nothing works"):
        heart(lambda r: BadRequest("nothing works"))


@pytest.mark.parametrize("error", [BadRequest("no"), ServerError("no")])
def test_a_branch_that_fails_takes_nobody_with_it(error: Exception) -> None:
    doomed: list[str] = []

    def script(request: Request) -> Any:
        if len(request.messages) == 3:
            if not doomed:
                doomed.append(asked(request))
            if asked(request) == doomed[0]:
                return error
        return boxed(1)

    solution, _ = heart(script, max_rounds=4, width=3)
    assert solution.stop_reason is StopReason.ROUNDS
    made = Counter(a.round for a in solution.attempts)
    assert made == {1: 1, 2: 2, 3: 2, 4: 2}
    assert solution.error is None


def test_when_all_branches_fail_the_problem_ends_with_what_it_has() -> None:
    solution, _ = heart(lambda r: BadRequest("no") if len(r.messages) > 1 else boxed(1), width=3)
    assert (solution.stop_reason, solution.answer) == (StopReason.FAILED, "1")


def test_budget_in_one_branch_keeps_what_the_others_found() -> None:
    solution, _ = heart(answers_by_round(1, 2), width=3, budget=Budget(calls=3))
    assert solution.stop_reason is StopReason.BUDGET
    assert [a.round for a in solution.attempts] == [1, 2, 2]
    assert solution.answer == "2"


# --- the other strategies ---------------------------------------------------------------------------


def test_resampling_shows_no_attempt_another_and_gives_each_a_branch() -> None:
    solution, requests = run(solve(random_answers(1), strategy="resample", max_rounds=3, width=2))
    assert len(requests) == 6
    assert len({r.messages for r in requests}) == 1
    assert len({r.sampling.seed for r in requests}) == 6
    assert [a.branch for a in solution.attempts] == list("012345")
    assert [a.round for a in solution.attempts] == [1, 1, 2, 2, 3, 3]


def test_resampling_stops_at_the_first_right_answer() -> None:
    answers = iter([1, 2, 42, 3])
    solution, requests = run(solve(lambda r: boxed(next(answers)), strategy="resample", judge="oracle"))
    assert (solution.stop_reason, solution.answer, len(requests)) == (StopReason.VERIFIED, "42", 3)


def test_self_reflection_has_no_affect_and_claims_only_what_it_knows() -> None:
    judged, _ = run(
        solve(answers_by_round(1, 2, 3), strategy="self_reflection", judge="oracle", max_rounds=3)
    )
    blind, _ = run(solve(answers_by_round(1, 2, 3), strategy="self_reflection", max_rounds=3))
    assert all(a.cue is None for a in (*judged.attempts, *blind.attempts))
    assert {bool(asserted_wrongness(a.feedback)) for a in judged.attempts[1:]} == {True}
    assert {asserted_wrongness(a.feedback) for a in blind.attempts[1:]} == {None}
    assert len({a.feedback for a in blind.attempts[1:]}) == 1


@pytest.mark.parametrize("name", ["single_pass", "chain_of_thought"])
@pytest.mark.parametrize(("answer", "stop"), [(42, StopReason.VERIFIED), (1, StopReason.ROUNDS)])
def test_one_pass_is_one_call(name: str, answer: int, stop: StopReason) -> None:
    solution, requests = run(solve(answers_by_round(answer), strategy=name, judge="oracle"))
    assert (len(requests), solution.stop_reason, solution.answer) == (1, stop, str(answer))


def test_first_attempts_are_the_same_for_all_strategies_but_the_bare_one() -> None:
    first = {
        name: run(solve(answers_by_round(1), strategy=name, max_rounds=2))[1][0]
        for name in ("chain_of_thought", "resample", "self_reflection", "heart", "single_pass")
    }
    bare = first.pop("single_pass")
    assert len(set(map(repr, first.values()))) == 1
    assert bare not in first.values()


class Greedy:
    """A strategy of somebody's own that goes on after its budget ended."""

    name = "greedy"

    async def solve(self, problem: Problem, session: Any) -> Solution:
        made: list[Attempt] = []
        for _ in range(3):
            try:
                made.append(await session.branch(len(made)).respond())
            except BudgetExhausted:
                assert session.exhausted
        return session.finish(made[-1], StopReason.BUDGET)  # type: ignore[no-any-return]


def test_after_its_budget_ended_a_strategy_can_generate_no_more() -> None:
    solution, requests = run(solve(answers_by_round(1), strategy=Greedy(), problem_budget=Budget(calls=1)))
    assert len(requests) == 1
    assert solution.answer == "1"


class Impatient:
    """Two calls at once on one branch."""

    name = "impatient"

    async def solve(self, problem: Problem, session: Any) -> Solution:
        branch = session.branch(0)
        made = await session.gather({0: branch.respond(), 1: branch.respond()})
        return session.finish(made[0], StopReason.ROUNDS)  # type: ignore[no-any-return]


def test_two_calls_at_once_on_one_branch_are_an_error() -> None:
    solution, requests = run(solve(answers_by_round(1), strategy=Impatient()))
    assert solution.stop_reason is StopReason.FAILED
    assert "session.branch(k)" in str(solution.error)
    assert len(requests) == 1


class Draws:
    """A strategy that draws at random, through the session and past it."""

    name = "draws"

    async def solve(self, problem: Problem, session: Any) -> Solution:
        number = await session.decide("number", lambda: random.random())
        attempt = await session.branch(0).respond()
        chosen: Attempt = attempt if number < 2 else None
        return session.finish(chosen, StopReason.ROUNDS, f"drew {number}")  # type: ignore[no-any-return]


def test_decisions_are_made_once_and_logged(tmp_path: Any) -> None:
    path = tmp_path / "j.db"
    first, _ = run(solve(answers_by_round(1), strategy=Draws(), journal=path))
    second, requests = run(solve(answers_by_round(1), strategy=Draws(), journal=path))
    assert first.error == second.error
    assert not requests


def test_what_the_rotation_drew_is_logged(tmp_path: Any) -> None:
    from heartloop.journal.reader import JournalReader

    path = tmp_path / "j.db"
    heart(answers_by_round(1), max_rounds=2, journal=path, rotation="alternating:random")
    with JournalReader(path) as reader:
        [decision] = [
            e for e in reader.events("main", "p") if e.key.kind == "decision" and e.key.branch == ""
        ]
    assert decision.data["name"] == "rotation:alternating:random"
    assert decision.data["value"]["first"] in ("positive", "negative")


def test_a_strategy_never_sees_the_reference() -> None:
    seen: list[Any] = []

    class Nosy:
        name = "nosy"

        async def solve(self, problem: Problem, session: Any) -> Solution:
            seen.append((problem.reference, dict(problem.metadata)))
            attempt = await session.branch(0).judge(await session.branch(0).respond())
            return session.finish(attempt, StopReason.ROUNDS)  # type: ignore[no-any-return]

    problem = Problem("p", "q?", reference="42", metadata={"answer": "42"})
    for judge in ("oracle", "majority"):
        run(solve(answers_by_round(1), strategy=Nosy(), judge=judge, problem=problem))
    assert seen == [(None, {}), (None, {})]


STRATEGIES = ["single_pass", "chain_of_thought", "resample", "self_reflection", "heart"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("judge", ["majority", "synthesis"])
def test_a_poisoned_reference_changes_nothing_without_an_oracle(strategy: str, judge: str) -> None:
    def told(reference: str | None) -> tuple[Any, list[Request]]:
        problem = Problem("p", "q?", reference=reference, metadata={"poison": reference})
        script: Callable[[Request], Any] = random_answers(5)
        solution, requests = run(
            solve(script, strategy=strategy, judge=judge, max_rounds=3, width=2, problem=problem)
        )
        return (solution.answer, [(a.text, a.verdict) for a in solution.attempts]), requests

    clean = told(None)
    assert told("0") == clean
    assert told("POISON") == clean
    assert all("POISON" not in repr(r) for r in told("POISON")[1])
