"""Chances of success by number of failures so far, for a population of problems.

Each problem has a chance of its own, so a problem that has failed k times is likely a hard one. With
chances that follow Beta(a, b), the next attempt succeeds with probability a / (a + b + k) (the beta-geometric
law); a and b are fitted to all problems together (empirical Bayes). Where chances also change from round to
round, counts at each k pull the estimate away from that law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BetaGeometric", "fit", "log_posterior", "smoothed"]

_ENOUGH = 1e-3
"""A rise in the log posterior below this ends the search in that direction: some populations have no peak."""


@dataclass(frozen=True, slots=True)
class BetaGeometric:
    """Chances of success that follow Beta(mean * strength, (1 - mean) * strength)."""

    mean: float
    strength: float

    def hazard(self, failures: int) -> float:
        """Chance that the next attempt of a problem with so many failures succeeds."""
        return self.mean * self.strength / (self.strength + failures)


def log_posterior(solved: Sequence[int], tried: Sequence[int], law: BetaGeometric) -> float:
    """Log posterior (up to a constant) given, for each k, attempts made after k failures and successes.

    The prior is weak: uniform in the mean, log-normal in the strength (median 2, a factor of 4.5 for one
    standard deviation).
    """
    total = -0.5 * (math.log(law.strength / 2) / 1.5) ** 2
    for failures, (right, made) in enumerate(zip(solved, tried, strict=True)):
        if made:
            chance = min(max(law.hazard(failures), 1e-9), 1 - 1e-9)
            total += right * math.log(chance) + (made - right) * math.log1p(-chance)
    return total


def fit(
    solved: Sequence[int], tried: Sequence[int], start: BetaGeometric = BetaGeometric(0.5, 2.0)
) -> BetaGeometric:
    """The law with the highest posterior, by a pattern search from ``start``."""
    logit, size = math.log(start.mean / (1 - start.mean)), math.log(start.strength)
    best = log_posterior(solved, tried, start)
    step = 1.0
    while step > 0.03:
        for x, y in ((logit + step, size), (logit - step, size), (logit, size + step), (logit, size - step)):
            if abs(x) > 9 or abs(y) > 7:
                continue
            value = log_posterior(solved, tried, BetaGeometric(1 / (1 + math.exp(-x)), math.exp(y)))
            if value > best + _ENOUGH:
                best, logit, size = value, x, y
                break
        else:
            step /= 2
    return BetaGeometric(1 / (1 + math.exp(-logit)), math.exp(size))


def smoothed(
    solved: Sequence[int], tried: Sequence[int], law: BetaGeometric, *, weight: float, upto: int
) -> list[float]:
    """Hazards after 0 .. ``upto`` failures: what was seen, and ``weight`` attempts' worth of expectation.

    What is expected is the hazard one failure earlier, changed as the law has it change. So a round that
    nobody reached yet does not look better than the tried ones before it.
    """
    found: list[float] = []
    for failures in range(upto + 1):
        expected = law.hazard(failures)
        if found:
            expected *= found[-1] / law.hazard(failures - 1)
        made = tried[failures] if failures < len(tried) else 0
        right = solved[failures] if failures < len(solved) else 0
        found.append((right + weight * expected) / (made + weight))
    return found
