"""GenSelect (arXiv 2507.17797): the model reads the candidates side by side and chooses one.

Public: one prompt with all solutions, long reasoning, the choice of one; for more solutions than fit, a
knockout of groups. Ours: the wording, a window of 8, several votes over different orders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heartloop.errors import ContextOverflow, UsageError
from heartloop.judges.asking import Ask
from heartloop.judges.base import Weighed, chosen
from heartloop.judges.majority import branch_votes, groups_by_answer
from heartloop.judges.reading import number_named
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["GenSelect"]

Votes = dict[str | None, float]


@dataclass(frozen=True, slots=True)
class GenSelect:
    """Calls in the role ``judge``: one a window, and one for each round of winners.

    Equal texts are shown once. A window that overflows the context is halved; of two candidates, each is
    cut to its end. Where the judge names no candidate, the window's candidate with the most votes goes on.

    Attributes:
        window: candidates in one prompt, at most.
        votes: how often the whole is asked, each time in another order; the answer chosen most often wins.
    """

    window: int = 8
    votes: int = 1
    think: bool = True
    structured: bool = True
    name: str = "genselect"
    needs_reference: bool = False

    def __post_init__(self) -> None:
        if self.window < 2 or self.votes < 1:
            raise UsageError(
                f"judge {self.name!r}: window is at least 2 and votes at least 1, "
                f"not {self.window} and {self.votes}"
            )

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "a listwise choice says nothing of a single attempt")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with its share of the judge's votes, by the attempt that was chosen for it."""
        groups = await groups_by_answer(attempts, session.equivalent)
        if len(groups) < 2:
            return [Weighed(group[0], 1.0) for group in groups]
        place = {attempt.answer: k for k, group in enumerate(groups) for attempt in group}
        by_majority = [float(votes) for votes in branch_votes(groups)]
        majority: Votes = {answer: by_majority[k] for answer, k in place.items()}
        distinct = list({attempt.text: attempt for group in groups for attempt in group}.values())
        orders = {}
        for vote in range(self.votes):
            order = list(distinct)
            session.random(f"shuffle/{vote}").shuffle(order)
            orders[vote] = self._winner(problem, order, majority, session.branch(vote))
        winners = list((await session.gather(orders)).values())
        counted = Counter(place[winner.answer] for winner in winners)
        shown = {place[winner.answer]: winner for winner in reversed(winners)}
        return [Weighed(shown.get(k, group[0]), counted[k] / len(winners)) for k, group in enumerate(groups)]

    async def _winner(
        self, problem: Problem, candidates: Sequence[Attempt], majority: Votes, session: Session
    ) -> Attempt:
        if len(candidates) == 1:
            return candidates[0]
        if len(candidates) > self.window:
            return await self._knockout(problem, candidates, self.window, majority, session)
        ask = Ask("choose", "choice", self.think, self.structured)
        try:
            completion = await ask(problem, candidates, session, shorten=len(candidates) == 2)
        except ContextOverflow:
            if len(candidates) == 2:
                raise
            half = (len(candidates) + 1) // 2
            return await self._knockout(problem, candidates, half, majority, session)
        number = number_named(completion.text, len(candidates), cut=completion.finish_reason == "length")
        if number is not None:
            return candidates[number - 1]
        return max(candidates, key=lambda attempt: majority[attempt.answer])

    async def _knockout(
        self, problem: Problem, candidates: Sequence[Attempt], size: int, majority: Votes, session: Session
    ) -> Attempt:
        """The winners of as few, equally large windows as can be, against each other."""
        count = -(-len(candidates) // size)
        windows = [candidates[k::count] for k in range(count)]
        found = await session.gather(
            {k: self._winner(problem, w, majority, session.branch(k)) for k, w in enumerate(windows)}
        )
        return await self._winner(problem, list(found.values()), majority, session.branch(count))
