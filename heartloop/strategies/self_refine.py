"""Self-refine (arXiv 2303.17651): the model criticises its own answer, then refines it by that criticism."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.strategies.consult import consult
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Problem, Solution, SpeechAct, StopReason

__all__ = ["SATISFIED", "SelfRefine"]

SATISFIED = "NOTHING TO CHANGE"
"""What the critique is asked to say when the answer can stand; the paper's stop indicator."""


@dataclass(frozen=True, slots=True)
class SelfRefine:
    """Each round after the first costs two calls: the critique, and the attempt that follows it.

    Attributes:
        max_rounds: attempts in all, the first included.
        stop: a rule that may end the loop before its last round.
    """

    max_rounds: int = 6
    stop: StopRule | None = None
    name: str = "self_refine"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        branch = session.branch(0)
        line: list[Attempt] = [await branch.judge(await branch.respond())]
        while not (right := accepted(line)):
            if self.stop is not None and await stop_now(self.stop, [line], session):
                return session.finish(await session.select(), self.stop.reason)
            if len(line) == self.max_rounds:
                return session.finish(await session.select(), StopReason.ROUNDS)
            act = branch.speech_act(line[-1])
            critique = await consult(
                branch, f"critique_{act.value}", problem, [line[-1].text], round=len(line) + 1
            )
            if _satisfied(critique) and act is SpeechAct.INVITE_RECHECK:
                return session.finish(line[-1], StopReason.SATISFIED)
            refined = await branch.respond(line, feedback="self_refine", context=[critique])
            line.append(await branch.judge(refined))
        return session.finish(right, StopReason.VERIFIED)


def _satisfied(critique: str) -> bool:
    """Whether the critique says that and nothing else: within a longer one it may be about a single step."""
    return critique.strip(" .!*\"'\n").upper() == SATISFIED
