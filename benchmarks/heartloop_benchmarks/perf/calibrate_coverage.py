"""Do the intervals of ``heartloop calibrate`` hold the truth? Counted where the truth is known.

    python -m heartloop_benchmarks.perf.calibrate_coverage [--runs 300] [--problems 60 150] [--pool 4000]

A pool of simulated problems stands for the task: the accuracy of every setting on it is the truth. Each run
draws labelled problems from it, calibrates on them, and is right if its interval holds what its own choice
does on the pool. ``bias`` is the estimate's mean error; ``naive`` that of the best setting's accuracy on the
problems that chose it; ``width`` the mean interval's.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heartloop.judges import judge_from_name
from heartloop.reports.nested import nested
from heartloop.runs.calibrate import CONFIDENT, PLAIN, STOPS
from heartloop.runs.settings import Case, Outcome, Setting, outcomes
from heartloop.simulation.crowds import CROWDS, Crowd
from heartloop.strategies.stopping import stop_from_spec

ROUNDS = (1, 2, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares of runs whose interval held the truth, and mean errors of the estimate."""

    accuracy: float
    gain: float
    tokens: float
    bias: float
    optimism: float
    width: float


def pool_of(crowd: Crowd, size: int, seed: int = 0) -> tuple[list[list[Outcome]], list[bool]]:
    """What every setting does on every problem of a pool, and whether first attempts are right."""
    settings = [
        Setting(judge, stop, 1, rounds)
        for rounds in ROUNDS
        for stop in (STOPS if rounds > 1 else (None,))
        for judge in (*PLAIN, *CONFIDENT)
    ]
    judges = {setting.judge: judge_from_name(setting.judge) for setting in settings}
    rules = {stop: stop_from_spec(stop) for stop in STOPS if stop is not None}

    async def same(a: str, b: str) -> bool:
        return a == b

    async def fill() -> list[list[Outcome]]:
        return [
            await outcomes(
                Case(drawn.problem, drawn.attempts), settings, "independent", judges, rules, same, 1
            )
            for drawn in crowd.draw(size, max(ROUNDS), seed)
        ]

    table = asyncio.run(fill())
    first = [row[0].right for row in table]
    return table, first


def covered(
    table: Sequence[Sequence[Outcome]], first: Sequence[bool], *, problems: int, runs: int, seed: int = 0
) -> Coverage:
    """Calibrate on ``runs`` draws of so many problems from the pool."""
    right = np.array([[o.right for o in row] for row in table], dtype=float).T
    tokens = np.array([[o.tokens for o in row] for row in table], dtype=float).T
    calls = np.array([[o.calls for o in row] for row in table], dtype=float).T
    base = np.array(first, dtype=float)
    truth, cost = right.mean(axis=1), tokens.mean(axis=1)
    rng = np.random.default_rng(seed)
    hits = np.zeros(3)
    errors, naive, widths = [], [], []
    for run in range(runs):
        drawn = rng.choice(len(base), size=problems, replace=False)
        found = nested(right[:, drawn], tokens[:, drawn], calls[:, drawn], base[drawn], seed=run)
        true = float(truth[found.chosen])
        for place, (figure, value) in enumerate(
            (
                (found.accuracy, true),
                (found.gain, true - float(base.mean())),
                (found.tokens, float(cost[found.chosen])),
            )
        ):
            hits[place] += figure.low <= value <= figure.high
        errors.append(found.accuracy.value - true)
        naive.append(max(found.apparent) - float(truth[found.best]))
        widths.append(found.accuracy.high - found.accuracy.low)
    accuracy, gain, spent = (float(hit) / runs for hit in hits)
    return Coverage(
        accuracy, gain, spent, float(np.mean(errors)), float(np.mean(naive)), float(np.mean(widths))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--problems", type=int, nargs="+", default=[60, 150])
    parser.add_argument("--pool", type=int, default=4000)
    parser.add_argument("--crowd", choices=sorted(CROWDS), action="append")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = args.crowd or ["correlated errors", "strongly correlated errors", "independent errors", "easy"]
    print(
        f"{'crowd':28}{'problems':>9}{'accuracy':>10}{'gain':>7}{'tokens':>8}{'bias':>8}{'naive':>8}{'width':>7}"
    )
    for name in names:
        table, first = pool_of(CROWDS[name], args.pool, args.seed)
        for problems in args.problems:
            c = covered(table, first, problems=problems, runs=args.runs, seed=args.seed)
            print(
                f"{name:28}{problems:9}{c.accuracy:10.3f}{c.gain:7.3f}{c.tokens:8.3f}"
                f"{c.bias:+8.3f}{c.optimism:+8.3f}{c.width:7.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
