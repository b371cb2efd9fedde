"""Pairwise tournament after V1-Infer (arXiv 2603.04304).

Public: two phases, one in which everyone is compared a minimum number of times, one that pairs candidates of
like strength, as Swiss tournaments do, where the outcome is least certain; two ratings in a comparison; a
win rate weighted by the margin, floored at 0.1; at least two comparisons each; a window of 8; a budget of 3N.
Ours: the wording; that candidates are distinct answers and not attempts; the ring of the first phase; that
the window is counted in places of the ranking; both orders of every pair, each charged to the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heartloop.errors import UsageError
from heartloop.judges.base import Weighed, chosen
from heartloop.judges.comparing import Comparer, Standing, candidates_by_votes
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Pairwise"]


@dataclass(frozen=True, slots=True)
class Pairwise:
    """Calls in the role ``judge``: ``budget`` for each distinct answer; none where there is only one.

    The first phase (two comparisons each) is made in any case. Where no comparison can be read, the
    majority decides; it also breaks ties.

    Attributes:
        budget: calls for each distinct answer; a comparison in both orders is two.
        window: only candidates at most so many places apart are paired in the second phase.
        floor: weight of a comparison with equal ratings.
        both_orders: ask each pair in both orders.
    """

    budget: float = 3.0
    window: int = 8
    floor: float = 0.1
    both_orders: bool = True
    think: bool = True
    structured: bool = True
    name: str = "pairwise"
    needs_reference: bool = False

    def __post_init__(self) -> None:
        if not (self.budget > 0 and self.window >= 1 and 0 < self.floor <= 1):
            raise UsageError(
                f"judge {self.name!r}: budget is positive, window at least 1 and floor in (0, 1], "
                f"not {self.budget}, {self.window} and {self.floor}"
            )

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "a comparison says nothing of a single attempt")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with its win rate; answers of more votes come first."""
        candidates, shares = await candidates_by_votes(attempts, session)
        if len(candidates) < 2:
            return [Weighed(candidate, 1.0) for candidate in candidates]
        comparer = Comparer(problem, candidates, session, self.think, self.structured, self.both_orders)
        standing = Standing(len(candidates), self.floor)
        pairs = standing.coverage()
        asked = 0
        while pairs:
            ratings = await comparer.compare(pairs, asked)
            for pair in pairs:
                standing.record(pair, ratings.get(pair))
            asked += len(pairs)
            left = self.budget * len(candidates) - asked * comparer.cost
            pairs = standing.uncertain(self.window, int(left // comparer.cost))
        weights = shares if standing.empty else [standing.rate(i) for i in range(standing.count)]
        return [Weighed(candidate, weight) for candidate, weight in zip(candidates, weights, strict=True)]
