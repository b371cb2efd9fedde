"""HEART (arXiv 2509.22876): answer, look, and try again with an emotional cue whose valence alternates."""

from __future__ import annotations

from dataclasses import dataclass

from heartloop.emotions import AlternatingValence, Deck, Rotation
from heartloop.engine.session import Session
from heartloop.strategies.base import accepted
from heartloop.strategies.stopping import StopRule, stop_now
from heartloop.types import Attempt, Cue, Problem, Solution, StopReason

__all__ = ["Heart"]

Line = tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Heart:
    """The loop. Number of rounds, temperatures and first valence are not public: the defaults are ours.

    With an oracle that gates (S1) feedback says that the answer was wrong, and the first right answer ends
    the loop. Otherwise (S2) feedback claims nothing, all rounds run, and the judge chooses at the end.

    Attributes:
        max_rounds: rounds in all, the first attempt included.
        width: lines that continue the first attempt side by side, each with a cue of its own, so that a
            round takes the time of one call.
        rotation: which cue comes next.
        deck: the cues' wording; None for HeartLoop's own.
        stable_rounds: stop when every line's last answers, this many, are equivalent; None: never.
        stop: a rule that may end the loop before its last round.
    """

    max_rounds: int = 6
    width: int = 1
    rotation: Rotation = AlternatingValence()
    deck: Deck | None = None
    stable_rounds: int | None = None
    stop: StopRule | None = None
    name: str = "heart"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        cues = await session.cues(self.rotation, self.deck)
        start = session.branch(0)
        first = await start.judge(await start.respond())
        lines: dict[int, Line] = dict.fromkeys(range(self.width), (first,))
        for round in range(1, self.max_rounds + 1):
            if round > 1:
                fresh = dict(zip(lines, await cues.next_round(list(lines.values())), strict=True))
                lines = await session.gather(
                    {k: self._continue(session.branch(k), line, fresh[k]) for k, line in lines.items()}
                )
            if right := accepted(line[-1] for line in lines.values()):
                return session.finish(right, StopReason.VERIFIED)
            if all([await session.branch(k).stable(line, self.stable_rounds) for k, line in lines.items()]):
                return session.finish(await session.select(), StopReason.STABLE)
            if self.stop is not None and await stop_now(self.stop, list(lines.values()), session):
                return session.finish(await session.select(), self.stop.reason)
        return session.finish(await session.select(), StopReason.ROUNDS)

    async def _continue(self, branch: Session, line: Line, cue: Cue) -> Line:
        return (*line, await branch.judge(await branch.respond(line, cue)))
