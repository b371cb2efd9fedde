"""Judges made of judges: a cascade, a panel, and one that keeps the first answer unless it is outweighed.

A judge inside that needs no reference is handed none, whatever the others need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heartloop.errors import UsageError
from heartloop.judges.base import Judge, Weighed, Weighing, chosen, logprobs_needed, margin
from heartloop.judges.majority import groups_by_answer
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Cascade", "KeepFirst", "Panel"]


def _shown(problem: Problem, judge: Judge) -> Problem:
    return problem if judge.needs_reference else problem.without_reference()


def _by_who_knows(verdict: Verdict, judge: Judge, whole: Judge) -> Verdict:
    """What ``judge`` said, as a word of ``whole``: the model is told that it was wrong on the word of whoever
    knows the reference, and nobody else's opinion may pass for that."""
    if whole.needs_reference and not judge.needs_reference:
        return replace(verdict, correct=None)
    return verdict


def _logprobs(*judges: Judge) -> int | None:
    """What the generator is asked for: enough for each (-1, the whole vocabulary, is enough for all)."""
    needed = [count for judge in judges if (count := logprobs_needed(judge)) is not None]
    return -1 if -1 in needed else max(needed, default=None)


def _weighing(judge: Judge, name: str) -> Weighing:
    if not isinstance(judge, Weighing):
        raise UsageError(
            f"judge {name!r}: {judge.name!r} does not say how sure it is, so nothing can depend on that; "
            "take one that weighs answers, such as majority, pointwise, pairwise or genselect:votes=5"
        )
    return judge


def _in_unit(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"judge {name!r}: margin is in [0, 1], not {value}")


@dataclass(frozen=True, slots=True)
class Cascade:
    """A cheap judge, and a dear one only where the cheap one is unsure.

    Unsure is who lets the best answer outweigh the next by less than ``margin`` (for a majority: shares of
    the votes). The loop's own looks at attempts (``assess``) are the cheap judge's alone.
    """

    cheap: Judge
    dear: Judge
    margin: float = 0.5
    name: str = "cascade"

    def __post_init__(self) -> None:
        _weighing(self.cheap, self.name)
        _in_unit(self.margin, self.name)

    @property
    def needs_reference(self) -> bool:
        return self.cheap.needs_reference or self.dear.needs_reference

    @property
    def logprobs(self) -> int | None:
        return _logprobs(self.cheap, self.dear)

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        verdict = await self.cheap.assess(_shown(problem, self.cheap), attempt, session.branch(0))
        return _by_who_knows(verdict, self.cheap, self)

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        cheap = _weighing(self.cheap, self.name)
        weighed = await cheap.weigh(_shown(problem, self.cheap), attempts, session.branch(0))
        if margin(weighed) >= self.margin:
            return chosen(weighed, attempts)
        return await self.dear.select(_shown(problem, self.dear), attempts, session.branch(1))


@dataclass(frozen=True, slots=True)
class Panel:
    """Several judges vote, each with its weight; a judge that weighs answers splits its vote by them.

    Judges that call a model do so side by side. One whose calls fail has no vote.

    Attributes:
        weights: of the judges, in order; default: 1 each.
    """

    judges: tuple[Judge, ...]
    weights: tuple[float, ...] | None = None
    name: str = "panel"

    def __post_init__(self) -> None:
        weights = self.weights
        if not self.judges:
            raise UsageError(f"judge {self.name!r}: a panel needs judges, as in panel(majority,pairwise)")
        if weights is not None and (len(weights) != len(self.judges) or not all(w > 0 for w in weights)):
            raise UsageError(
                f"judge {self.name!r}: {len(self.judges)} judges need as many positive weights, "
                f"as in weights=2/1, not {'/'.join(map(str, weights))}"
            )

    @property
    def needs_reference(self) -> bool:
        return any(judge.needs_reference for judge in self.judges)

    @property
    def logprobs(self) -> int | None:
        return _logprobs(*self.judges)

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        """The weighted mean of the scores of those that give one; ``correct`` where all that know agree.

        Beside an oracle only oracles know.
        """
        verdicts = await session.gather(
            {
                k: judge.assess(_shown(problem, judge), attempt, session.branch(k))
                for k, judge in enumerate(self.judges)
            }
        )
        scores = [(self._weight(k), v.score) for k, v in verdicts.items() if v.score is not None]
        said = (_by_who_knows(v, self.judges[k], self).correct for k, v in verdicts.items())
        known = {correct for correct in said if correct is not None}
        total = sum(weight for weight, _ in scores)
        return Verdict(
            known.pop() if len(known) == 1 else None,
            self.name,
            "; ".join(v.reason for v in verdicts.values() if v.reason),
            score=sum(weight * score for weight, score in scores) / total if scores else None,
        )

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with its share of the panel's votes."""
        groups = await groups_by_answer(attempts, session.equivalent)
        if not groups:
            return []
        ballots = await session.gather(
            {
                k: self._ballot(judge, problem, attempts, session.branch(k))
                for k, judge in enumerate(self.judges)
            }
        )
        # A judge may have made an answer of its own (a synthesis).
        made = [one.attempt for ballot in ballots.values() for one in ballot if one.attempt not in attempts]
        groups = await groups_by_answer([*attempts, *made], session.equivalent)
        place = {attempt.answer: k for k, group in enumerate(groups) for attempt in group}
        sums = [0.0] * len(groups)
        for k, ballot in ballots.items():
            total = sum(one.weight for one in ballot)
            for one in ballot:
                if one.attempt.answer is not None and total > 0:
                    sums[place[one.attempt.answer]] += self._weight(k) * one.weight / total
        cast = sum(sums) or 1.0
        return [Weighed(group[0], weight / cast) for group, weight in zip(groups, sums, strict=True)]

    async def _ballot(
        self, judge: Judge, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        if isinstance(judge, Weighing):
            return await judge.weigh(_shown(problem, judge), attempts, session)
        return [Weighed(await judge.select(_shown(problem, judge), attempts, session), 1.0)]

    def _weight(self, k: int) -> float:
        return 1.0 if self.weights is None else self.weights[k]


@dataclass(frozen=True, slots=True)
class KeepFirst:
    """The first attempt's answer, unless ``judge`` thinks more of another by ``margin`` or more.

    Against drift: a loop that goes on leaves right answers as well as wrong ones. A first attempt without an
    answer leaves the choice to the judge.
    """

    judge: Judge
    margin: float = 0.2
    name: str = "keep_first"

    def __post_init__(self) -> None:
        _weighing(self.judge, self.name)
        _in_unit(self.margin, self.name)

    @property
    def needs_reference(self) -> bool:
        return self.judge.needs_reference

    @property
    def logprobs(self) -> int | None:
        return _logprobs(self.judge)

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return await self.judge.assess(problem, attempt, session.branch(0))

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        weighed = await _weighing(self.judge, self.name).weigh(problem, attempts, session.branch(0))
        first = attempts[0]
        best = chosen(weighed, attempts)
        if first.answer is None or best.answer is None:
            return best
        held = 0.0
        for one in weighed:
            if await session.equivalent(str(one.attempt.answer), first.answer):
                held = one.weight
        top = max(one.weight for one in weighed)
        return best if top - held >= self.margin and top > held else first
