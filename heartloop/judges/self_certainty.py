"""Self-certainty (arXiv 2502.18581): votes ranked by how far the model's distributions are from uniform.

The divergence is over the whole vocabulary: a top 20 is not it, and is refused rather than taken for it. So
it takes a server that returns the whole distribution (vLLM with ``--max-logprobs -1``), at the price of the
vocabulary's size in numbers for every token: for short answers and small vocabularies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heartloop.confidence import WHOLE_VOCABULARY
from heartloop.errors import UsageError
from heartloop.judges.base import Weighed, chosen
from heartloop.judges.votes import confidences, in_bounds, weighed, without_cut
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["SelfCertainty"]


@dataclass(frozen=True, slots=True)
class SelfCertainty:
    """Borda voting: of n attempts the surest has n to the power ``power`` votes, the next (n - 1), ...

    Needs no call, and the whole distribution of every token. Where answers can't be grouped (free text),
    all differ, and the surest attempt wins.

    Attributes:
        power: 0 is the plain vote, a large one is best-of-n by self-certainty. The paper tunes it with n
            (0.5 for few attempts, above 1 for dozens).
    """

    power: float = 0.5
    logprobs: int | None = WHOLE_VOCABULARY
    name: str = "self_certainty"
    needs_reference: bool = False

    def __post_init__(self) -> None:
        in_bounds(self.name, self.power, self.logprobs)

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "self-certainty ranks attempts, it has no scale")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """The surest attempt of the answer with most votes."""
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with its share of the votes."""
        voting = without_cut(attempts)
        sure = [
            0.0 if found is None else self._certainty(found.self_certainty)
            for found in confidences(voting, self.name)
        ]
        order = sorted(range(len(voting)), key=lambda place: -sure[place])
        votes = [0.0] * len(voting)
        for rank, place in enumerate(order):
            votes[place] = float(len(voting) - rank) ** self.power
        return await weighed(voting, votes, session.equivalent)

    def _certainty(self, value: float | None) -> float:
        if value is None:
            raise UsageError(
                f"the judge {self.name!r} needs the whole vocabulary's log-probabilities, and the model "
                "returned some of them: serve it with `vllm serve MODEL --max-logprobs -1`, or take "
                "'deepconf', which works with the top 20"
            )
        return value
