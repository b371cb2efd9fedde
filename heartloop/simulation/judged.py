"""Judges over drawn candidates: the judges' own code, in the engine, on a model with known faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.session import Session
from heartloop.judges.base import Judge
from heartloop.loop import HeartLoop
from heartloop.simulation.critics import Critic
from heartloop.simulation.crowds import Drawn
from heartloop.types import Attempt, Problem, Solution, StopReason, Verdict

__all__ = ["Given", "judged"]


@dataclass(frozen=True, slots=True)
class Given:
    """A strategy that makes no attempt: the judge chooses among those given for each problem's id."""

    attempts: Mapping[str, Sequence[Attempt]]
    name: str = "given"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        chosen = await session.select(self.attempts[problem.id])
        return session.finish(chosen, StopReason.ROUNDS)


async def judged(
    drawn: Sequence[Drawn], judge: str | Judge, critic: Critic | None = None, seed: int = 0
) -> list[Solution]:
    """What ``judge`` makes of each problem; the solution's usage and calls are the judge's own."""

    def silent(request: object) -> str:
        raise AssertionError("a judge that was to need no model called one")

    script = silent if critic is None else critic.script(seed)
    loop = HeartLoop(
        ScriptedBackend(script, name="critic"),
        judge=judge,
        strategy=Given({one.problem.id: one.attempts for one in drawn}),
        verify=_by_text,
        equivalent=_same,
        seed=seed,
        active=64,
    )
    async with loop:
        return await loop.solve_many([one.problem for one in drawn])


async def _by_text(problem: Problem, answer: str | None) -> Verdict:
    return Verdict(answer == problem.reference, "text")


async def _same(a: str, b: str, kind: str) -> bool:
    return a == b
