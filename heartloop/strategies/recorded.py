"""Attempts that are there already: nothing is generated, the judge chooses (``heartloop judge``)."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.types import Problem, Solution, StopReason

__all__ = ["RECORDED", "Recorded"]

RECORDED = "recorded"
"""As an arm's settings name it. It is none of the strategies that a run can be started with."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Needs a journal that holds the problem's attempts; see :mod:`heartloop.runs.judging`."""

    name: str = RECORDED

    async def solve(self, problem: Problem, session: Session) -> Solution:
        if not session.recorded_attempts():
            return session.finish(None, StopReason.ROUNDS)
        return session.finish(await session.select(), StopReason.ROUNDS)
