"""What each judge keeps of the oracle's gain, on simulated candidates with known truth.

    python -m heartloop_benchmarks.judges [--problems 1000] [--width 8] [--crowd NAME] [--json]

The judges' own code runs; attempts come from :mod:`heartloop.simulation.crowds`, and the model that judges
from :mod:`heartloop.simulation.critics`: its right and wrong differ by 1.5 standard deviations (``--skill``),
half of its error's variance is the answer's own (``--stubborn``: asking again does not mend it), and it likes
what comes first (by 0.7) and the generator's favourite mistakes (by 0.5). Calls are the judge's, a problem.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace

import orjson

from heartloop.reports.judging import JudgeFigures, judge_figures
from heartloop.simulation.critics import Critic
from heartloop.simulation.crowds import CROWDS, RIGHT, Crowd
from heartloop.simulation.judged import judged

FREE = (
    "majority",
    "weighted",
    "weighted:by=bottom,power=4",
    "deepconf",
    "deepconf:keep=0.5",
    "keep_first(majority)",
)
CALLING = (
    "pointwise",
    "pointwise:votes=4",
    "genselect",
    "genselect:votes=5",
    "pairwise",
    "pairwise:budget=6",
    "joint",
    "cascade(majority,pairwise)",
    "panel(majority,pairwise)",
    "panel(weighted,genselect:votes=5)",
    "panel(weighted,pointwise:votes=2,pairwise)",
    "panel(weighted:power=2,pointwise:votes=4,genselect:votes=5)",
)
CRITIC = Critic(skill=1.5, first=0.7, tempted=0.5)


def measured(
    crowd: Crowd, judge: str, *, problems: int, width: int, seed: int, critic: Critic | None = CRITIC
) -> tuple[JudgeFigures, float]:
    """The figures of one judge on one crowd, and its calls a problem."""
    drawn = crowd.draw(problems, width if crowd.rounds == 1 else 1, seed)
    solutions = asyncio.run(judged(drawn, judge, critic, seed))
    figures = judge_figures(
        [solution.answer == RIGHT for solution in solutions],
        [[attempt.answer == RIGHT for attempt in one.attempts] for one in drawn],
        seed=seed,
    )
    return figures, sum(solution.calls for solution in solutions) / problems


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--crowd", choices=sorted(CROWDS), action="append")
    parser.add_argument("--judge", action="append", help="a judge's spec; several may be given")
    parser.add_argument("--skill", type=float, default=CRITIC.skill)
    parser.add_argument("--stubborn", type=float, default=CRITIC.stubborn)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    critic = replace(CRITIC, skill=args.skill, stubborn=args.stubborn)
    for name in args.crowd or list(CROWDS):
        crowd = CROWDS[name]
        for number, judge in enumerate(args.judge or (*FREE, *CALLING)):
            figures, calls = measured(
                crowd, judge, problems=args.problems, width=args.width, seed=args.seed, critic=critic
            )
            if args.json:
                line = {"crowd": name, "judge": judge, "calls": calls, **figures.to_dict()}
                sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
                continue
            if number == 0:
                print(f"\n{name}: first {figures.first}, oracle {figures.oracle}, mixed {figures.mixed}")
                print(_row("judge", "share of the gain", "accuracy", "mixed", "random", "calls"))
            share = "not shown" if figures.share is None else str(figures.share)
            shown = (figures.accuracy, figures.mixed_accuracy, figures.mixed_random)
            cells = ["-" if figure is None else f"{figure.value:.3f}" for figure in shown]
            print(_row(judge, share, *cells, f"{calls:.1f}"), flush=True)


def _row(judge: str, share: str, *cells: str) -> str:
    return f"  {judge:60}{share:>26}" + "".join(f"{cell:>10}" for cell in cells)


if __name__ == "__main__":
    main()
