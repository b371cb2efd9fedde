"""Tokens that policies need for the same accuracy, by simulation on populations of problems.

Two references, on the very same attempts. *Uniform* gives every problem the same number of attempts, right
or not (the reference of "Strategic Scaling of Test-Time Compute", arXiv 2506.12721). *Breadth-first* is the
engine's default, which with an oracle already drops problems once they are right: the harder one to beat.

    python -m heartloop_benchmarks.perf.schedulers [--rounds 8] [--seeds 16] [--votes] [--json]

The accuracies compared are those that uniform reaches with shares of its tokens. Ratios are tokens over
tokens, of means over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from heartloop.engine.adaptive import Adaptive
from heartloop.engine.scheduler import BreadthFirst
from heartloop.simulation import POPULATIONS, Curve, Population, simulate

__all__ = ["SHARES", "Compared", "compare"]

SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)
_GRID = 1_000


@dataclass(frozen=True, slots=True)
class Compared:
    """One population at one accuracy.

    Attributes:
        share: of uniform's tokens at which it has this ``accuracy``.
        to_uniform, to_breadth_first: adaptive's tokens for it, over theirs; None where adaptive (or they)
            never reach it, which happens without an oracle, where accuracy may fall.
        at_equal_tokens: adaptive's accuracy with as many tokens as uniform took, minus uniform's.
    """

    population: str
    kind: str
    share: float
    accuracy: float
    to_uniform: float | None
    to_breadth_first: float | None
    at_equal_tokens: float


def compare(
    population: Population, *, rounds: int, problems: int, seeds: int, oracle: bool = True
) -> list[Compared]:
    """Adaptive against both references, at every share of :data:`SHARES`."""
    worlds = [population.draw(problems, rounds, seed) for seed in range(seeds)]
    adaptive = [simulate(world, Adaptive(), oracle=oracle) for world in worlds]
    breadth = [simulate(world, BreadthFirst(), oracle=oracle) for world in worlds]
    uniform = [simulate(world, BreadthFirst(), oracle=oracle, stop=False) for world in worlds]
    found = []
    for share in SHARES:
        spent = [share * curve.tokens[-1] for curve in uniform]
        target = sum(curve.right_at(b) for curve, b in zip(uniform, spent, strict=True)) / seeds
        equal = sum(curve.right_at(b) for curve, b in zip(adaptive, spent, strict=True)) / seeds
        mine, theirs, first = (tokens_for(curves, target) for curves in (adaptive, uniform, breadth))
        found.append(
            Compared(
                population.name,
                population.kind,
                share,
                target / problems,
                None if mine is None or theirs is None else mine / theirs,
                None if mine is None or first is None else mine / first,
                (equal - target) / problems,
            )
        )
    return found


def tokens_for(curves: Sequence[Curve], right: float) -> float | None:
    """Fewest tokens with which so many problems are right in the mean over ``curves``; None: never."""
    most = max(curve.tokens[-1] for curve in curves)
    for step in range(1, _GRID + 1):
        budget = most * step / _GRID
        if sum(curve.right_at(budget) for curve in curves) / len(curves) >= right - 1e-9:
            return budget
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--votes", action="store_true", help="without an oracle")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows: list[Compared] = []
    for population in POPULATIONS.values():
        found = compare(
            population,
            rounds=asked.rounds,
            problems=asked.problems,
            seeds=asked.seeds,
            oracle=not asked.votes,
        )
        rows += found
        if not asked.json:
            cells = " | ".join(
                f"{row.accuracy:.2f} {_ratio(row.to_uniform)} {_ratio(row.to_breadth_first)} "
                f"{row.at_equal_tokens:+.3f}"
                for row in found
            )
            print(f"{population.kind[:6]} {population.name:34s} {cells}", flush=True)
    if asked.json:
        json.dump([asdict(row) for row in rows], sys.stdout, indent=2)
        print()


def _ratio(ratio: float | None) -> str:
    return " -- " if ratio is None else f"{ratio:.2f}"


if __name__ == "__main__":
    main()
