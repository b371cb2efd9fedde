"""Figures of the runs of :mod:`heartloop_benchmarks.arms`, from their journals.

Seeds are pooled by problem: intervals come from a bootstrap that draws problems, each with all its seeds and
arms (:func:`heartloop.reports.judging.judge_figures`), since seeds of one problem are no independent
problems. A problem without a verdict counts as not right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from heartloop.journal.reader import JournalReader
from heartloop.reports.extra import student
from heartloop.reports.judging import Figure, JudgeFigures, judge_figures
from heartloop.runs.config import RunConfig
from heartloop.runs.summary import ArmSummary, Summary, outcomes, summarise
from heartloop.types import StopReason

__all__ = ["Case", "Recorded", "contrast", "detectable", "pooled"]

POWER = 0.8


@dataclass(frozen=True, slots=True)
class Case:
    """One problem of one arm and one seed: whether its answer is right, and each of its attempts."""

    problem: str
    right: bool
    attempts: tuple[bool, ...]


class Recorded:
    """A run's journal, read."""

    def __init__(self, journal: JournalReader) -> None:
        self.config = RunConfig.from_dict(journal.meta.get("config", {}))
        self.summary: Summary = summarise(journal, self.config, seconds=journal.elapsed_before())
        self.arms: dict[str, ArmSummary] = {arm.name: arm for arm in self.summary.arms}
        self._journal = journal

    def cases(self, arm: str) -> list[Case]:
        return [
            Case(
                one.problem_id,
                bool(one.correct),
                tuple(bool(row.correct) for row in one.rows) or (False,),
            )
            for one in outcomes(self._journal, arm)
        ]

    def ended_early(self, arm: str) -> int:
        reasons = self.arms[arm].stop_reasons
        return sum(reasons.get(reason.value, 0) for reason in (StopReason.FAILED, StopReason.BUDGET))


# --- figures -----------------------------------------------------------------------------------------


def pooled(cases: Sequence[Case]) -> JudgeFigures:
    """Accuracy of the answers, of first attempts, and of whoever finds a right attempt where there is one."""
    return judge_figures(
        [case.right for case in cases],
        [case.attempts for case in cases],
        clusters=[case.problem for case in cases],
    )


def contrast(one: Mapping[int, Sequence[Case]], other: Mapping[int, Sequence[Case]]) -> Figure:
    """Accuracy of ``one`` less that of ``other``, both by seed, on the same problems and seeds."""
    pairs = list(_pairs(one, other))
    # The difference of two paired accuracies is a judge's gain over first attempts, in other words.
    return judge_figures(
        [mine for _, mine, _ in pairs],
        [[yours] for _, _, yours in pairs],
        clusters=[problem for problem, _, _ in pairs],
    ).gain


def detectable(one: Mapping[int, Sequence[Case]], other: Mapping[int, Sequence[Case]]) -> float | None:
    """The true difference that a two-sided test at 5% would find with 80% power, at this number of problems
    and with differences that vary between problems as these do. None where none varies."""
    by_problem: dict[str, list[int]] = {}
    for problem, mine, yours in _pairs(one, other):
        by_problem.setdefault(problem, []).append(mine - yours)
    means = [fmean(values) for values in by_problem.values()]
    count = len(means)
    if count < 2 or stdev(means) == 0:
        return None
    # student() is the quantile at its first argument; the lower one is negative.
    return (student(POWER, count - 1) - student(0.025, count - 1)) * stdev(means) / math.sqrt(count)


def _pairs(
    one: Mapping[int, Sequence[Case]], other: Mapping[int, Sequence[Case]]
) -> Iterator[tuple[str, bool, bool]]:
    for seed in one:
        against = {case.problem: case.right for case in other[seed]}
        for case in one[seed]:
            if case.problem in against:
                yield case.problem, case.right, against[case.problem]
