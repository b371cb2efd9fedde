"""The fewest tokens that any policy can need for the accuracy that uniform allocation has.

Whoever allocates attempts sees, with an oracle, which problems are right already and how the wrong answers of
the others agree; without one, how all answers agree. The best that can be done with that is worked out here:
a policy that knows the population's law (which a real one has to learn), knows what each problem's calls cost
before the first of them, and after every attempt decides by Bayes' rule whether this problem gets another.
With many problems that is one optimal stopping problem for each price of a token, solved backwards over all
that can have been seen (dynamic programming; the price is the Lagrange multiplier of the budget). No policy
does better on a large population, so a bar below these ratios can't be met.

    python -m heartloop_benchmarks.perf.allocation_bound [--rounds 8] [--votes] [--json]

Needs the extra [report]. The populations are those of :mod:`heartloop_benchmarks.perf.schedulers`, whose
trend is steady; chances and costs are cut into quantiles, which moves a ratio by less than 0.01.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.stats import beta, norm

from heartloop.simulation import POPULATIONS, Population

__all__ = ["SHARES", "Bound", "bounds"]

SHARES = (0.5, 0.75, 1.0)

Votes: TypeAlias = tuple[int, ...]
"""How often each answer was given, in the order in which answers first came; with an oracle, of those that
it rejected."""

_SOLVED: Votes = (sys.maxsize,)
"""With an oracle: an attempt was right."""

_Seen: TypeAlias = "Callable[[Votes, Any, Any, Any, Any], _Step]"

_CHANCES = 60
_COSTS = 9
_WITHIN = math.exp(0.3**2 / 2)
"""Mean over median of an attempt's tokens beside its problem's (see ``populations._problem``)."""


@dataclass(frozen=True, slots=True)
class Bound:
    """At one accuracy of uniform allocation, reached with ``share`` of its tokens: ``ratio`` is the fewest
    tokens that reach it, over uniform's."""

    population: str
    share: float
    accuracy: float
    ratio: float


@dataclass(frozen=True, slots=True)
class _Step:
    """What is known after some votes: the chance that the answer is right, and what may come next."""

    right: float
    following: tuple[tuple[Votes, float], ...]


@dataclass(frozen=True, slots=True)
class _Level:
    """Problems whose calls cost about the same: their share, an attempt's mean tokens, all states."""

    share: float
    cost: float
    steps: dict[Votes, _Step]


def bounds(
    population: Population, *, rounds: int = 8, shares: Sequence[float] = SHARES, oracle: bool = True
) -> list[Bound]:
    """The bound for each of ``shares``.

    Args:
        population: of groups whose chances don't change from round to round.
        rounds: attempts of a problem, at most (uniform gives each so many at the end).
        oracle: attempts are judged; otherwise the answer with the most votes is the problem's.
    """
    levels = _levels(population, rounds, _judged if oracle else _voted)
    accuracy, tokens = _uniform(levels, rounds)
    frontier = _frontier(levels, rounds)
    found = []
    for share in shares:
        target = float(np.interp(share * rounds, range(rounds + 1), accuracy))
        need = float(np.interp(target, [a for _, a in frontier], [t for t, _ in frontier]))
        paid = float(np.interp(share * rounds, range(rounds + 1), tokens))
        found.append(Bound(population.name, share, target, need / paid))
    return found


def _levels(population: Population, rounds: int, step: _Seen) -> list[_Level]:
    """Problems by cost; within a level the law is the posterior of the groups given the cost."""
    total = sum(group.share for group in population.groups)
    kinds: list[tuple[float, float]] = []
    weights: list[float] = []
    groups: list[int] = []
    for number, group in enumerate(population.groups):
        chances = [0.0 if group.right == 0 else 1.0]
        if group.right and group.wrong:
            places = (np.arange(_CHANCES) + 0.5) / _CHANCES
            chances = [float(x) for x in beta.ppf(places, group.right, group.wrong)]
        for chance in chances:
            kinds.append((chance, group.mistakes))
            weights.append(group.share / total / len(chances))
            groups.append(number)
    law, of = np.array(weights), np.array(groups)
    spread = population.groups[0].spread
    if len({(group.cost, group.spread) for group in population.groups}) == 1:
        quantiles = norm.ppf((np.arange(_COSTS) + 0.5) / _COSTS)
        factors = np.exp(spread * quantiles)
        factors *= math.exp(spread**2 / 2) / factors.mean()
        steps = _steps(kinds, law, rounds, step)
        median = population.groups[0].cost
        return [_Level(1 / _COSTS, median * float(f) * _WITHIN, steps) for f in factors]
    logs = [math.log(group.cost) for group in population.groups]
    spreads = np.array([group.spread for group in population.groups])
    levels = []
    for place in np.linspace(min(logs) - 2 * spread, max(logs) + 2 * spread, 25):
        density = np.exp(-0.5 * ((place - np.array(logs)) / spreads) ** 2) / spreads
        weighed = law * density[of]
        mass = float(weighed.sum())
        steps = _steps(kinds, weighed / mass, rounds, step)
        levels.append(_Level(mass, math.exp(place) * _WITHIN, steps))
    mass = sum(level.share for level in levels)
    return [_Level(level.share / mass, level.cost, level.steps) for level in levels]


