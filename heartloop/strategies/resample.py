"""Independent attempts under the same verifier and stop: the baseline that an oracle loop has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Problem, Solution, StopReason

__all__ = ["Resample"]


@dataclass(frozen=True, slots=True)
class Resample:
    """Up to ``max_rounds`` rounds of ``width`` fresh attempts; none sees another.

    Every attempt is a branch of its own, so each has a full vote in a majority. A rule ``stop`` takes
    all of them for one line, in the order in which they were made.
    """

    max_rounds: int = 6
    width: int = 1
    stop: StopRule | None = None
    name: str = "resample"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        line: list[Attempt] = []
        for round in range(1, self.max_rounds + 1):
            numbers = range((round - 1) * self.width, round * self.width)
            made = await session.gather({k: self._attempt(session.branch(k), round) for k in numbers})
            if right := accepted(made.values()):
                return session.finish(right, StopReason.VERIFIED)
            line += made.values()
            if self.stop is not None and await stop_now(self.stop, [line], session):
                return session.finish(await session.select(), self.stop.reason)
        return session.finish(await session.select(), StopReason.ROUNDS)

    async def _attempt(self, branch: Session, round: int) -> Attempt:
        return await branch.judge(await branch.respond(round=round))
