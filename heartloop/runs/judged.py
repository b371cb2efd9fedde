"""How much of the oracle's gain a judge keeps, from the journal of a run of judgements.

The oracle over candidates is right wherever any candidate is. Between it and the first attempt lies what
choosing can win: a judge keeps (judge - first) / (oracle - first) of it. Intervals are from a bootstrap over
problems that draws all three together, since they are of the same problems.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from heartloop.engine.results import Outcome
from heartloop.journal.queries import JournalQueries
from heartloop.runs.config import ArmConfig, RunConfig
from heartloop.runs.intervals import wilson
from heartloop.runs.summary import outcomes
from heartloop.types import StopReason

__all__ = ["Judged", "judged_arms"]

_DRAWS = 2000

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Judged:
    """One judge's choices for one arm.

    Attributes:
        arm, judge: whose attempts, and who chose among them.
        problems: those scored, whose attempts and choice all have a verdict; the counts are of them.
        first, chosen, oracle: right first attempts, right choices, and problems with any right attempt.
        mixed: problems with right and wrong attempts, where a choice matters; ``mixed_chosen`` right choices
            among them; ``mixed_random`` what picking an attempt at random gets right, on average.
        kept: the share of the oracle's gain that the judge keeps, and its 95% interval; None where the
            interval of that gain touches 0.
        unfinished: problems whose judgement ended early (budget) or failed: their choice is the best so far.
    """

    arm: str
    judge: str
    problems: int
    first: int
    chosen: int
    oracle: int
    mixed: int
    mixed_chosen: int
    mixed_random: float
    kept: float | None
    kept_interval: Interval | None
    calls: int
    tokens: int
    unfinished: int

    def interval(self, right: int) -> Interval | None:
        """The 95% Wilson interval of ``right`` out of the scored problems."""
        return wilson(right, self.problems)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the accuracies and their intervals."""
        data = asdict(self)
        for name in ("first", "chosen", "oracle"):
            right = getattr(self, name)
            interval = self.interval(right)
            data[f"{name}_accuracy"] = right / self.problems if self.problems else None
            data[f"{name}_interval_95"] = None if interval is None else list(interval)
        data["kept_interval_95"] = data.pop("kept_interval")
        return data


def judged_arms(journal: JournalQueries, config: RunConfig) -> list[Judged]:
    """One record for each arm of a run of judgements, in the order of the arms."""
    return [_judged(arm, outcomes(journal, arm.name), config.seed) for arm in config.arms]


def _judged(arm: ArmConfig, found: Sequence[Outcome], seed: int) -> Judged:
    scored = [
        outcome
        for outcome in found
        if outcome.rows and outcome.correct is not None and all(r.correct is not None for r in outcome.rows)
    ]
    first = [bool(outcome.rows[0].correct) for outcome in scored]
    chosen = [bool(outcome.correct) for outcome in scored]
    oracle = [any(row.correct for row in outcome.rows) for outcome in scored]
    mixed = [o for o in scored if len({row.correct for row in o.rows}) > 1]
    kept, interval = _kept(first, chosen, oracle, random.Random(seed))
    return Judged(
        arm=arm.name.removesuffix(f"@{arm.judge}"),
        judge=arm.judge,
        problems=len(scored),
        first=sum(first),
        chosen=sum(chosen),
        oracle=sum(oracle),
        mixed=len(mixed),
        mixed_chosen=sum(bool(outcome.correct) for outcome in mixed),
        mixed_random=sum(sum(bool(r.correct) for r in o.rows) / len(o.rows) for o in mixed),
        kept=kept,
        kept_interval=interval,
        calls=sum(outcome.calls for outcome in found),
        tokens=sum(outcome.usage.total_tokens for outcome in found),
        unfinished=sum(o.stop_reason in (StopReason.BUDGET, StopReason.FAILED) for o in found),
    )


def _kept(
    first: Sequence[bool], chosen: Sequence[bool], oracle: Sequence[bool], rng: random.Random
) -> tuple[float | None, Interval | None]:
    """The share kept with its 95% percentile interval; nothing where the gain's own interval touches 0."""
    gains = [(c - f, o - f) for f, c, o in zip(first, chosen, oracle, strict=True)]
    if not any(whole for _, whole in gains):
        return None, None
    draws = []
    for _ in range(_DRAWS):
        drawn = rng.choices(gains, k=len(gains))
        draws.append((sum(part for part, _ in drawn), sum(whole for _, whole in drawn)))
    wholes = sorted(whole for _, whole in draws)
    if wholes[int(0.025 * _DRAWS)] <= 0:
        return None, None
    shares = sorted(part / whole for part, whole in draws if whole > 0)
    lowest, highest = shares[int(0.025 * len(shares))], shares[int(0.975 * len(shares))]
    return sum(part for part, _ in gains) / sum(whole for _, whole in gains), (lowest, highest)
