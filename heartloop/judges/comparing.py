"""Comparisons of two candidates by a model, and the table that they make.

In each comparison the model rates both candidates (arXiv 2603.04304), in both orders: a bonus for whichever
comes first (or second) then falls to both, and cancels. That doubles the calls, and both are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heartloop.judges.asking import Ask
from heartloop.judges.majority import branch_votes, groups_by_answer
from heartloop.judges.reading import ratings
from heartloop.types import Attempt, Problem

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Comparer", "Standing", "candidates_by_votes"]

Ratings = tuple[float, float]
Pair = tuple[int, int]


async def candidates_by_votes(
    attempts: Sequence[Attempt], session: Session
) -> tuple[list[Attempt], list[float]]:
    """One attempt for each distinct answer, that of most votes first, and their shares of the votes."""
    groups = await groups_by_answer(attempts, session.equivalent)
    votes = branch_votes(groups)
    order = sorted(range(len(groups)), key=lambda k: -votes[k])
    total = sum(votes)
    return [groups[k][0] for k in order], [float(votes[k] / total) for k in order]


@dataclass(frozen=True, slots=True)
class Comparer:
    """Asks for comparisons of one problem's candidates.

    Attributes:
        session: each comparison takes a branch of its own below it.
        both_orders: False asks in one order, drawn by the run's seed.
    """

    problem: Problem
    candidates: Sequence[Attempt]
    session: Session
    think: bool = True
    structured: bool = True
    both_orders: bool = True

    @property
    def cost(self) -> int:
        """Calls of one comparison."""
        return 2 if self.both_orders else 1

    async def compare(
        self, pairs: Iterable[Pair], first_branch: int, limit: int | None = None
    ) -> dict[Pair, Ratings]:
        """The ratings of ``pairs``, made side by side, without those that can't be read in both orders.

        Args:
            first_branch: the first of as many free branches of the session as there are pairs.
            limit: each candidate is cut to its last so many characters.
        """
        pairs = list(pairs)
        if not pairs:
            return {}
        made = await self.session.gather(
            {
                pair: self._compare(pair, self.session.branch(first_branch + k), limit)
                for k, pair in enumerate(pairs)
            }
        )
        return {pair: ratings for pair, ratings in made.items() if ratings is not None}

    async def _compare(self, pair: Pair, session: Session, limit: int | None) -> Ratings | None:
        turned = [False, True] if self.both_orders else [session.random("order").random() < 0.5]
        ask = Ask("compare", "scores", self.think, self.structured, names=("A", "B"))
        asked: dict[int, Coroutine[Any, Any, Any]] = {}
        for k, turn in enumerate(turned):
            a, b = (pair[1], pair[0]) if turn else pair
            shown = (self.candidates[a], self.candidates[b])
            asked[k] = ask(self.problem, shown, session.branch(k), limit=limit)
        replies = await session.gather(asked)
        sums = [0.0, 0.0]
        for k, turn in enumerate(turned):
            read = ratings(replies[k].text) if k in replies else None
            if read is None:
                return None
            first, second = read
            sums[0] += second if turn else first
            sums[1] += first if turn else second
        return sums[0] / len(turned), sums[1] / len(turned)


class Standing:
    """What comparisons have shown so far: win rates weighted by the margin of the ratings.

    A comparison weighs as much as its ratings differ (both in [0, 1]), and ``floor`` at least; equal ratings
    are half a win for each (arXiv 2603.04304: a margin-weighted win rate, floored at 0.1).
    """

    def __init__(self, count: int, floor: float = 0.1) -> None:
        self.count = count
        self.floor = floor
        self.met: Counter[Pair] = Counter()
        self._won = [0.0] * count
        self._weight = [0.0] * count

    def record(self, pair: Pair, ratings: Ratings | None) -> None:
        """One comparison; None for one that could not be read."""
        i, j = pair
        self.met[min(i, j), max(i, j)] += 1
        if ratings is None:
            return
        a, b = ratings
        weight = max(abs(a - b), self.floor)
        share = 0.5 if a == b else float(a > b)
        self._won[i] += weight * share
        self._won[j] += weight * (1 - share)
        self._weight[i] += weight
        self._weight[j] += weight

    @property
    def empty(self) -> bool:
        """Whether no comparison could be read."""
        return not any(self._weight)

    def rate(self, i: int) -> float:
        """Win rate of candidate ``i`` in [0, 1]; 0.5 while nothing is known."""
        return self._won[i] / self._weight[i] if self._weight[i] else 0.5

    def ranking(self) -> list[int]:
        """Candidates by win rate; of equals, the one that comes first."""
        return sorted(range(self.count), key=lambda i: (-self.rate(i), i))

    def coverage(self, least: int = 2) -> list[Pair]:
        """Pairs by which everyone is compared ``least`` times (even numbers): rings over the candidates."""
        if self.count < 2:
            return []
        pairs = []
        for step in range(1, max(1, least // 2) + 1):
            step = (step - 1) % (self.count - 1) + 1
            pairs += [(i, (i + step) % self.count) for i in range(self.count)]
        return pairs

    def uncertain(self, window: int, most: int) -> list[Pair]:
        """At most ``most`` pairs whose outcome is least certain, nobody in two of them.

        Paired are candidates at most ``window`` places apart in the ranking; those that met least often
        before, of these the ones with the closest win rates, of these the ones ranked highest.
        """
        ranking = self.ranking()
        open_pairs = []
        for p, i in enumerate(ranking):
            for q in range(p + 1, min(p + window, self.count - 1) + 1):
                j = ranking[q]
                met = self.met[min(i, j), max(i, j)]
                open_pairs.append((met, abs(self.rate(i) - self.rate(j)), p, q))
        taken: set[int] = set()
        found: list[Pair] = []
        for _, _, p, q in sorted(open_pairs):
            if len(found) >= most:
                break
            if p not in taken and q not in taken:
                taken |= {p, q}
                found.append((ranking[p], ranking[q]))
        return found
