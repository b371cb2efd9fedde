"""Votes combined with pairwise evidence, after Joint Consistency (arXiv 2605.06219).

Public: aggregation as a constrained Ising-type energy, in which signals of single traces act as external
fields and comparisons by a model as interactions; votes and weighted votes are its special cases; under
homogeneity (traces of one answer are alike) it is a choice among answers. Ours is the simplest such energy,
with the share of the votes v as the field and the margin d(k, j) in [-1, 1] of the ratings of k over j as the
interaction, of which the least is looked for:

    E(k) = -( v(k) + strength * sum over j != k of v(j) * d(k, j) )

``strength=0`` is the majority. The wording is ours, and so is comparing only the ``most`` answers with the
most votes, each pair in both orders: with them nearly all votes are covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from heartloop.errors import UsageError
from heartloop.judges.base import Weighed, chosen
from heartloop.judges.comparing import Comparer, candidates_by_votes
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["JointConsistency"]


@dataclass(frozen=True, slots=True)
class JointConsistency:
    """``most`` * (``most`` - 1) calls in the role ``judge``; none where there is only one answer.

    Attributes:
        strength: of the comparisons against the votes.
        most: answers that are compared, each with each.
    """

    strength: float = 1.0
    most: int = 4
    both_orders: bool = True
    think: bool = True
    structured: bool = True
    name: str = "joint"
    needs_reference: bool = False

    def __post_init__(self) -> None:
        if not (self.strength >= 0 and self.most >= 2):
            raise UsageError(
                f"judge {self.name!r}: strength is 0 or more and most at least 2, "
                f"not {self.strength} and {self.most}"
            )

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "votes say nothing of a single attempt")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with minus its energy, brought to [0, 1]; answers of more votes come first."""
        candidates, shares = await candidates_by_votes(attempts, session)
        energies = [-share for share in shares]
        pairs = list(combinations(range(min(self.most, len(candidates))), 2))
        if self.strength > 0 and pairs:
            comparer = Comparer(problem, candidates, session, self.think, self.structured, self.both_orders)
            for (k, j), (a, b) in (await comparer.compare(pairs, 0)).items():
                energies[k] -= self.strength * shares[j] * (a - b)
                energies[j] -= self.strength * shares[k] * (b - a)
        # An energy lies in [-1 - strength, strength].
        return [
            Weighed(candidate, (self.strength - energy) / (1 + 2 * self.strength))
            for candidate, energy in zip(candidates, energies, strict=True)
        ]
