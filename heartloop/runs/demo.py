"""The demo: real loops on a real, very small model, under the same caps, with nothing tuned."""

from __future__ import annotations

import asyncio
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.data import read_problems
from heartloop.runs.intervals import wilson
from heartloop.runs.progress import execute_watched
from heartloop.runs.run import JOURNAL_NAME, Run
from heartloop.runs.shots import own_shots
from heartloop.runs.summary import ArmSummary, Summary
from heartloop.strategies.prompts import Prompts
from heartloop.types import Budget

__all__ = ["demo_config", "run_demo"]

ROUNDS = 3
SHOTS = 4

_TITLES = {
    "single_pass": "single pass",
    "resample-s1": "resample",
    "self_reflection-s1": "self-reflection",
    "heart_twin-s1": "HEART, neutral twins",
    "heart-s1": "HEART",
    "resample-s2": "resample",
    "self_reflection-s2": "self-reflection",
    "heart_twin-s2": "HEART, neutral twins",
    "heart-s2": "HEART",
}


def demo_config(seed: int) -> RunConfig:
    """Every arm has the same model, sampling, shots, rounds, calls and tokens a problem."""
    # With the loops' own first prompt: what they add to it is what is to be seen, and it costs no call.
    arms = [ArmConfig("single_pass", "chain_of_thought", "majority", ROUNDS)]
    for setting, judge in (("s1", "oracle"), ("s2", "majority")):
        for name, rotation in (
            ("resample", "alternating"),
            ("self_reflection", "alternating"),
            ("heart_twin", "neutral"),
            ("heart", "alternating"),
        ):
            strategy = "heart" if name.startswith("heart") else name
            arms.append(ArmConfig(f"{name}-{setting}", strategy, judge, max_rounds=ROUNDS, rotation=rotation))
    prompts = Prompts(Prompts.default().sections, shots=own_shots(SHOTS))
    return RunConfig(
        models={"generator": ModelConfig("local/smollm2-135m", temperature=0.7, max_tokens=96)},
        arms=tuple(arms),
        seed=seed,
        problem_budget=Budget(calls=ROUNDS, tokens=24_000),
        prompts=prompts.as_dict(),
        share_first=True,
        data="heartloop's own word problems",
    )


def run_demo(out: Path | None, *, seed: int, problems: int, console: Console) -> dict[str, Any]:
    """Run it, print what was seen, and return the summary. ``out`` keeps the run; it is resumed if there."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="heartloop-demo-") as folder:
            return _run(Path(folder) / "run", seed, problems, console)
    return _run(out, seed, problems, console)


def _run(folder: Path, seed: int, problems: int, console: Console) -> dict[str, Any]:
    config = demo_config(seed)
    console.print(
        f"{problems} one-step word problems, SmolLM2-135M on this CPU, {len(config.arms)} arms, at most "
        f"{ROUNDS} calls a problem and arm.\nFirst attempts that arms make alike are made once and charged "
        "to each."
    )
    if (folder / JOURNAL_NAME).exists():
        run = Run.open(folder)
    else:
        source = resources.files("heartloop.runs").joinpath("data/word_problems.jsonl")
        with resources.as_file(source) as path:
            run = Run.create(folder, config, list(read_problems(path, limit=problems, need_answers=True)))
    with run:
        summary = asyncio.run(execute_watched(run, console))
    _report(summary, console)
    return summary.to_dict()


def _report(summary: Summary, console: Console) -> None:
    by_name = {arm.name: arm for arm in summary.arms}
    console.print()
    console.print(_table("Alone", [by_name["single_pass"]]))
    console.print()
    console.print(
        _table(
            "S1: an oracle looks after each round and ends the loop at the first right answer",
            [arm for name, arm in by_name.items() if name.endswith("-s1")],
        )
    )
    console.print()
    console.print(
        _table(
            "S2: nobody knows; all rounds run, and a majority vote over the rounds picks the final answer",
            [arm for name, arm in by_name.items() if name.endswith("-s2")],
        )
    )
    figures = summary.to_dict()
    console.print(
        f"\n{figures['calls']:,} calls, {summary.confirmed.usage.prompt_tokens:,} prompt and "
        f"{summary.confirmed.usage.completion_tokens:,} completion tokens, {summary.seconds:,.0f} s."
    )
    console.print(_caveat(by_name, summary.problems))


def _table(title: str, arms: list[ArmSummary]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("by round", justify="right", no_wrap=True)
    for head in ("final right", "95% interval", "w→r", "r→w", "tokens"):
        table.add_column(head, justify="right", no_wrap=True)
    for arm in arms:
        rounds = " ".join(str(right) for right, _ in arm.by_round)
        low, high = wilson(arm.solved, arm.scored) or (0.0, 1.0)
        share = arm.solved / arm.scored if arm.scored else 0.0
        table.add_row(
            _TITLES.get(arm.name, arm.name),
            rounds,
            f"{arm.solved}/{arm.scored} = {share:.0%}",
            f"{low:.0%} to {high:.0%}",
            str(arm.wrong_to_right),
            str(arm.right_to_wrong),
            f"{arm.tokens / max(1, arm.finished):,.0f}",
        )
    return table


def _caveat(by_name: dict[str, ArmSummary], problems: int) -> str:
    heart, twin = by_name["heart-s1"], by_name["heart_twin-s1"]
    resample = by_name["resample-s1"]
    return (
        "\nHow to read this. By round: problems right at the end of rounds 1, 2, 3. w→r and r→w: answers "
        "that turned from wrong to right, and back, along a loop's rounds. Tokens: per problem.\n"
        "Under S1 every arm can only gain with rounds, since an oracle throws wrong answers away. What HEART "
        f"({heart.solved}/{heart.scored}) has to beat is plain resampling ({resample.solved}/"
        f"{resample.scored}); what says whether emotion did anything is the same cues with the affect taken "
        f"out, its neutral twins ({twin.solved}/{twin.scored}). With {problems} problems, arms whose "
        "intervals overlap can't be told apart.\n"
        "What a 135M model shows: the loop runs, stops, counts and resumes, and blind second looks can "
        "lose right answers. What it does not show: anything about large models, or whether affect helps."
    )
