"""Best of n: independent attempts, each scored by the judge, and the best is kept (arXiv 2110.14168)."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.types import Attempt, Problem, Solution, StopReason

__all__ = ["BestOfN"]


@dataclass(frozen=True, slots=True)
class BestOfN:
    """All attempts are made side by side. The highest score wins, the earlier of equals; a judge that gives
    no scores selects instead.

    Attributes:
        max_rounds, width: ``max_rounds * width`` attempts, as in resampling.
        n: how many attempts instead.
    """

    max_rounds: int = 6
    width: int = 1
    n: int | None = None
    name: str = "best_of_n"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        n = self.n or self.max_rounds * self.width
        made = await session.gather({k: self._attempt(session.branch(k)) for k in range(n)})
        if right := accepted(made.values()):
            return session.finish(right, StopReason.VERIFIED)
        scored = [a for a in made.values() if a.verdict is not None and a.verdict.score is not None]
        best = max(scored, key=_score) if scored else await session.select()
        return session.finish(best, StopReason.ROUNDS)

    async def _attempt(self, branch: Session) -> Attempt:
        return await branch.judge(await branch.respond(round=1))


def _score(attempt: Attempt) -> float:
    assert attempt.verdict is not None
    assert attempt.verdict.score is not None
    return attempt.verdict.score
