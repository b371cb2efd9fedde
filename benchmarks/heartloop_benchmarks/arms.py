"""Affect against its controls, all other strategies beside them, and judges over what was recorded.

    python -m heartloop_benchmarks.arms --out FOLDER [--problems 30] [--others 12] [--seeds 3]
        [--minutes 40] [--into FILE]

Three kinds of runs on one-step word problems, by default on the embedded SmolLM2-135M:

* ``affect-SEED``, one for each seed: the five arms that isolate affect, without an oracle;
* ``others``, with the first seed and over the first ``--others`` problems: every other strategy, and under an
  oracle (arms ``...-s1``) the five arms and resampling;
* ``...-judged``: verifier-free judges over the recorded attempts; those that call the model on ``others``.

Work goes block by block of problems, each with all its runs and judgements, so that what ends after
``--minutes`` is complete for fewer problems. Started again with the same options it goes on where it was.
The figures (:mod:`heartloop_benchmarks.arms_report`) are written to ``FOLDER/results.md``; ``--into`` puts
them into a page, in place of its section of the same heading.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import orjson
from rich.console import Console

from heartloop.errors import HeartLoopError, UsageError
from heartloop.journal.reader import JournalReader
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.data import read_problems
from heartloop.runs.judging import open_rejudging
from heartloop.runs.presets import preset_arms
from heartloop.runs.progress import execute_watched
from heartloop.runs.run import JOURNAL_NAME, Run
from heartloop.runs.shots import own_shots
from heartloop.strategies.prompts import Prompts
from heartloop.types import Budget, Problem
from heartloop_benchmarks.arms_report import OTHERS, affect_folder, judged_folder, put_into, section

__all__ = [
    "CALLING",
    "FREE",
    "JUDGES_NOT_SERVED",
    "STRATEGIES_NOT_SERVED",
    "Plan",
    "affect_config",
    "main",
    "others_config",
    "work",
]

FREE = (
    "majority",
    "weighted",
    "weighted:by=bottom,power=4",
    "deepconf:keep=0.5",
    "keep_first(majority)",
    "panel(majority,weighted)",
)
"""Judges that call nobody. Those by confidence need the log-probabilities that are recorded with attempts."""

CALLING = (
    "usc",
    "synthesis",
    "genselect:think=false",
    "pointwise:think=false",
    "pairwise:think=false",
    "cascade(majority,pairwise:think=false)",
    "caps:think=false",
    "joint:think=false",
)
"""Judges that call the model, without reasons of their own: those of a very small one only cost tokens."""

JUDGES_NOT_SERVED = {
    "oracle": "knows the reference, and is the line that the others are measured against",
    "self_certainty": "needs the whole vocabulary's log-probabilities of each token",
    "follow_up": "needs log-probabilities of prompts",
    "reward": "needs a reward model",
}
STRATEGIES_NOT_SERVED = {"deepconf": "needs a backend that can leave an answer in the middle"}
JUDGED_OTHERS = ("resample", "heart")
STIMULI = ("emotion_prompt", "negative_prompt", "stress_prompt", "persona")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run.

    Attributes:
        others: on how many of the first problems the other strategies and the judges that call are run.
        calling: judges that call the model.
        block: problems between two looks at the clock.
        minutes: no block is begun that would probably end after so many minutes of work, all processes
            together; None: all are.
    """

    problems: tuple[Problem, ...]
    others: int
    seeds: tuple[int, ...]
    model: ModelConfig
    rounds: int = 3
    shots: int = 4
    calling: tuple[str, ...] = CALLING
    block: int = 10
    minutes: float | None = None
    data: str = ""


def affect_config(plan: Plan, seed: int) -> RunConfig:
    """The five arms under equal caps: as many calls, with as many tokens each, for every one of them."""
    base = ArmConfig("heart", judge="majority", max_rounds=plan.rounds)
    caps = Budget(calls=plan.rounds)
    return replace(_config(plan, seed, preset_arms("affect", base)), problem_budget=caps)


