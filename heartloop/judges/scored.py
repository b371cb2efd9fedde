"""What judges that give every candidate a number have in common: asked side by side, best or votes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from heartloop.judges.base import Weighed
from heartloop.judges.majority import groups_by_answer
from heartloop.judges.votes import weighed
from heartloop.types import Attempt, Problem

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Pick", "Scores", "sigmoid", "weigh_by_score"]

Pick: TypeAlias = Literal["best", "votes"]
"""``best``: the attempt with the highest score (best-of-n). ``votes``: the answer with the highest sum of
scores (weighted best-of-n, arXiv 2206.02336), which one lucky score can't decide."""


class Scores(Protocol):
    """A judge that scores single attempts, by calls on a branch that is free for them."""

    @property
    def name(self) -> str: ...

    @property
    def pick(self) -> Pick: ...

    async def score(self, problem: Problem, attempt: Attempt, session: Session) -> float: ...


def sigmoid(x: float) -> float:
    """A logit as a probability, for any finite ``x``."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


async def weigh_by_score(
    judge: Scores, problem: Problem, attempts: Sequence[Attempt], session: Session
) -> list[Weighed]:
    """Each answer with its best score, or its share of all; scores outside [0, 1] are taken for logits.

    Attempts that were scored as they were made are not scored again. Where there is nothing to choose, none
    is scored.

    Raises:
        BackendError: no attempt could be scored.
        BudgetExhausted: see there.
    """
    attempts = [attempt for attempt in attempts if attempt.answer is not None]
    groups = await groups_by_answer(attempts, session.equivalent)
    if len(groups) < 2:
        return [Weighed(group[0], 1.0) for group in groups]
    scores = _known(attempts, judge.name) or await _asked(judge, problem, attempts, session)
    scored = [a for a, score in zip(attempts, scores, strict=True) if score is not None]
    values = [score for score in scores if score is not None]
    if not all(0 <= value <= 1 for value in values):
        values = [sigmoid(value) for value in values]
    found = await weighed(scored, values, session.equivalent)
    if judge.pick == "votes":
        return found
    best = {id(a): value for a, value in zip(scored, values, strict=True)}
    return [Weighed(one.attempt, best[id(one.attempt)]) for one in found]


def _known(attempts: Sequence[Attempt], judge: str) -> list[float | None] | None:
    """What ``judge`` gave the attempts as they were made; None unless it looked at all of them."""
    verdicts = [attempt.verdict for attempt in attempts]
    if any(verdict is None or verdict.method != judge or verdict.score is None for verdict in verdicts):
        return None
    return [None if verdict is None else verdict.score for verdict in verdicts]


async def _asked(
    judge: Scores, problem: Problem, attempts: Sequence[Attempt], session: Session
) -> list[float | None]:
    """The score of each attempt; equal texts are asked once. None where the call failed for good."""
    distinct = list(dict.fromkeys(attempt.text for attempt in attempts))
    first = {attempt.text: attempt for attempt in reversed(attempts)}
    found = await session.gather(
        {text: judge.score(problem, first[text], session.branch(k)) for k, text in enumerate(distinct)}
    )
    return [found.get(attempt.text) for attempt in attempts]
