"""How much of the oracle's gain a judge keeps, from the journal of a run of judgements.

Counts are of the problems that have been scored. The share that is kept, and its interval, are those of
:mod:`heartloop.reports.judging`, which needs the extra ``[report]``; all else is known without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from heartloop.engine.results import Outcome
from heartloop.errors import UsageError
from heartloop.journal.queries import JournalQueries
from heartloop.reports.judging import Figure, judge_figures
from heartloop.runs.config import ArmConfig, RunConfig
from heartloop.runs.intervals import wilson
from heartloop.runs.summary import outcomes
from heartloop.types import StopReason

__all__ = ["Judged", "judged_arms"]

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
        kept: the share of the oracle's gain that the judge keeps, (chosen - first) / (oracle - first), with
            its 95% interval; None where it can't be shown, and ``kept_why`` says so.
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
    kept: Figure | None
    kept_why: str
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
        data["kept"] = None if self.kept is None else self.kept.value
        data["kept_interval_95"] = None if self.kept is None else [self.kept.low, self.kept.high]
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
    candidates = [[bool(row.correct) for row in outcome.rows] for outcome in scored]
    chosen = [bool(outcome.correct) for outcome in scored]
    mixed = [k for k, rights in enumerate(candidates) if any(rights) and not all(rights)]
    kept, why = _kept(chosen, candidates, seed)
    return Judged(
        arm=arm.name.removesuffix(f"@{arm.judge}"),
        judge=arm.judge,
        problems=len(scored),
        first=sum(rights[0] for rights in candidates),
        chosen=sum(chosen),
        oracle=sum(any(rights) for rights in candidates),
        mixed=len(mixed),
        mixed_chosen=sum(chosen[k] for k in mixed),
        mixed_random=sum(sum(candidates[k]) / len(candidates[k]) for k in mixed),
        kept=kept,
        kept_why=why,
        calls=sum(outcome.calls for outcome in found),
        tokens=sum(outcome.usage.total_tokens for outcome in found),
        unfinished=sum(o.stop_reason in (StopReason.BUDGET, StopReason.FAILED) for o in found),
    )


def _kept(
    chosen: Sequence[bool], candidates: Sequence[Sequence[bool]], seed: int
) -> tuple[Figure | None, str]:
    """The share that is kept, or None and why not."""
    if not chosen:
        return None, "no problem has been scored"
    try:
        figures = judge_figures(chosen, candidates, seed=seed)
    except UsageError as error:  # the extra is not installed: the judgements are worth showing all the same
        return None, str(error)
    return figures.share, figures.share_why
