"""Majority, synthesis and oracle: which answer is chosen, and at what price."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from heartloop import Budget, Message, Model
from heartloop.errors import BadRequest, ContextOverflow
from heartloop.responders.chat import attempt_from
from heartloop.types import Problem, Request, Solution, StopReason, Verdict, text_of
from tests.loop.helpers import NO_ANSWER, answers_by_round, boxed, loop, run, scripted

PROBLEM = Problem("p", "Which number?", reference="1")


async def solve(script: Any, **settings: Any) -> tuple[Solution, list[Request]]:
    backend = scripted(script)
    async with loop(backend, **settings) as held:
        return await held.solve(PROBLEM), backend.requests


def resampled(*answers: Any, judge: str = "majority", **settings: Any) -> Solution:
    """Independent attempts with these answers; None for a text without one."""
    left = [(NO_ANSWER if a is None else boxed(a)) for a in answers]
    settings.setdefault("max_rounds", len(answers))
    return run(solve(left, judge=judge, strategy="resample", concurrency=1, **settings))[0]


# --- majority --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((1, 2, 2), "2"),
        ((3, 1, 2, 2, 1), "1"),  # a tie goes to the answer found first
        ((None, 2, None, None), "2"),
        ((5,), "5"),
        ((None, None), None),
    ],
)
def test_the_majority_wins_and_ties_go_to_the_first(answers: tuple[Any, ...], expected: str | None) -> None:
    solution = resampled(*answers)
    assert solution.answer == expected
    assert solution.chosen in solution.attempts
    assert solution.calls == len(answers)


def test_answers_are_grouped_by_equivalence_not_by_string() -> None:
    async def as_numbers(a: str, b: str, kind: str) -> bool:
        return float(a) == float(b)

    assert resampled("3", "0.5", "0.50", equivalent=as_numbers).answer == "0.5"
    assert resampled("3", "0.5", "0.50").answer == "3"


def test_a_branch_has_one_vote_however_often_it_repeats_itself() -> None:

    by_branch = {"0": "1", "1": "7", "2": "7"}

    class Fixed:
        async def respond(self, problem: Any, history: Any, session: Any, *, round: int, **_: Any) -> Any:
            made = await session.generate([Message("user", "q")], round=round)
            attempt = attempt_from(made, problem, branch=session.branch_name, round=round)
            return replace(attempt, answer=by_branch[session.branch_name])

    solution, _ = run(solve(lambda r: "?", responder=Fixed(), strategy="heart", max_rounds=2, width=3))
    assert [a.answer for a in solution.attempts] == ["1", "1", "7", "7"]
    assert solution.answer == "7"

    by_branch = {"0": "1", "1": "7"}
    solution, _ = run(solve(lambda r: "?", responder=Fixed(), strategy="heart", max_rounds=5, width=2))
    assert [a.answer for a in solution.attempts].count("1") == 5
    assert [a.answer for a in solution.attempts].count("7") == 4
    assert solution.answer == "1"  # a tie: one vote each


def test_a_comparison_that_breaks_is_that_problems_failure_alone() -> None:
    async def broken(a: str, b: str, kind: str) -> bool:
        raise ZeroDivisionError

    async def scene() -> list[Solution]:
        backend = scripted(lambda r: boxed(r.sampling.seed))
        async with loop(backend, strategy="resample", max_rounds=2, equivalent=broken) as held:
            return await held.solve_many(["a", "b"])

    for solution in run(scene()):
        assert solution.stop_reason is StopReason.FAILED
        assert "ZeroDivisionError" in str(solution.error)
        assert solution.answer is not None


# --- synthesis -------------------------------------------------------------------------------------


class Panel:
    """Generators answer in turn; the synthesiser's requests are kept and answered by ``last``."""

    def __init__(self, texts: list[Any], last: Any) -> None:
        self.texts, self.last = texts, last
        self.prompts: list[str] = []

    def __call__(self, request: Request) -> Any:
        prompt = text_of(request.messages[-1].content)
        if prompt.startswith("Here is a problem"):
            self.prompts.append(prompt)
            return self.last(request) if callable(self.last) else self.last
        return self.texts.pop(0)


def synthesised(panel: Panel, *, allow_new: bool = False, **settings: Any) -> Solution:
    settings = {"strategy": "resample", "max_rounds": len(panel.texts), "concurrency": 1, **settings}
    judge = f"synthesis:allow_new={str(allow_new).lower()}"
    return run(solve(panel, judge=judge, **settings))[0]


