"""Intervals for proportions."""

from __future__ import annotations

from math import sqrt

__all__ = ["wilson"]

_Z = 1.959963984540054


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """95% Wilson score interval of a proportion (Wilson 1927); None for no trials."""
    if trials == 0:
        return None
    p, z2 = successes / trials, _Z * _Z
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * sqrt(p * (1 - p) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)
