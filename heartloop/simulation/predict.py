"""What a larger run will reach at a budget, foreseen from a pilot run.

**With an oracle** a problem's course is the round at which it is first right, and what its rounds cost. The
chance of being right in a round, given that all before were wrong, gets a posterior of its own for each
round: a beta-binomial over the pilot's problems, centred weakly on the beta-geometric law
(:mod:`heartloop.engine.hazards`) whose two numbers are drawn from their posterior too. So rounds that few
problems reached are uncertain, and rounds that none reached follow the law. Problems that a budget or a
failure cut short count as far as they went.

**Without one** the pilot's problems are drawn anew with random weights (the Bayesian bootstrap, Rubin
1981), each with all it did, and a problem's answer is the one with the most votes so far (or, where the pilot
had it so, the last one of a problem that has made all its attempts).

Each draw makes a whole new run: first a population, then that many new problems from it. What is known badly
(a small pilot) and what differs from run to run (which problems one meets) are both in the intervals.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from heartloop.engine.hazards import BetaGeometric, log_posterior
from heartloop.engine.scheduler import scheduler_from_name
from heartloop.simulation.simulate import Curve, Sample, World, simulate

__all__ = ["Foreseen", "Pilot", "foresee", "foreseen_worlds"]

_LAW_WEIGHT = 2.0
"""How many attempts the law counts for in a round: little, since it is made from the same data."""

_UNSEEN = 0.5
"""Successes (or failures) that might as well have been seen, where none were (Jeffreys' prior)."""

_TRUST = 0.8
"""How much of a problem each problem of the pilot counts for. At 1 the intervals of small pilots are somewhat
narrow, as bootstrap intervals are where costs are skewed: 85 to 86% of them held the truth in
``heartloop_benchmarks.perf.plan_coverage``."""


@dataclass(frozen=True, slots=True)
class Pilot:
    """What the problems of a pilot did.

    Attributes:
        courses: each problem's attempts in order. With ``oracle`` they end with the first right one.
        oracle: whether attempts were judged right or wrong during the run.
        rounds: attempts a problem gets at most.
        last: without an oracle, whether a finished problem's answer is its last one, whatever the votes.
    """

    courses: World
    oracle: bool
    rounds: int
    last: bool = False


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Accuracy of a run at a budget: the middle (median) of all draws and where 90% of them lie."""

    scheduler: str
    budget: int
    accuracy: float
    low: float
    high: float


@dataclass(slots=True)
class _Population:
    """What of a pilot the draws need, counted once.

    Attributes:
        solved, tried: for each number of failures, attempts made after so many, and successes.
        donors: places of problems by the round that solved them; 0 for unsolved ones.
    """

    pilot: Pilot
    solved: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    donors: dict[int, list[int]] = field(default_factory=dict)
    laws: list[BetaGeometric] = field(default_factory=list)
    law_weights: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.solved, self.tried = [0] * self.pilot.rounds, [0] * self.pilot.rounds
        for place, course in enumerate(self.pilot.courses):
            for failures, sample in enumerate(course[: self.pilot.rounds]):
                self.tried[failures] += 1
                self.solved[failures] += sample.correct
            ended = len(course) if course and course[-1].correct else 0
            if course:
                self.donors.setdefault(ended, []).append(place)
        self.laws = [
            BetaGeometric(1 / (1 + math.exp(-x / 4)), math.exp(y / 3))
            for x in range(-24, 25)
            for y in range(-6, 16, 2)
        ]
        logs = [log_posterior(self.solved, self.tried, law) for law in self.laws]
        # The grid is even in the logit; a uniform prior of the mean weighs it by mean * (1 - mean).
        logs = [log + math.log(law.mean * (1 - law.mean)) for log, law in zip(logs, self.laws, strict=True)]
        top = max(logs)
        self.law_weights = list(accumulate(math.exp(log - top) for log in logs))

    def hazards(self, rng: random.Random) -> list[float]:
        """One draw of the chances by round."""
        law = rng.choices(self.laws, cum_weights=self.law_weights)[0]
        found = []
        for failures, (right, made) in enumerate(zip(self.solved, self.tried, strict=True)):
            centre = min(max(law.hazard(failures), 1e-6), 1 - 1e-6)
            if made == 0:
                found.append(centre)
                continue
            wins, losses = _TRUST * right, _TRUST * (made - right)
            found.append(rng.betavariate(wins + _doubt(centre, losses), losses + _doubt(1 - centre, wins)))
        return found


def foreseen_worlds(pilot: Pilot, *, problems: int, draws: int, seed: int = 0) -> list[World]:
    """``draws`` runs of ``problems`` new problems each, as likely as the pilot makes them.

    Raises:
        ValueError: the pilot made no attempt.
    """
    if not any(pilot.courses):
        raise ValueError("a pilot without a single attempt says nothing")
    population = _Population(pilot)
    worlds: list[World] = []
    for draw in range(draws):
        rng = random.Random(f"plan/{seed}/{draw}")
        weights = [rng.gammavariate(_TRUST, 1.0) for _ in pilot.courses]
        if pilot.oracle:
            worlds.append(_oracle_world(population, weights, problems, rng))
        else:
            courses = [course for course in pilot.courses if course]
            kept = [weight for weight, course in zip(weights, pilot.courses, strict=True) if course]
            unseen = _unseen(rng.choice(courses))
            kept += [rng.gammavariate(_UNSEEN, 1.0) for _ in unseen]
            worlds.append(rng.choices([*courses, *unseen], kept, k=problems))
    return worlds


def _unseen(like: Sequence[Sample]) -> list[list[Sample]]:
    """A problem that is always right and one that never is: there may be some, even if the pilot met none."""
    return [
        [sample._replace(correct=right, answer="right" if right else "wrong") for sample in like]
        for right in (True, False)
    ]


def _doubt(chance: float, against: float) -> float:
    """The prior's share in a beta posterior: what the law expects of as many attempts as went the other way,
    but no more than Jeffreys' half a success, or the law's own weight."""
    return max(_LAW_WEIGHT * chance, min(_UNSEEN, chance * against))


def _oracle_world(
    population: _Population, weights: Sequence[float], problems: int, rng: random.Random
) -> World:
    hazards = population.hazards(rng)
    alike: dict[int, tuple[list[int], list[float]]] = {}
    world = []
    for _ in range(problems):
        solved_at = next((k + 1 for k, hazard in enumerate(hazards) if rng.random() < hazard), 0)
        if solved_at not in alike:
            places = _donors(population, solved_at)
            alike[solved_at] = places, list(accumulate(weights[place] for place in places))
        places, cumulated = alike[solved_at]
        donor = population.pilot.courses[rng.choices(places, cum_weights=cumulated)[0]]
        world.append(_course(population, donor, solved_at, rng))
    return world


def _donors(population: _Population, solved_at: int) -> list[int]:
    """Problems whose costs one that is solved in that round (0: never) may have: those that ended alike."""
    rounds = population.pilot.rounds
    wanted = solved_at or rounds + 1
    known = sorted(population.donors, key=lambda ended: (abs((ended or rounds + 1) - wanted), ended))
    found: list[int] = []
    for ended in known:
        found += population.donors[ended]
        if len(found) >= 5:
            break
    return found


def _course(
    population: _Population, donor: Sequence[Sample], solved_at: int, rng: random.Random
) -> list[Sample]:
    course = []
    for round in range(1, (solved_at or population.pilot.rounds) + 1):
        like = donor[round - 1] if round <= len(donor) else donor[rng.randrange(len(donor))]
        right = round == solved_at
        answer = "right" if right else f"wrong {round}"
        if not right and round <= len(donor) and not like.correct:
            answer = like.answer
        course.append(Sample(like.tokens, right, answer, like.seconds))
    return course


def curves(
    worlds: Sequence[World], scheduler: str, pilot: Pilot, *, concurrency: int, active: int | None
) -> list[Curve]:
    """Every world run as ``pilot`` was, under a new policy of that name."""
    return [
        simulate(
            world,
            scheduler_from_name(scheduler),
            oracle=pilot.oracle,
            concurrency=concurrency,
            active=active,
            last=pilot.last,
        )
        for world in worlds
    ]


def foresee(
    pilot: Pilot,
    *,
    budgets: Sequence[int],
    schedulers: Mapping[str, int | None],
    problems: int,
    concurrency: int = 1,
    draws: int = 200,
    seed: int = 0,
) -> list[Foreseen]:
    """Accuracy to expect at each of ``budgets`` (tokens) under each scheduler.

    Args:
        schedulers: name to the number of problems active at once (None: all).
        problems: of the run that is foreseen.
        draws: runs simulated for each scheduler.

    Raises:
        ValueError: the pilot made no attempt.
        UnknownName: no such scheduler.
    """
    worlds = foreseen_worlds(pilot, problems=problems, draws=draws, seed=seed)
    found = []
    for name, active in schedulers.items():
        made = curves(worlds, name, pilot, concurrency=concurrency, active=active)
        for budget in budgets:
            reached = sorted(curve.accuracy_at(budget) for curve in made)
            found.append(
                Foreseen(
                    name, budget, quantile(reached, 0.5), quantile(reached, 0.05), quantile(reached, 0.95)
                )
            )
    return found


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that one more draw like ``ordered`` lies at or below with chance ``share``: place
    share * (n + 1) of n, linear between neighbours. (Quantiles of the draws themselves are too close
    together by 2 / (n + 1).)"""
    place = min(max(share * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
