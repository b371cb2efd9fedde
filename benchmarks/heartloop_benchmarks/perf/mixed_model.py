"""Would a crossed mixed model say more of affect than two-way clustering? Both on the same simulated runs.

    python -m heartloop_benchmarks.perf.mixed_model [--runs 80] [--seed 0] [--cues 6 12 24]

Each run: 60 questions, five matched answers each, whose differences (-1, 0, 1) share questions and cues,
both of which matter; on average there is none. The model is statsmodels' MixedLM (linear, REML) with
crossed random intercepts of questions and cues, its interval the normal one: statsmodels has no degrees
of freedom by Satterthwaite or Kenward and Roger. *Failed* fits did not converge, or gave no standard
error; those with an interval count all the same. A fit takes some tenths of a second.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from typing import Any

import numpy as np

from heartloop.reports.affect import two_way

QUESTIONS, ANSWERS = 60, 5
SPREAD, THRESHOLD = 0.5, 1.2
NORMAL = 1.959964

Interval = tuple[float, float]


def simulated(rng: np.random.Generator, cues: int) -> tuple[Any, Any, Any]:
    """Differences between matched answers, with the question and the cue of each."""
    questions = np.repeat(np.arange(QUESTIONS), ANSWERS)
    cue = rng.integers(0, cues, size=len(questions))
    latent = rng.normal(0, SPREAD, QUESTIONS)[questions] + rng.normal(0, SPREAD, cues)[cue]
    latent = latent + rng.normal(0, 1, len(questions))
    return np.sign(latent) * (np.abs(latent) > THRESHOLD), questions, cue


def mixed_model(values: Any, questions: Any, cues: Any) -> tuple[Interval | None, bool]:
    """The interval of the mean by the mixed model, and whether the fit converged."""
    frames, models = importlib.import_module("pandas"), importlib.import_module("statsmodels.api")
    data = frames.DataFrame({"y": values, "question": questions, "cue": cues, "all": 1})
    parts = {"question": "0 + C(question)", "cue": "0 + C(cue)"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = models.MixedLM.from_formula("y ~ 1", data, groups="all", re_formula="0", vc_formula=parts)
            fit = model.fit(reml=True)
        except (np.linalg.LinAlgError, ValueError):
            return None, False
    mean, error = float(fit.fe_params.iloc[0]), float(fit.bse_fe.iloc[0])
    if not np.isfinite(error):
        return None, False
    return (mean - NORMAL * error, mean + NORMAL * error), bool(fit.converged)


def line(cues: int, runs: int, seed: int) -> str:
    """A row of the table."""
    found: dict[str, list[Interval]] = {"two-way": [], "mixed": []}
    failed = 0
    for run in range(runs):
        made = simulated(np.random.default_rng([seed, run]), cues)
        clustered = two_way(made[0], *([str(one) for one in names] for names in made[1:]))
        if clustered is not None:
            found["two-way"].append(clustered[1])
        interval, converged = mixed_model(*made)
        failed += not converged
        if interval is not None:
            found["mixed"].append(interval)
    cells = []
    for intervals in found.values():
        held = np.mean([low <= 0 <= high for low, high in intervals])
        cells += [f"{held:.1%}", f"{np.mean([high - low for low, high in intervals]):.3f}"]
    return f"| {cues} | {' | '.join(cells)} | {failed / runs:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cues", type=int, nargs="+", default=[6, 12, 24])
    args = parser.parse_args()
    print("| cues | two-way: coverage | width | mixed model: coverage | width | failed |")
    print("|---|---|---|---|---|---|")
    for cues in args.cues:
        print(line(cues, args.runs, args.seed), flush=True)


if __name__ == "__main__":
    main()
