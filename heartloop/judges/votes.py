"""Votes with weights: what judges that weigh attempts by their confidence have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias

from heartloop.confidence import WHOLE_VOCABULARY
from heartloop.errors import UsageError
from heartloop.judges.base import Weighed
from heartloop.judges.majority import Equivalent, groups_by_answer
from heartloop.types import Attempt, TraceConfidence

__all__ = ["Measure", "confidences", "in_bounds", "shares", "weighed", "without_cut"]

Measure: TypeAlias = Literal["bottom", "lowest", "tail", "mean"]
"""Which of a trace's confidences (:class:`~heartloop.types.TraceConfidence`)."""


def in_bounds(judge: str, power: float, logprobs: int | None) -> None:
    """Whether votes can be weighed so.

    Raises:
        UsageError: an exponent that turns the ranking round or overflows, or alternatives that say nothing.
    """
    if not 0 <= power <= 10:
        raise UsageError(f"the judge {judge!r}: power is from 0 (the plain vote) to 10, not {power:g}")
    if logprobs is None or not (2 <= logprobs <= 100 or logprobs == WHOLE_VOCABULARY):
        raise UsageError(
            f"the judge {judge!r}: logprobs is from 2 to 100 alternatives, or -1 (the whole vocabulary), not "
            f"{logprobs}"
        )


def confidences(attempts: Sequence[Attempt], judge: str) -> list[TraceConfidence | None]:
    """The confidence of each attempt; None for an attempt without text.

    Raises:
        UsageError: the attempts were made without log-probabilities.
    """
    if any(a.confidence is None and (a.text or a.reasoning) for a in attempts):
        raise UsageError(
            f"the judge {judge!r} weighs attempts by log-probabilities, and these were made without: run "
            "with this judge, or with --logprobs 20 to judge later"
        )
    return [attempt.confidence for attempt in attempts]


def without_cut(attempts: Sequence[Attempt]) -> list[Attempt]:
    """``attempts`` without those that were left early; all of them if none else has an answer."""
    whole = [a for a in attempts if a.finish_reason != "cut"]
    return whole if any(a.answer is not None for a in whole) else list(attempts)


async def shares(
    attempts: Sequence[Attempt], weights: Sequence[float], equivalent: Equivalent
) -> list[tuple[float, list[Attempt]]]:
    """Each answer's share of the weight, with the attempts that gave it, heaviest first.

    A branch's weight is spread over its attempts, as in :class:`~heartloop.judges.majority.Majority`: rounds
    build on each other, and a longer line is not more lines. Ties keep the order in which answers were found.
    """
    groups = await groups_by_answer(attempts, equivalent)
    made = Counter(a.branch for group in groups for a in group)
    weight = {id(a): max(w, 0.0) / max(1, made[a.branch]) for a, w in zip(attempts, weights, strict=True)}
    sums = [sum(weight[id(a)] for a in group) for group in groups]
    whole = sum(sums)
    found = [
        (part / whole if whole > 0 else 1 / len(groups), group)
        for part, group in zip(sums, groups, strict=True)
    ]
    return sorted(found, key=lambda pair: -pair[0])


async def weighed(
    attempts: Sequence[Attempt], weights: Sequence[float], equivalent: Equivalent
) -> list[Weighed]:
    """Each answer with its share of the weight, by the attempt that has most of it, heaviest first."""
    weight = {id(a): w for a, w in zip(attempts, weights, strict=True)}
    return [
        Weighed(max(group, key=lambda a: weight[id(a)]), share)
        for share, group in await shares(attempts, weights, equivalent)
    ]