def others_config(plan: Plan) -> RunConfig:
    """Everything else, with no more attempts than HEART where the method allows it, and the arms under an
    oracle. Attempts that several make alike (fresh ones) are made once and charged to each."""
    rounds = plan.rounds
    base = ArmConfig("heart", judge="majority", max_rounds=rounds)
    arms = {arm.name: arm for arm in preset_arms("baselines", base) if arm.name != "bare_retry"}
    arms["best_of_n"] = replace(arms["best_of_n"], judge="pointwise:think=false")
    # Two generations of two are the least there is of it: one attempt more than three rounds of HEART.
    arms.setdefault("rsa", replace(base, name="rsa", strategy="rsa:k=2", max_rounds=2, width=2))
    more = [replace(base, name="single_pass", strategy="single_pass")]
    if rounds > 1:
        more.append(
            replace(base, name="parallel_heart", strategy="parallel_heart", max_rounds=2, width=rounds - 1)
        )
    # One attempt, as in the papers; it stands beside chain_of_thought, which is that without a stimulus.
    more += [replace(base, name=name, strategy=name, max_rounds=1) for name in STIMULI]
    with_oracle = replace(base, judge="oracle")
    under = [
        *preset_arms("affect", with_oracle),
        replace(with_oracle, name="resample", strategy="resample"),
    ]
    oracle = [replace(arm, name=f"{arm.name}-s1") for arm in under]
    return _config(plan, plan.seeds[0], (*arms.values(), *more, *oracle))


def _config(plan: Plan, seed: int, arms: Sequence[ArmConfig]) -> RunConfig:
    prompts = Prompts.default()
    if plan.shots:
        prompts = replace(prompts, shots=own_shots(plan.shots))
    return RunConfig(
        models={"generator": plan.model},
        arms=tuple(arms),
        seed=seed,
        prompts=prompts.as_dict(),
        share_first=True,
        data=plan.data,
    )


# --- doing it ----------------------------------------------------------------------------------------


def work(plan: Plan, out: Path, console: Console) -> bool:
    """Run what is missing in ``out``, block by block. False where it was interrupted.

    Raises:
        UsageError: ``out`` holds runs with other settings.
        HeartLoopError: whatever ends a run.
    """
    longest = {"affect": 0.0, OTHERS: 0.0}
    for start in range(0, len(plan.problems), plan.block):
        upto = plan.problems[: start + plan.block]
        parts = {"affect": _affect_block}
        if start < plan.others:
            parts[OTHERS] = _others_block
        spent = _spent(out) / 60
        if start and plan.minutes is not None and not _begun(plan, start, out):
            ahead = sum(longest[part] for part in parts) / 60
            if spent + ahead > plan.minutes:
                console.print(f"{spent:.1f} minutes have gone: the figures are of {start} problems")
                break
        console.rule(
            f"problems {start + 1} to {len(upto)} of {len(plan.problems)}, after {spent:.1f} minutes",
            align="left",
        )
        for part, do in parts.items():
            began = time.monotonic()
            if not do(plan, upto, out, console):
                return False
            longest[part] = max(longest[part], time.monotonic() - began)
    return True


def _affect_block(plan: Plan, upto: Sequence[Problem], out: Path, console: Console) -> bool:
    for seed in plan.seeds:
        folder = affect_folder(out, seed)
        done = _advance(folder, affect_config(plan, seed), upto, console)
        if not (done and _judge(folder, FREE, (), plan, console)):
            return False
    return True


def _others_block(plan: Plan, upto: Sequence[Problem], out: Path, console: Console) -> bool:
    folder = out / OTHERS
    done = _advance(folder, others_config(plan), upto[: plan.others], console)
    return done and _judge(folder, (*FREE, *plan.calling), JUDGED_OTHERS, plan, console)


def _advance(folder: Path, config: RunConfig, problems: Sequence[Problem], console: Console) -> bool:
    """The run in ``folder``, made or taken up, with all of ``problems`` done. False: it was interrupted."""
    if (folder / JOURNAL_NAME).exists():
        run = Run.open(folder)
    else:
        run = Run.create(folder, config, problems)
    with run:
        if _as_json(run.config) != _as_json(config):
            raise UsageError(f"{folder}: holds a run with other settings; choose another --out")
        run.extend(config, [problem for problem in problems if run.journal.problem(problem.id) is None])
        console.print(f"{folder.name}: {len(config.arms)} arms", highlight=False)
        summary = asyncio.run(execute_watched(run, console))
    for arm, problem, error in summary.failures:
        console.print(f"failed: {arm}, {problem}: {error}", markup=False, soft_wrap=True)
    return not summary.interrupted


