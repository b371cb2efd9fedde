"""Majority: the answer that most attempts agree on (self-consistency, arXiv 2203.11171).

Answers are grouped by equivalence, not by string. Each branch has one vote, shared by its attempts:
rounds of one branch build on each other, and counting them apart would let a branch outvote others by
repeating itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from heartloop.judges.base import Weighed, chosen
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Equivalent", "Majority", "branch_votes", "groups_by_answer", "largest_group"]

Equivalent = Callable[[str, str], Awaitable[bool]]
"""Whether two answers are the same answer."""


@dataclass(frozen=True, slots=True)
class Majority:
    """Needs no call to a model. Ties go to the answer that was found first."""

    name: str = "majority"
    needs_reference: bool = False

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "a majority says nothing of a single attempt")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """The first attempt of the heaviest group; the last attempt if none has an answer."""
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with its share of the votes."""
        groups = await groups_by_answer(attempts, session.equivalent)
        votes = branch_votes(groups)
        total = sum(votes, Fraction(0))
        return [Weighed(group[0], float(v / total)) for group, v in zip(groups, votes, strict=True)]


async def groups_by_answer(attempts: Sequence[Attempt], equivalent: Equivalent) -> list[list[Attempt]]:
    """``attempts`` with an answer, grouped by equivalent answers, in order of each group's first."""
    groups: list[list[Attempt]] = []
    known: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.answer is None:
            continue
        group = known.get(attempt.answer)
        if group is None:
            for candidate in groups:
                if await equivalent(str(candidate[0].answer), attempt.answer):
                    group = candidate
                    break
            else:
                group = []
                groups.append(group)
            known[attempt.answer] = group
        group.append(attempt)
    return groups


async def largest_group(attempts: Sequence[Attempt], equivalent: Equivalent) -> list[Attempt]:
    """The group with the most votes, one vote a branch; empty if no attempt has an answer."""
    groups = await groups_by_answer(attempts, equivalent)
    if not groups:
        return []
    votes = branch_votes(groups)
    return groups[votes.index(max(votes))]


def branch_votes(groups: Sequence[Sequence[Attempt]]) -> list[Fraction]:
    """Votes of each group: each branch has one, shared by its attempts."""
    made = Counter(attempt.branch for group in groups for attempt in group)
    return [sum((Fraction(1, made[attempt.branch]) for attempt in group), Fraction(0)) for group in groups]
