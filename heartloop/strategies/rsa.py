"""Recursive self-aggregation (RSA, arXiv 2509.26626): a population of answers, each renewed from a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.errors import UsageError
from heartloop.strategies.base import accepted
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Problem, Solution, StopReason

__all__ = ["RecursiveAggregation"]


@dataclass(frozen=True, slots=True)
class RecursiveAggregation:
    """``max_rounds * width`` attempts. The paper draws the final answer from the last generation; here the
    judge selects from it.

    Attributes:
        max_rounds: generations, the first included (the paper's T).
        width: answers in the population (N).
        k: answers that each new one is made from, drawn without replacement (K).
        stop: a rule that may end it before the last generation; it is asked about the latest one.
    """

    max_rounds: int = 6
    width: int = 4
    k: int = 3
    stop: StopRule | None = None
    name: str = "rsa"

    def __post_init__(self) -> None:
        if self.width < 2:
            raise UsageError("rsa aggregates a population: give it a width of 2 or more (--width 4)")
        if self.k < 1:
            raise UsageError(f"rsa: k must be at least 1, not {self.k}")

    async def solve(self, problem: Problem, session: Session) -> Solution:
        population: list[Attempt] = []
        for round in range(1, self.max_rounds + 1):
            drawn = {i: self._draw(population, round, i, session) for i in range(self.width)}
            made = await session.gather(
                {i: self._attempt(session.branch(i), round, few) for i, few in drawn.items()}
            )
            population = list(made.values())
            if right := accepted(population):
                return session.finish(right, StopReason.VERIFIED)
            if self.stop is not None and await stop_now(self.stop, [[a] for a in population], session):
                return session.finish(await session.select(population), self.stop.reason)
        return session.finish(await session.select(population), StopReason.ROUNDS)

    def _draw(self, population: list[Attempt], round: int, i: int, session: Session) -> list[Attempt]:
        few = min(self.k, len(population))
        return session.random(f"rsa/{round}/{i}").sample(population, few)

    async def _attempt(self, branch: Session, round: int, few: Sequence[Attempt]) -> Attempt:
        shown = [f"Candidate {number}:\n{attempt.text}" for number, attempt in enumerate(few, 1)]
        prompt = "aggregate" if few else "chain_of_thought"
        return await branch.judge(await branch.respond(prompt=prompt, context=shown, round=round))
