"""Self-reflection: the same loop as HEART without affect (after arXiv 2303.17651 and 2405.06682)."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Problem, Solution, StopReason

__all__ = ["SelfReflection"]


@dataclass(frozen=True, slots=True)
class SelfReflection:
    """Each round shows the model its last answer and one fixed, affect-free request to review it.

    Attributes:
        max_rounds: rounds in all, the first attempt included.
        stable_rounds: stop when this many answers in a row are equivalent; None: never.
        stop: a rule that may end the loop before its last round.
    """

    max_rounds: int = 6
    stable_rounds: int | None = None
    stop: StopRule | None = None
    name: str = "self_reflection"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        branch = session.branch(0)
        line: list[Attempt] = [await branch.judge(await branch.respond())]
        while not (right := accepted(line)):
            if await branch.stable(line, self.stable_rounds):
                return session.finish(await session.select(), StopReason.STABLE)
            if self.stop is not None and await stop_now(self.stop, [line], session):
                return session.finish(await session.select(), self.stop.reason)
            if len(line) == self.max_rounds:
                return session.finish(await session.select(), StopReason.ROUNDS)
            feedback = f"self_reflection_{branch.speech_act(line[-1]).value}"
            line.append(await branch.judge(await branch.respond(line, feedback=feedback)))
        return session.finish(right, StopReason.VERIFIED)
