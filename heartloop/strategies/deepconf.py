"""DeepConf online (arXiv 2508.15260): independent traces, poor ones left early, until the sure ones agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low

from heartloop.engine.session import Session
from heartloop.errors import UsageError
from heartloop.judges.deepconf import DeepConf, threshold
from heartloop.judges.votes import confidences
from heartloop.strategies.base import accepted
from heartloop.types import Attempt, ConfidenceCut, Problem, Solution, StopReason

__all__ = ["DeepConfOnline"]


@dataclass(frozen=True, slots=True)
class DeepConfOnline:
    """A few whole traces first; they set the threshold. Every later trace is left as soon as the mean
    confidence of its last window is below it, has no vote, and costs what it had produced. In the end warm-up
    traces that are below it have no vote either, as in the authors' own program (facebookresearch/deepconf).

    Goes with a judge that asks for log-probabilities (``deepconf``, ``weighted``), and with a backend that
    can leave an answer in the middle (vLLM). The window is that of the warm-up traces' middle one.

    Attributes:
        attempts: most traces, the warm-up's included.
        warm_up: whole traces; 16 as in the paper.
        keep: share of the warm-up traces that the threshold would have let through: 0.1 (the paper's bold
            setting) or 0.9 (its careful one).
        agreement: share of the confidence-weighted votes at which to stop.
        width: traces side by side after the warm-up; agreement is looked at in between.
    """

    attempts: int = 32
    warm_up: int = 16
    keep: float = 0.1
    agreement: float = 0.95
    width: int = 8
    name: str = "deepconf"
    _votes: DeepConf = field(default=DeepConf(keep=1.0), repr=False)

    def __post_init__(self) -> None:
        if not (self.attempts >= self.warm_up >= 1 and self.width >= 1):
            raise UsageError("strategy 'deepconf': attempts >= warm_up >= 1 and width >= 1 are needed")
        if not (0 < self.keep <= 1 and 0 < self.agreement <= 1):
            raise UsageError("strategy 'deepconf': keep and agreement are shares above 0 and at most 1")

    async def solve(self, problem: Problem, session: Session) -> Solution:
        session.branch(0).cut_answers(ConfidenceCut(1, 0.0))  # says now, not after the warm-up, if it can't
        made = await self._traces(range(self.warm_up), None, session)
        warm_up = tuple(made)
        cut = self._cut(warm_up)
        for start in range(self.warm_up, self.attempts, self.width):
            if right := accepted(made):
                return session.finish(right, StopReason.VERIFIED)
            if await self._agreed(problem, made, session):
                return session.finish(
                    await session.select(self._voting(warm_up, made[len(warm_up) :], cut)), StopReason.AGREED
                )
            numbers = range(start, min(start + self.width, self.attempts))
            made += await self._traces(numbers, cut, session)
        right = accepted(made)
        if right is not None:
            return session.finish(right, StopReason.VERIFIED)
        return session.finish(
            await session.select(self._voting(warm_up, made[len(warm_up) :], cut)), StopReason.ROUNDS
        )

    async def _traces(self, numbers: range, cut: ConfidenceCut | None, session: Session) -> list[Attempt]:
        async def trace(branch: Session) -> Attempt:
            branch.cut_answers(cut)
            return await branch.judge(await branch.respond(round=1))

        return list((await session.gather({k: trace(session.branch(k)) for k in numbers})).values())

    def _cut(self, warm_up: Sequence[Attempt]) -> ConfidenceCut | None:
        known = [found for found in confidences(warm_up, self.name) if found is not None]
        if not known:
            return None
        window = median_low(found.window for found in known)
        return ConfidenceCut(window, threshold([found.lowest for found in known], self.keep))

    def _voting(
        self, warm_up: Sequence[Attempt], later: Sequence[Attempt], cut: ConfidenceCut | None
    ) -> Sequence[Attempt]:
        """The warm-up traces that reach the threshold, and all later ones (of which the judge leaves out what
        was cut); all traces where none of these has an answer."""
        sure = [a for a in warm_up if cut and a.confidence and a.confidence.lowest >= cut.below]
        voting = [*sure, *later]
        return voting if any(attempt.answer is not None for attempt in voting) else [*warm_up, *later]

    async def _agreed(self, problem: Problem, made: Sequence[Attempt], session: Session) -> bool:
        async def agree() -> bool:
            votes = await self._votes.weigh(problem, made, session)
            return max((one.weight for one in votes), default=0.0) >= self.agreement

        return await session.decide(f"agreement:{[attempt.answer for attempt in made]}", agree)
