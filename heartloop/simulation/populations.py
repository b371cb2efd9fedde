"""Populations of problems to try policies on: how likely attempts are to be right, and what they cost."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from heartloop.simulation.simulate import Sample, World

__all__ = ["POPULATIONS", "Group", "Population"]


def _steady(round: int) -> float:
    return 1.0


@dataclass(frozen=True, slots=True)
class Group:
    """A share of the problems.

    Attributes:
        share: of the population.
        right, wrong: a problem's chance of a right attempt is drawn from Beta(right, wrong); ``right`` 0 is
            a chance of 0 (the impossible), ``wrong`` 0 of 1.
        cost: median tokens of an attempt; ``spread`` is the standard deviation of its logarithm between
            problems (attempts of one problem vary by 0.3 around it).
        mistakes: how often a wrong attempt gives the problem's favourite wrong answer; other wrong
            answers are all different.
        trend: factor on the chance in each round.
    """

    share: float
    right: float
    wrong: float
    cost: float = 600.0
    spread: float = 0.4
    mistakes: float = 0.4
    trend: Callable[[int], float] = _steady

    def chance(self, rng: random.Random) -> float:
        """A problem's chance of a right attempt, drawn from Beta(right, wrong)."""
        if self.right == 0 or self.wrong == 0:
            return float(self.wrong == 0)
        return rng.betavariate(self.right, self.wrong)


@dataclass(frozen=True, slots=True)
class Population:
    """A mixture of groups.

    Attributes:
        kind: ``"heterogeneous"``, ``"homogeneous"`` or ``"adversarial"``.
        sorted: problems come group by group (the run's beginning says nothing of its end).
    """

    name: str
    kind: str
    groups: tuple[Group, ...]
    sorted: bool = False

    def draw(self, problems: int, rounds: int, seed: int) -> World:
        """A world of so many problems with so many attempts each; the same for the same arguments."""
        rng = random.Random(f"{self.name}/{seed}")
        weights = [group.share for group in self.groups]
        if self.sorted:
            groups = [
                group
                for group, weight in zip(self.groups, weights, strict=True)
                for _ in range(math.ceil(weight / sum(weights) * problems))
            ][:problems]
        else:
            groups = rng.choices(self.groups, weights, k=problems)
        return [_problem(group, rounds, rng) for group in groups]


def _problem(group: Group, rounds: int, rng: random.Random) -> list[Sample]:
    chance = group.chance(rng)
    cost = group.cost * math.exp(rng.gauss(0, group.spread))
    attempts = []
    for round in range(1, rounds + 1):
        tokens = max(1, round_(cost * math.exp(rng.gauss(0, 0.3))))
        if rng.random() < min(1.0, chance * group.trend(round)):
            answer = "right"
        elif rng.random() < group.mistakes:
            answer = "mistake"
        else:
            answer = f"wrong {round}"
        attempts.append(Sample(tokens, answer == "right", answer, seconds=tokens / 50))
    return attempts


def round_(x: float) -> int:
    return int(x + 0.5)


def _late(round: int) -> float:
    return 1.0 if round >= 4 else 0.1


def _rising(round: int) -> float:
    return min(1.0, 0.25 * round)


def _fading(round: int) -> float:
    return 0.5 ** (round - 1)


EASY, MEDIUM, HARD, NEVER = (8, 2), (3, 4), (1, 12), (0, 1)

_ALL = (
    Population(
        "mixed",
        "heterogeneous",
        (Group(0.4, *EASY), Group(0.3, *MEDIUM), Group(0.15, *HARD), Group(0.15, *NEVER)),
    ),
    Population("two kinds", "heterogeneous", (Group(0.6, 9, 1), Group(0.4, 1, 12))),
    Population("broad", "heterogeneous", (Group(1.0, 0.6, 0.6),)),
    Population(
        "mostly easy", "heterogeneous", (Group(0.75, 12, 2), Group(0.15, *MEDIUM), Group(0.1, *NEVER))
    ),
    Population(
        "many impossible",
        "heterogeneous",
        (Group(0.3, *EASY), Group(0.2, *MEDIUM), Group(0.1, *HARD), Group(0.4, *NEVER)),
    ),
    Population(
        "hard ones cost more",
        "heterogeneous",
        (
            Group(0.35, *EASY, cost=400),
            Group(0.3, *MEDIUM, cost=800),
            Group(0.15, *HARD, cost=1600),
            Group(0.2, *NEVER, cost=2000),
        ),
    ),
    Population(
        "impossible ones repeat themselves",
        "heterogeneous",
        (
            Group(0.3, *EASY, mistakes=0.2),
            Group(0.35, *MEDIUM, mistakes=0.2),
            Group(0.35, *NEVER, mistakes=0.8),
        ),
    ),
    Population("all alike, 0.3", "homogeneous", (Group(1.0, 300, 700),)),
    Population("all alike, 0.05", "homogeneous", (Group(1.0, 50, 950),)),
    Population("all alike, same cost", "homogeneous", (Group(1.0, 200, 800, spread=0.0),)),
    Population("all easy", "homogeneous", (Group(1.0, 20, 1),)),
    Population("all hard", "homogeneous", (Group(1.0, 1, 40),)),
    Population("late", "adversarial", (Group(1.0, 3, 4, trend=_late),)),
    Population("rising", "adversarial", (Group(0.5, 2, 3, trend=_rising), Group(0.5, *HARD))),
    Population("fading", "adversarial", (Group(1.0, 3, 3, trend=_fading),)),
    Population(
        "some fade, some rise",
        "adversarial",
        (Group(0.5, 3, 3, trend=_fading), Group(0.5, 3, 4, trend=_late)),
    ),
    Population("hard first", "adversarial", (Group(0.5, *HARD), Group(0.5, *EASY)), sorted=True),
    Population("easy first", "adversarial", (Group(0.5, *EASY), Group(0.5, *HARD)), sorted=True),
    Population(
        "cheap ones impossible", "adversarial", (Group(0.5, *NEVER, cost=200), Group(0.5, *MEDIUM, cost=1200))
    ),
    Population(
        "repeating is a good sign",
        "adversarial",
        (Group(0.5, *NEVER, mistakes=0.1), Group(0.5, *MEDIUM, mistakes=0.9)),
    ),
)

POPULATIONS: Mapping[str, Population] = {population.name: population for population in _ALL}
