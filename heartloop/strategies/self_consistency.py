"""Self-consistency (arXiv 2203.11171): n independent attempts, and the answer that most of them agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.judges.majority import largest_group
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Problem, Solution, StopReason

__all__ = ["SelfConsistency"]


@dataclass(frozen=True, slots=True)
class SelfConsistency:
    """The vote is the method's own: the run's judge is not asked, and no oracle's verdict is looked at.

    With ``stop`` attempts are made ``width`` at a time until the rule is content; with the agreement rule
    that is adaptive consistency (arXiv 2305.11860).

    Attributes:
        max_rounds, width: ``max_rounds * width`` attempts, as in resampling.
        n: how many attempts instead.
        stop: a rule that may end the sampling early.
    """

    max_rounds: int = 6
    width: int = 1
    n: int | None = None
    stop: StopRule | None = None
    name: str = "self_consistency"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        n = self.n or self.max_rounds * self.width
        batch = n if self.stop is None else self.width
        made: list[Attempt] = []
        for first in range(0, n, batch):
            numbers = range(first, min(n, first + batch))
            found = await session.gather({k: session.branch(k).respond(round=1) for k in numbers})
            made += found.values()
            if self.stop is not None and await stop_now(self.stop, [made], session):
                return session.finish(await majority(made, session), self.stop.reason)
        return session.finish(await majority(made, session), StopReason.ROUNDS)


async def majority(attempts: Sequence[Attempt], session: Session) -> Attempt:
    """The first attempt of the largest group of equivalent answers; the last one if none has an answer."""

    async def vote() -> int:
        group = await largest_group(attempts, session.equivalent)
        return attempts.index(group[0]) if group else len(attempts) - 1

    index: int = await session.decide(f"majority:{[a.answer for a in attempts]}", vote)
    return attempts[index]
