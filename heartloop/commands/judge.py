"""``heartloop judge``: a recorded run judged again, without new generations."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heartloop.commands import options as opt
from heartloop.commands.output import (
    BUDGET,
    DONE,
    FAILED,
    INTERRUPTED,
    console,
    keeping,
    log_to_stderr,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from heartloop.runs.config import ModelConfig
    from heartloop.runs.judged import Judged

__all__ = ["judge"]


def judge(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    judges: Annotated[
        list[str],
        typer.Option(
            "--judge",
            "-j",
            help="majority, usc, genselect, pointwise, pairwise, caps, joint, synthesis, ...; with options, "
            "as in pairwise:budget=3,window=8; made of others, as in cascade(majority,pairwise). Several may "
            "be given.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the judgements. Default: the run's with -judged behind.")
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Arm of the run; default: every arm.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Model for the judge's calls.")] = None,
    synthesiser_model: Annotated[str | None, typer.Option(help="Model for a synthesis.")] = None,
    reward_model: opt.RewardModel = None,
    reward_url: opt.RewardUrl = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server of these models, if not the run's.")
    ] = None,
    api_key_env: opt.ApiKeyEnv = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Of the judge's calls. Default: the run's.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most new tokens of one call.")] = None,
    concurrency: opt.Concurrency = None,
    active: opt.Active = None,
    retries: Annotated[int | None, typer.Option(min=0, help="Further tries of a failed call.")] = None,
    budget_tokens: opt.BudgetTokens = None,
    budget_calls: opt.BudgetCalls = None,
    budget_usd: opt.BudgetUsd = None,
    price: opt.Price = None,
    prompts: opt.Prompts = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Judge a recorded run again, by other judges and without new generations; resumable."""
    from heartloop.runs.judging import open_rejudging
    from heartloop.runs.progress import execute_watched
    from heartloop.runs.show import clean
    from heartloop.strategies.prompts import Prompts
    from heartloop.types import Budget

    log_to_stderr(verbose)
    budget = Budget(tokens=budget_tokens, calls=budget_calls, usd=budget_usd)
    changes = {
        "base_url": base_url,
        "api_key_env": api_key_env,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "concurrency": concurrency,
        "price": price,
    }
    names = {"judge": judge_model, "synthesiser": synthesiser_model, "reward": reward_model}
    opened = open_rejudging(
        folder,
        judges,
        out=out,
        arms=arm or (),
        models=_models(folder, names, {k: v for k, v in changes.items() if v is not None}, reward_url),
        budget=None if budget.unlimited else budget,
        prompts=None if prompts is None else Prompts.load(prompts),
        active=active,
        retries=retries,
    )
    with opened:
        place = opened.run.folder
        with keeping(place, json):
            summary = asyncio.run(execute_watched(opened.run, console(stderr=True)))
        found = opened.report()
    if json:
        print_json(
            {
                "folder": str(place),
                "left_out": opened.left_out,
                "judged": [one.to_dict() for one in found],
                "run": summary.to_dict(),
            }
        )
    else:
        shown = console()
        _show(found, shown)
        for place_failed, problem, error in summary.failures[:3]:
            shown.print(clean(f"failed {problem} ({place_failed}): {error}", style="red"), soft_wrap=True)
        if opened.left_out:
            shown.print(f"Left out: {opened.left_out} problems that have not ended, or have no attempt.")
        shown.print(f"The judgements are a run: heartloop show {place}", soft_wrap=True, markup=False)
    if summary.interrupted:
        raise typer.Exit(INTERRUPTED)
    if any(arm in (opened.run.only or ()) for arm, _, _ in summary.failures):
        raise typer.Exit(FAILED)
    raise typer.Exit(BUDGET if summary.budget_ended else DONE)


def _models(
    folder: Path, names: dict[str, str | None], changes: dict[str, Any], reward_url: str | None
) -> dict[str, ModelConfig] | None:
    """The run's models with what was asked for changed (they serve the judges here); None: as they are."""
    from heartloop.journal.reader import JournalReader
    from heartloop.runs.config import RunConfig
    from heartloop.runs.run import journal_in

    if not changes and reward_url is None and not any(names.values()):
        return None
    with JournalReader(journal_in(folder)) as journal:
        models = dict(RunConfig.from_dict(journal.meta.get("config", {})).models)
    for role, name in names.items():
        if name is not None:
            models[role] = replace(models.get(role, models["generator"]), name=name, price=None)
    models = {role: replace(model, **changes) for role, model in models.items()}
    if reward_url is not None and "reward" in models:
        models["reward"] = replace(models["reward"], base_url=reward_url)
    return models


def _show(found: Sequence[Judged], console: Console) -> None:
    """For each arm what there is to choose from, and a line for each judge."""
    from rich.table import Table

    from heartloop.runs.show import clean, counted

    for arm in dict.fromkeys(one.arm for one in found):
        of_arm = [one for one in found if one.arm == arm]
        least = of_arm[0]
        console.print(clean(arm, style="bold"))
        shares: list[tuple[float, int]] = [(least.first, least.problems), (least.oracle, least.problems)]
        shares.append((least.mixed_random, least.mixed))
        first, oracle, picked = (_accuracy(right, of) for right, of in shares)
        console.print(
            f"{counted(least.problems, 'problem')}: first attempt right {first}, any attempt (oracle) "
            f"{oracle}; {least.mixed} mixed, where an attempt at random is right {picked}"
        )
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("judge", min_width=16, overflow="fold")
        for head in ("right", "95%", "gain kept", "mixed", "calls", "tokens"):
            table.add_column(head, justify="right", no_wrap=True)
        for one in of_arm:
            kept = one.kept
            table.add_row(
                clean(one.judge),
                _accuracy(one.chosen, one.problems),
                _range(one.interval(one.chosen)),
                "-" if kept is None else f"{kept.value:.0%} ({_range((kept.low, kept.high))})",
                _accuracy(one.mixed_chosen, one.mixed),
                f"{one.calls:,}",
                f"{one.tokens:,}",
            )
        console.print(table)
        for one in of_arm:
            if one.unfinished:
                lacking = (
                    f"{one.judge}: {counted(one.unfinished, 'problem')} without its judgement (failed, or "
                )
                left = "no budget left); what counts there is the majority's answer"
                console.print(clean(lacking + left, style="yellow"), soft_wrap=True)
        for why in dict.fromkeys(one.kept_why for one in of_arm if one.kept_why):
            console.print(f"gain kept: {why}", soft_wrap=True, markup=False)


def _range(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}"


def _accuracy(right: float, of: int) -> str:
    return f"{right / of:.1%}" if of else "-"
