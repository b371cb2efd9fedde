"""Learning policies inside the engine: what strategies do reaches them, and what they say is followed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.engine import Engine
from heartloop.engine.models import Model
from heartloop.engine.scheduler import Ended, Judged, Learning, Made, Observation, Waiting
from heartloop.engine.solving import Arm
from heartloop.judges.oracle import Oracle
from heartloop.responders.chat import ChatResponder
from heartloop.strategies import strategy_from_name
from heartloop.strategies.prompts import Prompts
from heartloop.types import Budget, Problem, Request, Solution, StopReason
from tests.loop.helpers import asked, boxed, by_text, loop, run, same_text

PROBLEMS = 40


def question(i: int) -> str:
    return f"Question number {i} of many."


def half_of_them_stuck() -> ScriptedBackend:
    """Odd problems repeat one mistake for ever; even ones are right in their second to fifth attempt."""
    made: Counter[int] = Counter()

    def script(request: Request) -> str:
        i = int(asked(request).split("number ")[1].split()[0])
        made[i] += 1
        if i % 2:
            return boxed("same")
        return boxed("right" if made[i] >= 2 + (i // 2) % 4 else f"wrong {made[i]}")

    return ScriptedBackend(script)


def solve(scheduler: str, **settings: Any) -> tuple[list[Solution], ScriptedBackend]:
    backend = half_of_them_stuck()
    problems = [Problem(f"p{i}", question(i), "right") for i in range(PROBLEMS)]

    async def work() -> list[Solution]:
        async with loop(
            backend,
            judge="oracle",
            strategy="resample",
            max_rounds=8,
            scheduler=scheduler,
            concurrency=4,
            active=PROBLEMS,
            **settings,
        ) as held:
            return await held.solve_many(problems)

    return run(work()), backend


def right(solutions: list[Solution]) -> int:
    return sum(solution.stop_reason is StopReason.VERIFIED for solution in solutions)


def test_adaptive_spends_a_budget_where_it_helps() -> None:
    budget = Budget(calls=PROBLEMS + 95)
    plain, _ = solve("breadth_first", budget=budget)
    adaptive, backend = solve("adaptive", budget=budget)
    assert right(adaptive) >= right(plain) + 3
    assert len(backend.requests) == PROBLEMS + 95
    # Everyone was tried, and whoever was left out ended with what it had.
    assert all(solution.attempts for solution in adaptive)
    assert {s.stop_reason for s in adaptive} == {StopReason.VERIFIED, StopReason.BUDGET}


def test_without_a_budget_adaptive_leaves_nothing_undone() -> None:
    solutions, _ = solve("adaptive")
    assert right(solutions) == PROBLEMS // 2
    assert [len(s.attempts) for s in solutions[1::2]] == [8] * (PROBLEMS // 2)


class Told:
    """A policy that writes down what it hears, and turns the order round when told of a third attempt."""

    name = "told"

    def __init__(self) -> None:
        self.revision = 0
        self.heard: list[Observation] = []
        self.asked: list[Waiting] = []

    def priority(self, waiting: Waiting) -> float:
        self.asked.append(waiting)
        return waiting.arrival if self.revision == 0 else -waiting.arrival

    def observe(self, observation: Observation) -> None:
        self.heard.append(observation)
        if isinstance(observation, Made) and self.revision == 0 and len(self.of(Made)) == 3:
            self.revision = 1

    def of(self, kind: type[Observation]) -> list[Observation]:
        return [observation for observation in self.heard if isinstance(observation, kind)]


def by_hand(policy: Told, order: list[str], problems: list[Problem], **budget: Any) -> list[Solution]:
    def script(request: Request) -> str:
        order.append(asked(request))
        return boxed("right")

    async def work() -> list[Solution]:
        engine = Engine(
            {"m": Model(backend=ScriptedBackend(script, latency=0.001), concurrency=1)},
            scheduler=policy,
            equivalent=same_text,
            **budget,
        )
        arm = Arm(
            "main", strategy_from_name("single_pass"), Oracle(by_text), ChatResponder(), Prompts.default()
        )
        try:
            return list(await asyncio.gather(*(engine.solve(problem, arm) for problem in problems)))
        finally:
            await engine.aclose()

    return run(work())


def test_a_policy_hears_of_every_attempt_verdict_and_end_and_is_asked_again() -> None:
    policy, order = Told(), list[str]()
    assert isinstance(policy, Learning)
    problems = [Problem(f"p{i}", question(i), "right") for i in range(8)]
    by_hand(policy, order, problems)
    for kind in (Made, Judged, Ended):
        heard = [o.problem for o in policy.of(kind) if not isinstance(o, str)]  # type: ignore[union-attr]
        assert sorted(heard) == sorted(problem.id for problem in problems)
    assert all(isinstance(o, Made) and o.tokens > 0 and o.answer == "right" for o in policy.of(Made))
    numbers = [int(text.split("number ")[1].split()[0]) for text in order]
    # The fourth call left before the third attempt was heard of, or just after it: then the order turns.
    assert numbers[:3] == [0, 1, 2]
    assert numbers[4:] == sorted(numbers[4:], reverse=True)


def test_calls_carry_the_deadlines_of_problems_and_budgets() -> None:
    policy = Told()
    problems = [
        Problem("own", question(0), "right", metadata={"deadline_s": 5}),
        Problem("none", question(1), "right"),
        Problem("nonsense", question(2), "right", metadata={"deadline_s": "soon"}),
    ]
    by_hand(policy, [], problems, budget=Budget(seconds=100.0))
    due = {waiting.problem: waiting.deadline for waiting in policy.asked}
    assert due["own"] == 5.0
    assert abs(due["none"] - 100.0) < 0.1
    assert abs(due["nonsense"] - 100.0) < 0.1
