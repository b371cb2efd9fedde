"""Parallel-distill-refine (PDR, arXiv 2510.01123): drafts side by side, distilled into a short workspace that
the next drafts start from, so that the context stays bounded however many there were."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.strategies.consult import consult
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Problem, Solution, StopReason

__all__ = ["ParallelDistillRefine"]


@dataclass(frozen=True, slots=True)
class ParallelDistillRefine:
    """``(max_rounds - 1) * width + 1`` attempts, as the last round makes one, and ``max_rounds - 1`` calls to
    distill.

    Attributes:
        max_rounds: rounds, the last of which refines.
        width: drafts side by side (1: sequential refinement).
        stop: a rule that may end it before the last round; it is asked about the drafts of a round.
    """

    max_rounds: int = 6
    width: int = 1
    stop: StopRule | None = None
    name: str = "pdr"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        workspace: list[str] = []
        drafts: list[Attempt] = []
        for round in range(1, self.max_rounds + 1):
            width = 1 if round == self.max_rounds else self.width
            made = await session.gather(
                {k: self._attempt(session.branch(k), workspace, round) for k in range(width)}
            )
            drafts = list(made.values())
            if right := accepted(drafts):
                return session.finish(right, StopReason.VERIFIED)
            if self.stop is not None and await stop_now(self.stop, [[d] for d in drafts], session):
                return session.finish(await session.select(drafts), self.stop.reason)
            if round < self.max_rounds:
                texts = [f"Draft {number}:\n{draft.text}" for number, draft in enumerate(drafts, 1)]
                workspace = [await consult(session, "distill", problem, texts, round=round)]
        return session.finish(await session.select(drafts), StopReason.ROUNDS)

    async def _attempt(self, branch: Session, workspace: list[str], round: int) -> Attempt:
        prompt = "workspace" if workspace else "chain_of_thought"
        return await branch.judge(await branch.respond(prompt=prompt, context=workspace, round=round))