def test_a_synthesis_sees_question_and_candidates_and_writes_the_answer() -> None:
    panel = Panel([boxed(1), boxed(2), NO_ANSWER], boxed(9))
    solution = synthesised(panel, allow_new=True)
    [prompt] = panel.prompts
    assert "Which number?" in prompt
    assert [f"Attempt {n}" in prompt for n in (1, 2, 3, 4)] == [True, True, True, False]
    assert "Final answer: none" in prompt
    assert solution.answer == "9"
    assert solution.chosen is not None
    assert solution.chosen not in solution.attempts
    assert (solution.calls, len(solution.attempts)) == (4, 3)
    assert solution.stop_reason is StopReason.ROUNDS
    assert solution.correct is False


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (boxed(7), "7"),  # a candidate's answer
        (boxed(9), "2"),  # nobody's: the majority's
        (boxed(4), "2"),  # nobody's, though there is a fourth candidate
        ("I choose this one. \\boxed{Attempt 1}", None),  # named: whichever was shown first
        ("Attempt 2 is wrong.\nAttempt 1 is right.", None),
        ("Attempt 9 is right.", "2"),
        ("It is either attempt 1 or attempt 2.", "2"),
    ],
)
def test_a_guarded_synthesis_answers_with_a_candidate(written: str, expected: str | None) -> None:
    texts = [f"{boxed(a)} ({n})" for n, a in enumerate((1, 2, 2, 7))]
    panel = Panel(texts, written)
    solution = synthesised(panel)
    assert solution.chosen in solution.attempts
    if expected is None:
        shown = panel.prompts[0].split("Final answer: ")[1][0]
        assert solution.answer == shown
    else:
        assert solution.answer == expected


def test_candidates_are_shown_in_an_order_of_their_own_and_the_same_each_time() -> None:
    orders = []
    for seed in (0, 0, 1, 2, 3):
        panel = Panel([boxed(n) for n in range(6)], boxed(2))
        synthesised(panel, seed=seed)
        orders.append(re.findall(r"Final answer: (\d)", panel.prompts[0]))
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 1
    assert all(sorted(order) == list("012345") for order in orders)


def test_equal_candidates_are_shown_once_and_a_single_one_needs_no_call() -> None:
    panel = Panel([boxed(1), boxed(2), boxed(1)], boxed(2))
    synthesised(panel)
    assert "Attempt 2" in panel.prompts[0]
    assert "Attempt 3" not in panel.prompts[0]
    panel = Panel([boxed(1), boxed(1)], boxed(2))
    assert synthesised(panel).answer == "1"
    assert not panel.prompts


def test_a_synthesis_without_an_answer_leaves_it_to_the_majority() -> None:
    texts = [f"{boxed(a)} ({n})" for n, a in enumerate((1, 2, 2))]
    assert synthesised(Panel(texts, NO_ANSWER)).answer == "2"
    assert synthesised(Panel([NO_ANSWER, NO_ANSWER + "!"], NO_ANSWER)).answer is None


def test_candidates_too_long_for_the_context_are_cut_to_their_ends() -> None:
    def overflowing(request: Request) -> Any:
        return ContextOverflow("too long") if len(text_of(request.messages[-1].content)) > 4_000 else boxed(3)

    panel = Panel([f"{n}" + "x" * 9_000 + boxed(n) for n in (1, 2)], overflowing)
    assert synthesised(panel, allow_new=True).answer == "3"
    lengths = [len(p) for p in panel.prompts]
    assert lengths == sorted(lengths, reverse=True)
    last = panel.prompts[-1]
    assert boxed(1) in last
    assert boxed(2) in last
    assert "[...]" in last


def test_a_synthesis_asks_for_what_fits_before_it_cuts_candidates() -> None:
    def script(request: Request) -> Any:
        if request.sampling.max_tokens > 900:
            return ContextOverflow("too long", context_tokens=1_500, prompt_tokens=600)
        return boxed(3)

    panel = Panel([f"{n}" + "x" * 5_000 + boxed(n) for n in (1, 2)], script)
    assert synthesised(panel, allow_new=True).answer == "3"
    assert len(panel.prompts) == 2
    assert panel.prompts[0] == panel.prompts[1]


def test_a_synthesis_that_never_fits_leaves_the_best_so_far() -> None:
    panel = Panel([boxed(1) + " a", boxed(2) + " b", boxed(2) + " c"], lambda r: ContextOverflow("no"))
    solution = synthesised(panel)
    assert (solution.stop_reason, solution.answer) == (StopReason.FAILED, "2")


def test_a_budget_that_ends_before_the_synthesis_leaves_the_best_so_far() -> None:
    panel = Panel([boxed(1) + " a", boxed(2) + " b", boxed(2) + " c"], boxed(9))
    solution = synthesised(panel, problem_budget=Budget(calls=3))
    assert (solution.stop_reason, solution.answer) == (StopReason.BUDGET, "2")
    assert not panel.prompts


def test_a_synthesis_keeps_the_images_of_the_question() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    seen: list[Request] = []

    def script(request: Request) -> str:
        seen.append(request)
        return boxed(len(seen))

    async def scene() -> None:
        async with loop(scripted(script), judge="synthesis", strategy="resample", max_rounds=2) as held:
            await held.solve(({"type": "text", "text": "What is $this {thing}?"}, image))

    run(scene())
    content = seen[-1].messages[-1].content
    assert not isinstance(content, str)
    assert image in content
    assert "What is $this {thing}?" in str(content[0]["text"])


