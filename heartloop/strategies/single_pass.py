"""One attempt, answer only: the baseline below chain of thought."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.types import Problem, Solution, StopReason

__all__ = ["SinglePass"]


@dataclass(frozen=True, slots=True)
class SinglePass:
    """One call. ``prompt`` names the question's template."""

    prompt: str = "single_pass"
    name: str = "single_pass"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        branch = session.branch(0)
        attempt = await branch.judge(await branch.respond(prompt=self.prompt))
        return session.finish(attempt, StopReason.VERIFIED if accepted([attempt]) else StopReason.ROUNDS)
