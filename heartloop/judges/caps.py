"""Cascaded pairwise selection after CAPS (arXiv 2605.15513): part of the evidence first, all of it if needed.

Public: a cascade of four stages that adapts how much of each solution the verifier sees and how comparisons
are spread, with an optional rescue; about a quarter of the uniform schedule's verifier tokens on code. What
the stages do in detail, thresholds and wording are ours:

1. screen: everyone is compared twice, each candidate shown by the last ``evidence`` of its text;
2. refine: pairs of like strength, as a Swiss tournament makes them, on the same evidence;
3. escalate: whoever is within ``margin`` of the leader is compared again on the whole texts, unless the
   leader stands alone;
4. rescue: an answer of the majority that the first stages lost is compared with the winner on whole texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heartloop.errors import UsageError
from heartloop.judges.base import Weighed, chosen
from heartloop.judges.comparing import Comparer, Pair, Standing, candidates_by_votes
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Caps"]

_LEAST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Caps:
    """Calls in the role ``judge``, most of them on short excerpts; none where there is only one answer.

    Attributes:
        evidence: share of the longest text that the first stages show of each, from its end (where the
            conclusion is); 200 characters at least.
        margin: win rates closer to the leader's than this are undecided.
        window: as in :class:`~heartloop.judges.pairwise.Pairwise`.
        rescue: the fourth stage.
    """

    evidence: float = 0.25
    margin: float = 0.2
    window: int = 8
    rescue: bool = True
    both_orders: bool = True
    think: bool = True
    structured: bool = True
    name: str = "caps"
    needs_reference: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.evidence <= 1 and 0 <= self.margin <= 1 and self.window >= 1):
            raise UsageError(
                f"judge {self.name!r}: evidence is in (0, 1], margin in [0, 1] and window at least 1, "
                f"not {self.evidence}, {self.margin} and {self.window}"
            )

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "a comparison says nothing of a single attempt")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer: up to 0.5 by win rate on partial evidence, 0.5 and more by that on the whole."""
        candidates, shares = await candidates_by_votes(attempts, session)
        count = len(candidates)
        if count < 2:
            return [Weighed(candidate, 1.0) for candidate in candidates]
        comparer = Comparer(problem, candidates, session, self.think, self.structured, self.both_orders)
        part = max(_LEAST_CHARACTERS, int(self.evidence * max(len(c.text) for c in candidates)))
        asked = 0

        async def play(table: Standing, pairs: Sequence[Pair], limit: int | None) -> None:
            nonlocal asked
            first, asked = asked, asked + len(pairs)
            ratings = await comparer.compare(pairs, first, limit)
            for pair in pairs:
                table.record(pair, ratings.get(pair))

        screened = Standing(count)
        await play(screened, screened.coverage(), part)
        await play(screened, screened.uncertain(self.window, count // 2), part)
        ranking = screened.ranking()
        leader = screened.rate(ranking[0])
        undecided = [i for i in ranking if leader - screened.rate(i) <= self.margin]

        whole = Standing(count)
        if len(undecided) > 1:
            ring = Standing(len(undecided)).coverage()
            await play(whole, [(undecided[a], undecided[b]) for a, b in ring], None)
        if screened.empty and whole.empty:
            return [Weighed(c, share) for c, share in zip(candidates, shares, strict=True)]
        weights = [screened.rate(i) / 2 for i in range(count)]
        for i in undecided:
            weights[i] = (1 + whole.rate(i)) / 2

        best = max(range(count), key=lambda i: weights[i])
        if self.rescue and 0 not in undecided and shares[0] > shares[best]:
            last = Standing(count)
            await play(last, [(0, best)], None)
            if not last.empty and last.rate(0) >= last.rate(best):
                weights[0] = 1.0
        return [Weighed(candidate, weight) for candidate, weight in zip(candidates, weights, strict=True)]