def _steps(
    kinds: Sequence[tuple[float, float]], law: Any, rounds: int, step_after: _Seen
) -> dict[Votes, _Step]:
    chance = np.array([p for p, _ in kinds])
    favourite = np.array([m for _, m in kinds])
    right, mistake, other = chance, (1 - chance) * favourite, (1 - chance) * (1 - favourite)
    steps: dict[Votes, _Step] = {}
    states: set[Votes] = {()}
    for made in range(rounds + 1):
        following: set[Votes] = set()
        for votes in states:
            step = steps[votes] = step_after(votes, law, right, mistake, other)
            if made < rounds:
                following.update(after for after, _ in step.following)
        states = following
    return steps


def _judged(votes: Votes, law: Any, right: Any, mistake: Any, other: Any) -> _Step:
    """With an oracle, over all ways in which rejected answers may be the favourite mistake, and others."""
    if votes == _SOLVED:
        return _Step(1.0, ((_SOLVED, 1.0),))
    total = 0.0
    chances: dict[Votes, float] = {}
    for m in [None, *range(len(votes))]:
        if any(n > 1 and i != m for i, n in enumerate(votes)):
            continue  # other wrong answers never repeat
        singles = sum(i != m for i in range(len(votes)))
        weight = law * other**singles * mistake ** (0 if m is None else votes[m])
        total += float(weight.sum())
        for chance, after in ((right, _SOLVED), (mistake, _given(votes, m)), (other, _given(votes, None))):
            chances[after] = chances.get(after, 0.0) + float((weight * chance).sum())
    return _Step(0.0, tuple((after, p / total) for after, p in chances.items() if p))


def _voted(votes: Votes, law: Any, right: Any, mistake: Any, other: Any) -> _Step:
    """Over all ways in which the answers seen may be the right one, the favourite mistake, and others."""
    places: list[int | None] = [None, *range(len(votes))]
    leader = None if not votes else max(range(len(votes)), key=lambda i: (votes[i], -i))
    total = leads = 0.0
    chances: dict[Votes, float] = {}
    for r in places:
        for m in places:
            same = r is not None and r == m
            if same or any(n > 1 and i not in (r, m) for i, n in enumerate(votes)):
                continue  # other wrong answers never repeat
            singles = sum(i not in (r, m) for i in range(len(votes)))
            weight = law * other**singles
            weight = weight * (right ** (0 if r is None else votes[r]))
            weight = weight * (mistake ** (0 if m is None else votes[m]))
            mass = float(weight.sum())
            total += mass
            leads += mass if r is not None and r == leader else 0.0
            for chance, place in ((right, r), (mistake, m), (other, None)):
                after = _given(votes, place)
                chances[after] = chances.get(after, 0.0) + float((weight * chance).sum())
    return _Step(leads / total, tuple((after, p / total) for after, p in chances.items()))


def _given(votes: Votes, place: int | None) -> Votes:
    if place is None:
        return (*votes, 1)
    return (*votes[:place], votes[place] + 1, *votes[place + 1 :])


def _uniform(levels: Sequence[_Level], rounds: int) -> tuple[list[float], list[float]]:
    """Accuracy and tokens a problem after each round, when all problems get each round."""
    accuracy, tokens = [0.0] * (rounds + 1), [0.0] * (rounds + 1)
    for level in levels:
        now: dict[Votes, float] = {(): 1.0}
        for made in range(rounds + 1):
            accuracy[made] += level.share * sum(p * level.steps[votes].right for votes, p in now.items())
            tokens[made] += level.share * level.cost * made
            if made < rounds:
                later: dict[Votes, float] = {}
                for votes, p in now.items():
                    for after, q in level.steps[votes].following:
                        later[after] = later.get(after, 0.0) + p * q
                now = later
    return accuracy, tokens


def _frontier(levels: Sequence[_Level], rounds: int) -> list[tuple[float, float]]:
    """(tokens a problem, accuracy) of the best policy at each price of a token, both rising."""
    points = {(0.0, 0.0)}
    for price in np.exp(np.linspace(math.log(1e-7), math.log(3e-3), 160)):
        spent = right = 0.0
        for level in levels:
            accuracy, tokens = _best(level, float(price), rounds)
            spent += level.share * tokens
            right += level.share * accuracy
        points.add((spent, right))
    rising: list[tuple[float, float]] = []
    for point in sorted(points):
        if not rising or point[1] > rising[-1][1]:
            rising.append(point)
    return rising


def _best(level: _Level, price: float, rounds: int) -> tuple[float, float]:
    """Accuracy and tokens of optimal stopping, by backward induction from the last round."""
    found: dict[Votes, tuple[float, float]] = {}
    for votes in sorted(level.steps, key=sum, reverse=True):
        step = level.steps[votes]
        found[votes] = (step.right, 0.0)
        if sum(votes) < rounds:
            accuracy = sum(p * found[after][0] for after, p in step.following)
            tokens = level.cost + sum(p * found[after][1] for after, p in step.following)
            if accuracy - price * tokens > step.right:
                found[votes] = (accuracy, tokens)
    return found[()]


def main() -> None:
    parser = argparse.ArgumentParser(description="The fewest tokens that any policy needs.")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--votes", action="store_true", help="without an oracle")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows: list[Bound] = []
    for population in POPULATIONS.values():
        if population.kind == "heterogeneous":
            found = bounds(population, rounds=asked.rounds, oracle=not asked.votes)
            rows += found
            if not asked.json:
                cells = "  ".join(f"{row.share:g}: {row.accuracy:.3f} {row.ratio:.2f}" for row in found)
                print(f"{population.name:34s} {cells}", flush=True)
    if asked.json:
        json.dump([asdict(row) for row in rows], sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
