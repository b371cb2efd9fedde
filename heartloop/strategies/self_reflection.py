"""Self-reflection: the same loop as HEART without affect (after arXiv 2303.17651 and 2405.06682)."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Problem, Solution, StopReason

__all__ = ["SelfReflection"]

Line = tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class SelfReflection:
    """Each round shows the model its last answer and one fixed, affect-free request to review it.

    Attributes:
        max_rounds: rounds in all, the first attempt included.
        width: lines that continue the first attempt side by side.
        stable_rounds: stop when every line's last answers, this many, are equivalent; None: never.
        stop: a rule that may end the loop before its last round.
        feedback: the templates, without the speech act that ends their names.
    """

    max_rounds: int = 6
    width: int = 1
    stable_rounds: int | None = None
    stop: StopRule | None = None
    feedback: str = "self_reflection"
    name: str = "self_reflection"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        start = session.branch(0)
        first = await start.judge(await start.respond())
        lines: dict[int, Line] = dict.fromkeys(range(self.width), (first,))
        for round in range(1, self.max_rounds + 1):
            if round > 1:
                lines = await session.gather(
                    {k: self._continue(session.branch(k), line) for k, line in lines.items()}
                )
            if right := accepted(line[-1] for line in lines.values()):
                return session.finish(right, StopReason.VERIFIED)
            if all([await session.branch(k).stable(line, self.stable_rounds) for k, line in lines.items()]):
                return session.finish(await session.select(), StopReason.STABLE)
            if self.stop is not None and await stop_now(self.stop, list(lines.values()), session):
                return session.finish(await session.select(), self.stop.reason)
        return session.finish(await session.select(), StopReason.ROUNDS)

    async def _continue(self, branch: Session, line: Line) -> Line:
        feedback = f"{self.feedback}_{branch.speech_act(line[-1]).value}"
        return (*line, await branch.judge(await branch.respond(line, feedback=feedback)))