def test_candidates_are_inserted_as_they_are() -> None:
    nasty = "$question ${candidates} {0} %s " + boxed(1)
    panel = Panel([nasty, boxed(2)], boxed(2))
    synthesised(panel)
    assert nasty in panel.prompts[0]


# --- models and limits of their own -----------------------------------------------------------------


def test_the_synthesiser_may_be_another_model_with_limits_of_its_own() -> None:
    async def scene(budget: Budget) -> tuple[Solution, int, int]:
        writer = scripted(lambda r: boxed(9), name="writer")
        maker = scripted(answers_by_round(1, 2, 3))
        settings = {"judge": "synthesis:allow_new=true", "max_rounds": 3}
        model = Model(backend=writer, budget=budget)
        async with loop(maker, synthesiser_model=model, **settings) as held:
            solutions = await held.solve_many(["a", "b", "c"])
        return solutions[-1], len(maker.requests), len(writer.requests)

    solution, made, written = run(scene(Budget()))
    assert (solution.answer, made, written) == ("9", 9, 3)
    solution, made, written = run(scene(Budget(calls=2)))
    assert (made, written) == (9, 2)
    solution, made, written = run(scene(Budget(tokens=1)))
    assert (made, written) == (9, 0)
    assert (solution.stop_reason, solution.answer) == (StopReason.BUDGET, "1")
    assert "judge" not in str(solution.error)


def test_a_generators_own_limit_is_not_the_synthesisers() -> None:
    async def scene() -> Solution:
        writer = scripted(lambda r: boxed(9), name="writer")
        maker = Model(backend=scripted(answers_by_round(1, 2, 3)), budget=Budget(calls=2))
        async with loop(
            maker, synthesiser_model=writer, judge="synthesis:allow_new=true", max_rounds=2
        ) as held:
            return await held.solve("q")

    assert run(scene()).answer == "9"


# --- the oracle ------------------------------------------------------------------------------------


def test_the_oracle_uses_the_verifier_that_was_given() -> None:
    asked: list[tuple[Any, Any]] = []

    async def verify(problem: Problem, answer: str | None) -> Verdict:
        asked.append((problem.reference, answer))
        return Verdict(answer == "2", "mine")

    solution, requests = run(solve(answers_by_round(1, 2, 3), judge="oracle", verify=verify))
    assert (solution.stop_reason, solution.answer, len(requests)) == (StopReason.VERIFIED, "2", 2)
    assert asked[0] == ("1", "1")


def test_a_verifier_that_breaks_in_the_score_leaves_it_unknown() -> None:
    async def broken(problem: Problem, answer: str | None) -> Verdict:
        raise OSError("worker died")

    async def scene() -> list[Solution]:
        async with loop(scripted(answers_by_round(1)), max_rounds=1, verify=broken) as held:
            return await held.solve_many([PROBLEM, Problem("q", "q?", reference="1")])

    for solution in run(scene()):
        assert solution.stop_reason is StopReason.ROUNDS
        assert solution.correct is None
        assert "worker died" in str(solution.verdict)


def test_a_verifier_that_breaks_in_the_oracle_fails_that_problem() -> None:
    async def fussy(problem: Problem, answer: str | None) -> Verdict:
        if problem.id == "q":
            raise OSError("worker died")
        return Verdict(True, "fussy")

    async def scene() -> list[Solution]:
        async with loop(scripted(answers_by_round(1)), judge="oracle", verify=fussy) as held:
            return await held.solve_many([PROBLEM, Problem("q", "q?", reference="1")])

    fine, failed = run(scene())
    assert fine.stop_reason is StopReason.VERIFIED
    assert failed.stop_reason is StopReason.FAILED
    assert failed.answer == "1"


def test_a_judge_without_the_reference_is_not_handed_it() -> None:
    seen: list[Any] = []

    class Nosy:
        name, needs_reference = "nosy", False

        async def assess(self, problem: Problem, attempt: Any, session: Any) -> Verdict:
            seen.append((problem.reference, dict(problem.metadata), attempt.score))
            return Verdict(None, self.name, "?")

        async def select(self, problem: Problem, attempts: Any, session: Any) -> Any:
            seen.append(
                (problem.reference, dict(problem.metadata), [a.score for a in attempts if a.score] or None)
            )
            return attempts[0]

    problem = Problem("p", "q", reference="POISON", metadata={"solution": "POISON"})

    async def scene() -> Solution:
        async with loop(scripted(answers_by_round(1)), judge=Nosy(), max_rounds=2) as held:
            return await held.solve(problem)

    assert run(scene()).correct is False
    assert seen == [(None, {}, None)] * 3


def test_a_failing_judge_model_leaves_the_best_so_far() -> None:
    panel = Panel([boxed(1) + " a", boxed(2) + " b", boxed(2) + " c"], lambda r: BadRequest("no"))
    solution = synthesised(panel)
    assert (solution.stop_reason, solution.answer) == (StopReason.FAILED, "2")
    assert "BadRequest" in str(solution.error)
