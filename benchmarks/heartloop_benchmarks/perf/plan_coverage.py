"""How often `heartloop plan`'s 90% intervals hold what the run then reaches.

For each simulation: a population, a pilot drawn from it, a forecast from that pilot alone, and a new run
of other problems of the same population, which the forecast either covers or not.

    python -m heartloop_benchmarks.perf.plan_coverage [--simulations 200] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass

from heartloop.engine.scheduler import scheduler_from_name
from heartloop.simulation import POPULATIONS, World, simulate
from heartloop.simulation.predict import Pilot, foresee

__all__ = ["Coverage", "coverage", "pilot_of"]

NAMES = ("mixed", "broad", "two kinds", "hard ones cost more", "late", "all hard")
SHARES = (0.2, 0.4, 0.7)
"""Budgets, as shares of what all attempts of the new run would cost."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of ``trials`` intervals, ``covered`` held the truth; ``below`` and ``above`` are misses by side."""

    trials: int
    covered: int
    below: int
    above: int
    width: float

    @property
    def share(self) -> float:
        return self.covered / self.trials


def pilot_of(world: World, rounds: int, *, oracle: bool) -> Pilot:
    """A pilot that ran ``world`` to its end: with an oracle, problems end with their first right attempt."""
    if not oracle:
        return Pilot(world, oracle=False, rounds=rounds)
    courses = []
    for course in world:
        right = next((k for k, sample in enumerate(course) if sample.correct), len(course))
        courses.append(course[: right + 1])
    return Pilot(courses, oracle=True, rounds=rounds)


def coverage(
    names: tuple[str, ...] = NAMES,
    *,
    simulations: int = 200,
    pilot_problems: int = 60,
    problems: int = 120,
    rounds: int = 6,
    draws: int = 100,
    oracle: bool = True,
    scheduler: str = "breadth_first",
) -> Coverage:
    """Intervals of ``simulations`` forecasts, spread evenly over the populations, at three budgets each."""
    covered = below = above = 0
    width = 0.0
    for number in range(simulations):
        population = POPULATIONS[names[number % len(names)]]
        pilot = pilot_of(population.draw(pilot_problems, rounds, 2 * number), rounds, oracle=oracle)
        world = population.draw(problems, rounds, 2 * number + 1)
        full = sum(sample.tokens for course in pilot.courses for sample in course)
        budgets = [int(share * full * problems / pilot_problems) for share in SHARES]
        found = foresee(
            pilot,
            budgets=budgets,
            schedulers={scheduler: None},
            problems=problems,
            draws=draws,
            seed=number,
        )
        curve = simulate(world, scheduler_from_name(scheduler), oracle=oracle)
        for interval in found:
            truth = curve.accuracy_at(interval.budget)
            below += truth < interval.low
            above += truth > interval.high
            covered += interval.low <= truth <= interval.high
            width += interval.high - interval.low
    trials = simulations * len(SHARES)
    return Coverage(trials, covered, below, above, width / trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--pilot", type=int, default=60, help="problems of the pilot")
    parser.add_argument("--problems", type=int, default=120, help="problems of the run foreseen")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = []
    for oracle in (True, False):
        for scheduler in ("breadth_first", "adaptive"):
            found = coverage(
                simulations=asked.simulations,
                pilot_problems=asked.pilot,
                problems=asked.problems,
                draws=asked.draws,
                oracle=oracle,
                scheduler=scheduler,
            )
            rows.append(
                {
                    "oracle": oracle,
                    "scheduler": scheduler,
                    "intervals": found.trials,
                    "coverage": round(found.share, 4),
                    "truth_below": found.below,
                    "truth_above": found.above,
                    "mean_width": round(found.width, 4),
                }
            )
            if not asked.json:
                print(rows[-1], flush=True)
    if asked.json:
        json.dump(rows, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