def _judge(folder: Path, judges: Sequence[str], arms: Sequence[str], plan: Plan, console: Console) -> bool:
    # The confidence of attempts is with them; nobody asks for that of judges.
    model = replace(plan.model, logprobs=None)
    with open_rejudging(
        folder, judges, out=judged_folder(folder), arms=arms, models={"generator": model}
    ) as opened:
        console.print(f"{opened.run.folder.name}: {len(judges)} judges", highlight=False)
        summary = asyncio.run(execute_watched(opened.run, console))
    for arm, problem, error in summary.failures:
        console.print(f"failed: {arm}, {problem}: {error}", markup=False, soft_wrap=True)
    return not summary.interrupted


def _as_json(config: RunConfig) -> bytes:
    return orjson.dumps(config.to_dict(), option=orjson.OPT_SORT_KEYS)


def _begun(plan: Plan, start: int, out: Path) -> bool:
    """Whether some run has problems of this block already; then all must have them."""
    path = affect_folder(out, plan.seeds[0]) / JOURNAL_NAME
    if not path.exists():
        return False
    with JournalReader(path) as journal:
        return journal.count_problems() > start


def _spent(out: Path) -> float:
    """Seconds at work on the runs in ``out``, all processes together."""
    seconds = 0.0
    for path in out.glob(f"*/{JOURNAL_NAME}"):
        with JournalReader(path) as journal:
            seconds += journal.elapsed_before()
    return seconds


# --- the command -------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m heartloop_benchmarks.arms", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/arms"), help="folder of the runs")
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--others", type=int, default=10, help="problems for all but the five arms")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=4, help="worked examples before the question")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--slots", type=int, default=4, help="completions side by side (embedded model)")
    parser.add_argument("--block", type=int, default=10, help="problems between two looks at the clock")
    parser.add_argument("--minutes", type=float, help="begin no block that would end later than that")
    parser.add_argument("--judge", action="append", help="judges that call the model, in place of ours")
    parser.add_argument("--data", type=Path, help="other problems (JSONL: id, question, answer)")
    parser.add_argument("--model", default="local/smollm2-135m")
    parser.add_argument("--base-url")
    parser.add_argument("--machine", default="", help="a few words on the machine, for the page")
    parser.add_argument("--into", type=Path, help="page whose section of this heading is replaced")
    return parser


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the command line asks for.

    Raises:
        UsageError, DataError: what can't be run, or read.
    """
    if min(args.problems, args.seeds, args.block) < 1 or args.rounds < 2:
        raise UsageError("--problems, --seeds and --block are at least 1, --rounds at least 2")
    local = args.model.startswith("local/")
    model = ModelConfig(
        args.model,
        base_url=args.base_url,
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        logprobs=20,
        slots=args.slots if local else None,
    )
    if args.data is None:
        source = resources.files("heartloop.runs").joinpath("data/word_problems.jsonl")
        with resources.as_file(source) as path:
            problems = tuple(read_problems(path, limit=args.problems, need_answers=True))
    else:
        problems = tuple(read_problems(args.data, limit=args.problems, need_answers=True))
    return Plan(
        problems,
        others=min(args.others, len(problems)),
        seeds=tuple(range(args.seeds)),
        model=model,
        rounds=args.rounds,
        shots=args.shots,
        calling=CALLING if args.judge is None else tuple(args.judge),
        block=args.block,
        minutes=args.minutes,
        data="heartloop's own word problems" if args.data is None else args.data.name,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    args = _parser().parse_args(given)
    console = Console(stderr=True)
    try:
        plan = plan_of(args)
        if not work(plan, args.out, console):
            console.print("Interrupted; the same command goes on.")
            return 130
        page = section(
            args.out,
            plan.seeds,
            command=shlex.join(["python", "-m", "heartloop_benchmarks.arms", *given]),
            date=datetime.date.today().isoformat(),
            machine=args.machine,
            left_out={
                **{f"the strategy `{name}`": why for name, why in STRATEGIES_NOT_SERVED.items()},
                **{f"the judge `{name}`": why for name, why in JUDGES_NOT_SERVED.items()},
            },
        )
        (args.out / "results.md").write_text(page, encoding="utf-8")
        if args.into is not None:
            put_into(args.into, page)
    except UsageError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    except HeartLoopError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 1
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
