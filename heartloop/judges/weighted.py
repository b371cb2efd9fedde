"""Weighted self-consistency: votes count by how sure the model was of them.

``entropy``: each answer's vote is the inverse of its tokens' mean entropy, as "The Sequential Edge" (arXiv
2511.02309) does for the steps of a sequential chain. ``mean``, ``tail``, ...: by that confidence.
``logprob``: by the geometric mean of the tokens' probabilities (the normalised weighted sum of arXiv
2203.11171).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from heartloop.judges.base import Weighed, chosen
from heartloop.judges.votes import confidences, in_bounds, weighed, without_cut
from heartloop.types import Attempt, Problem, TraceConfidence, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Weighted"]

_LEAST_ENTROPY = 1e-3
"""An answer that was never in doubt does not outvote all others for ever."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """Needs no call, and log-probabilities of the attempts.

    Attributes:
        by: what weighs a vote.
        power: exponent on the weight; 0 is the plain vote.
        logprobs: alternatives of each token to ask for.
    """

    by: Literal["entropy", "mean", "bottom", "lowest", "tail", "logprob"] = "entropy"
    power: float = 1.0
    logprobs: int | None = 20
    name: str = "weighted"
    needs_reference: bool = False

    def __post_init__(self) -> None:
        in_bounds(self.name, self.power, self.logprobs)

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "a vote says nothing of a single attempt")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """The surest attempt of the heaviest answer; the last attempt if none has an answer."""
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with its share of the weight."""
        voting = without_cut(attempts)
        weights = [self.weight(confidence) for confidence in confidences(voting, self.name)]
        return await weighed(voting, weights, session.equivalent)

    def weight(self, confidence: TraceConfidence | None) -> float:
        """What a vote of such confidence counts."""
        if confidence is None:
            return 0.0
        if self.by == "entropy":
            plain = 1.0 / max(confidence.entropy, _LEAST_ENTROPY)
        elif self.by == "logprob":
            plain = math.exp(min(confidence.logprob, 0.0))
        else:
            plain = max(float(getattr(confidence, self.by)), 0.0)
        return float(plain**self.power)
