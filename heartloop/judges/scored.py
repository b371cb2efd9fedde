"""What judges that give every candidate a number have in common: asked side by side, best or votes."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from heartloop.judges.base import Weighed
from heartloop.judges.votes import weighed
from heartloop.types import Attempt

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Pick", "known_scores", "scores_of", "sigmoid", "weighed_by"]

Pick: TypeAlias = Literal["best", "votes"]
"""``best``: the attempt with the highest score (best-of-n). ``votes``: the answer with the highest sum of
scores (weighted best-of-n, arXiv 2206.02336), which one lucky score can't decide."""

Score = Callable[[Attempt, "Session"], Coroutine[Any, Any, float]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


async def scores_of(attempts: Sequence[Attempt], score: Score, session: Session) -> list[float | None]:
    """The score of each attempt; equal texts are asked once. None where the call failed for good.

    Raises:
        BackendError: all of them failed.
        BudgetExhausted: see there.
    """
    distinct = list(dict.fromkeys(attempt.text for attempt in attempts))
    first = {attempt.text: attempt for attempt in reversed(attempts)}
    found = await session.gather(
        {text: score(first[text], session.branch(k)) for k, text in enumerate(distinct)}
    )
    return [found.get(attempt.text) for attempt in attempts]


def known_scores(attempts: Sequence[Attempt], judge: str) -> list[float | None] | None:
    """What ``judge`` gave the attempts as they were made; None unless it looked at all of them."""
    verdicts = [attempt.verdict for attempt in attempts]
    if any(verdict is None or verdict.method != judge or verdict.score is None for verdict in verdicts):
        return None
    return [None if verdict is None else verdict.score for verdict in verdicts]


async def weighed_by(
    attempts: Sequence[Attempt], scores: Sequence[float | None], pick: Pick, session: Session
) -> list[Weighed]:
    """Each answer with its best score, or its share of all; scores outside [0, 1] are taken for logits."""
    known = [(a, s) for a, s in zip(attempts, scores, strict=True) if s is not None and a.answer is not None]
    values = [s for _, s in known]
    if not all(0 <= value <= 1 for value in values):
        values = [sigmoid(value) for value in values]
    answered = [a for a, _ in known]
    found = await weighed(answered, values, session.equivalent)
    if pick == "votes":
        return found
    best = {id(a): value for a, value in zip(answered, values, strict=True)}
    return [Weighed(one.attempt, best[id(one.attempt)]) for one in found]
