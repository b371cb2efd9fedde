"""DeepConf (arXiv 2508.15260): only the traces that the model was sure of vote, each by how sure.

This is the paper's offline use. Its online use, which also leaves poor traces early, is the strategy
``deepconf`` with this judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heartloop.errors import UsageError
from heartloop.judges.base import Weighed, chosen
from heartloop.judges.votes import Measure, confidences, in_bounds, weighed, without_cut
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["DeepConf", "threshold"]


def threshold(values: Sequence[float], keep: float) -> float:
    """The confidence that the best ``keep`` of ``values`` reach (at least one does)."""
    kept = max(1, math.ceil(keep * len(values) - 1e-9))
    return sorted(values, reverse=True)[kept - 1]


@dataclass(frozen=True, slots=True)
class DeepConf:
    """Needs no call, and log-probabilities of the attempts.

    Attributes:
        measure: of a trace: its least sure tenth of windows (the paper's best in most tables), ...
        keep: share of the traces that vote. The paper uses 0.9 (careful) and 0.1 (bold, with hundreds of
            traces: of ten it leaves one).
        logprobs: alternatives of each token to ask for; 20 as in the paper.
    """

    measure: Measure = "bottom"
    keep: float = 0.9
    logprobs: int | None = 20
    name: str = "deepconf"
    needs_reference: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UsageError(
                f"the judge 'deepconf': keep is a share above 0 and at most 1, not {self.keep:g}"
            )
        in_bounds(self.name, 1.0, self.logprobs)

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "confidence says something only beside that of other attempts")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """The surest attempt of the heaviest answer; the last attempt if none has an answer."""
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer of the traces that vote, with its share of the weight."""
        voting, weights = self._weighed(attempts)
        return await weighed(voting, weights, session.equivalent)

    def _weighed(self, attempts: Sequence[Attempt]) -> tuple[list[Attempt], list[float]]:
        whole = without_cut(attempts)
        sure = [
            0.0 if found is None else float(getattr(found, self.measure))
            for found in confidences(whole, self.name)
        ]
        least = threshold(sure, self.keep)
        kept = [(a, s) for a, s in zip(whole, sure, strict=True) if s >= least]
        if not any(a.answer is not None for a, _ in kept):  # sure of nothing that can be graded
            kept = list(zip(whole, sure, strict=True))
        return [a for a, _ in kept], [s for _, s in kept]
