"""Choosing a setting on labelled problems, and saying what it is worth on others.

The best of many settings looks better on the problems that chose it than on any others. So problems are
split: settings are chosen on some folds and looked at on the one left out (the nested split), over and over
with other splits. What the final choice, made on all problems, is worth is estimated by that.

The choice: of all settings that are not clearly worse than the most accurate one (by more than a standard
error of the paired difference, Breiman et al. 1984) the one that costs fewest tokens.

Intervals are centred on the out-of-fold mean. They are as wide as the final setting's own outcomes vary
between problems (out-of-fold means over several settings vary less, and would pretend to know more), and as
the choice itself is uncertain: the settings chosen without a fold differ in accuracy. With four pseudo
problems, half of them right (Agresti and Coull 1998), and Student's t.
:mod:`heartloop_benchmarks.perf.calibrate_coverage` counts how often they hold the truth.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from heartloop.errors import UsageError
from heartloop.reports.extra import numpy, student
from heartloop.reports.judging import Figure

__all__ = ["Nested", "nested"]

FOLDS, REPEATS = 10, 10
LEAST_PROBLEMS = 20

_DOUBT = 3.0
"""Parts that share most problems choose alike more often than new problems would. A delete-a-group jackknife
would multiply their variance by 9, which is too much for a choice that jumps: on the two crowds tried, 97 to
99% of intervals held the truth; with 1 it was 90 to 96%."""


@dataclass(frozen=True, slots=True)
class Nested:
    """What came of it. Settings go by their place in the table.

    Attributes:
        chosen: by all problems; ``best``: the most accurate there; ``apparent``: accuracy of each setting on
            the problems that chose.
        accuracy: of the chosen one on problems that it was not chosen by, ``gain``: over the baseline.
        tokens, calls: of the chosen one, a problem.
        picked: how often each setting was chosen on a part of the problems, of ``splits`` times.
    """

    chosen: int
    best: int
    apparent: tuple[float, ...]
    mean_tokens: tuple[float, ...]
    accuracy: Figure
    gain: Figure
    tokens: Figure
    calls: Figure
    picked: Counter[int]
    splits: int


def nested(
    right: Any,
    tokens: Any,
    calls: Any,
    baseline: Any,
    *,
    most_tokens: float | None = None,
    seed: int = 0,
) -> Nested:
    """Choose one of several settings, and estimate what it is worth.

    Args:
        right, tokens, calls: tables (arrays, or lists of lists), a row for each setting, a column for each
            problem.
        baseline: for each problem, whether the first attempt was right.
        most_tokens: a problem, on average; dearer settings are out.

    Raises:
        UsageError: too few problems, no setting within ``most_tokens``, or no numpy and scipy.
    """
    np = numpy()
    good = np.asarray(right, dtype=float)
    cost = np.asarray(tokens, dtype=float)
    base = np.asarray(baseline, dtype=float)
    problems = good.shape[1] if good.ndim == 2 else 0
    if problems < LEAST_PROBLEMS:
        raise UsageError(
            f"{problems} labelled problems are too few to choose a setting and to say what it is worth: "
            f"{LEAST_PROBLEMS} are the least, a hundred or more are better"
        )
    if most_tokens is not None and cost.mean(axis=1).min() > most_tokens:
        raise UsageError(
            f"no setting costs {most_tokens:,.0f} tokens a problem or less; the cheapest takes "
            f"{cost.mean(axis=1).min():,.0f}"
        )
    rng = np.random.default_rng(seed)
    held_out, gained = np.zeros(problems), np.zeros(problems)
    picked: Counter[int] = Counter()
    for _ in range(REPEATS):
        order = rng.permutation(problems)
        for fold in np.array_split(order, FOLDS):
            train = np.setdiff1d(order, fold)
            setting = _choice(good[:, train], cost[:, train], most_tokens)[0]
            picked[setting] += 1
            held_out[fold] += good[setting, fold] / REPEATS
            gained[fold] += (good[setting, fold] - base[fold]) / REPEATS
    chosen, best = _choice(good, cost, most_tokens)
    asked = np.asarray(calls, dtype=float)[chosen]
    doubt = _between(good, picked)
    return Nested(
        chosen=chosen,
        best=best,
        apparent=tuple(float(mean) for mean in good.mean(axis=1)),
        mean_tokens=tuple(float(mean) for mean in cost.mean(axis=1)),
        accuracy=_proportion(float(held_out.mean()), problems, doubt),
        gain=_difference(float(gained.mean()), good[chosen] - base, problems, doubt),
        tokens=_mean(cost[chosen]),
        calls=_mean(asked),
        picked=picked,
        splits=REPEATS * FOLDS,
    )


def _choice(good: Any, cost: Any, most_tokens: float | None) -> tuple[int, int]:
    """The cheapest of the settings that are about as good as the best, and the best."""
    np = numpy()
    accuracy, dear = good.mean(axis=1), cost.mean(axis=1)
    allowed = np.ones(len(accuracy), dtype=bool) if most_tokens is None else dear <= most_tokens
    if not allowed.any():  # on a part of the problems
        allowed = dear <= dear.min()
    places = np.flatnonzero(allowed)
    best = places[np.lexsort((dear[places], -accuracy[places]))[0]]
    behind = good[best] - good[places]
    spread = behind.std(axis=1, ddof=1) / math.sqrt(good.shape[1])
    close = places[behind.mean(axis=1) <= spread]
    return int(close[np.lexsort((-accuracy[close], dear[close]))[0]]), int(best)


def _between(good: Any, picked: Counter[int]) -> float:
    """Variance of the accuracy of whichever setting is chosen, from the settings chosen without a fold."""
    times = sum(picked.values())
    means = {setting: float(good[setting].mean()) for setting in picked}
    centre = sum(means[setting] * often for setting, often in picked.items()) / times
    spread = sum((means[setting] - centre) ** 2 * often for setting, often in picked.items()) / times
    return _DOUBT * spread


def _proportion(value: float, count: int, doubt: float) -> Figure:
    centre = (value * count + 2) / (count + 4)
    half = student(0.975, count - 1) * math.sqrt(centre * (1 - centre) / (count + 4) + doubt)
    return Figure(value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def _difference(value: float, paired: Any, count: int, doubt: float) -> Figure:
    # Two pseudo problems that the setting wins and two that it loses.
    centre = value * count / (count + 4)
    square = (float((paired**2).sum()) + 4) / (count + 4)
    half = student(0.975, count - 1) * math.sqrt(max(square - centre**2, 0.0) / (count + 4) + doubt)
    return Figure(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def _mean(values: Any) -> Figure:
    count = len(values)
    half = student(0.975, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    mean = float(values.mean())
    return Figure(mean, max(0.0, mean - half), mean + half)
