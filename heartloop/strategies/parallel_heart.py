"""Parallel HEART: within a round nothing waits for anything. Branches with a cue each start from the best
answer so far; they are merged, and the next round restarts from the best."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.emotions import AlternatingValence, Deck, Rotation
from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Cue, Problem, Solution, StopReason

__all__ = ["ParallelHeart"]


@dataclass(frozen=True, slots=True)
class ParallelHeart:
    """HEART's chain of rounds makes each answer depend on all before it. Here a round's branches depend on
    one answer alone, share the whole prefix up to their cues (so a prefix cache serves them), and differ only
    by cue and seed. The judge merges: it selects the best of all attempts so far, which is where the next
    round starts. Only that one choice is sequential. Every attempt is a branch of its own, with a full vote.

    Attributes:
        max_rounds: rounds in all, the first attempt included: ``1 + (max_rounds - 1) * width`` attempts.
        width: branches of a round.
        rotation: which cue comes next.
        deck: the cues' wording; None for HeartLoop's own.
        stop: a rule that may end it early; each attempt is a line of its own.
    """

    max_rounds: int = 6
    width: int = 4
    rotation: Rotation = AlternatingValence()
    deck: Deck | None = None
    stop: StopRule | None = None
    name: str = "parallel_heart"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        cues = await session.cues(self.rotation, self.deck)
        start = session.branch(0)
        best = await start.judge(await start.respond())
        made = [best]
        for round in range(1, self.max_rounds + 1):
            if round > 1:
                fresh = await cues.next_round([(best,)] * self.width)
                before = 1 + (round - 2) * self.width
                branches = await session.gather(
                    {
                        k: self._attempt(session.branch(k), best, cue, round)
                        for k, cue in enumerate(fresh, before)
                    }
                )
                made += branches.values()
            if right := accepted(made):
                return session.finish(right, StopReason.VERIFIED)
            if self.stop is not None and await stop_now(self.stop, [[a] for a in made], session):
                return session.finish(await session.select(), self.stop.reason)
            best = await self._merged(made, session)
        return session.finish(best, StopReason.ROUNDS)

    async def _merged(self, made: list[Attempt], session: Session) -> Attempt:
        return made[0] if len(made) == 1 else await session.select(made)

    async def _attempt(self, branch: Session, best: Attempt, cue: Cue, round: int) -> Attempt:
        return await branch.judge(await branch.respond([best], cue, round=round))
