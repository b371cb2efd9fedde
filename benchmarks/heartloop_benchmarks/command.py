"""``heartloop bench``: a benchmark under several arms, judges and seeds, from a run file or from flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heartloop.commands import options as opt
from heartloop.errors import UsageError

if TYPE_CHECKING:
    from heartloop.runs.executors import Executor
    from heartloop_benchmarks.bench import Prepared

__all__ = ["register"]

Arms = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        "-a",
        help="An arm, as heart, twin, resample, or NAME=heart:rotation=fixed:fear,width=2; repeat for more. "
        "Default: chain_of_thought, resample, twin, heart.",
    ),
]
Judges = Annotated[
    list[str] | None,
    typer.Option("--judge", "-j", help="A judge, as majority or oracle; repeat for more. Default: majority."),
]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="A seed; repeat for more. Default: 0.")]
Given = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the benchmark; repeat for more."),
]


def register(app: typer.Typer) -> None:
    """Add the command to a typer application."""
    app.command(name="bench")(bench)


def bench(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="The benchmark, or a run file (*.toml); without any the known ones are listed."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-f", help="Run file (TOML); flags override what it says.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the benchmark run in this folder.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="JSONL, JSON, CSV or Parquet as published. Default: the Hugging Face hub."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the hub's data set.")] = None,
    option: Given = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; goes on with the one in it. Default: runs/NAME-HASH."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="How often each question is asked.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="As for `heartloop run`.")] = None,
    base_url: opt.BaseUrl = None,
    api_key_env: opt.ApiKeyEnv = None,
    judge_model: opt.JudgeModel = None,
    synthesiser_model: opt.SynthesiserModel = None,
    grader_model: Annotated[
        str | None, typer.Option(help="Another model for a grader's calls (same server).")
    ] = None,
    reward_model: opt.RewardModel = None,
    reward_url: opt.RewardUrl = None,
    arm: Arms = None,
    preset: Annotated[
        str | None, typer.Option("--preset", "--arms", help="Arms that belong together: affect or baselines.")
    ] = None,
    judge: Judges = None,
    score_after: opt.ScoreAfter = False,
    grader: Annotated[
        str | None, typer.Option(help="Who scores, where not the benchmark's own: verify:mode=official, ...")
    ] = None,
    seed: Seeds = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", "--max-rounds", min=1, help="Rounds of each arm. Default: 6.")
    ] = None,
    attempts: Annotated[
        int | None, typer.Option(min=1, help="Most attempts of a problem, the same for all arms.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Branches side by side in each round.")] = None,
    rotation: Annotated[str | None, typer.Option(help="As for `heartloop run`.")] = None,
    deck: opt.Deck = None,
    stop: opt.Stop = None,
    share_first: Annotated[
        bool | None,
        typer.Option("--share-first/--no-share-first", help="Make equal first attempts once. Default: yes."),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            help="seed (default): each seed works on the problems in an order of its own; data: all seeds in "
            "the data's order.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0)] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most new tokens of one answer.")] = None,
    context_tokens: opt.ContextTokens = None,
    concurrency: opt.Concurrency = None,
    active: opt.Active = None,
    requests_per_minute: opt.Rpm = None,
    tokens_per_minute: opt.Tpm = None,
    hedge: opt.Hedge = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds one try of a call may take.")
    ] = None,
    retries: Annotated[int | None, typer.Option(min=0, help="Further tries of a failed call.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="breadth_first, depth_first, deadline or adaptive.")
    ] = None,
    budget_tokens: opt.BudgetTokens = None,
    budget_calls: opt.BudgetCalls = None,
    budget_seconds: opt.BudgetSeconds = None,
    budget_usd: opt.BudgetUsd = None,
    problem_tokens: opt.ProblemTokens = None,
    problem_calls: opt.ProblemCalls = None,
    price: opt.Price = None,
    prices: Annotated[Path | None, typer.Option(help="Prices of models, as a TOML file.")] = None,
    prompts: opt.Prompts = None,
    shots: opt.Shots = None,
    primary: Annotated[
        str | None,
        typer.Option(help="The one contrast declared before the run: 'A - B' or 'A - B @ JUDGE'."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Differences within this margin count as equivalent (0.05: 5 points)."),
    ] = None,
    discordance: Annotated[
        float | None,
        typer.Option(help="Assumed share of problems on which arms differ, for the detectable difference."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the exact prompts and the most it can cost; send nothing.")
    ] = False,
    executor: opt.Executor = "local",
    workers: opt.Workers = None,
    json: opt.Json = False,
    otel: opt.Otel = False,
    verbose: opt.Verbose = False,
) -> None:
    """Run a benchmark under arms x judges x seeds, with equal caps; resumable at any moment.

    Budgets are of the whole run, shared equally among its cells. Given again, the command goes on.
    """
    from heartloop.commands.output import console, log_to_stderr
    from heartloop.runs.executors import executor_from_name
    from heartloop_benchmarks.showing import list_benchmarks

    log_to_stderr(verbose)
    if name is not None and name.endswith(".toml") and config is None:
        config, name = Path(name), None
    if name is None and config is None and resume is None:
        list_benchmarks(None if json else console())
        return
    main = {
        "name": model,
        "base_url": base_url,
        "api_key_env": api_key_env,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "context_tokens": context_tokens,
        "concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "hedge": hedge,
        "timeout": timeout,
        "price": None if price is None else list(price),
        "prices": _absolute(prices),
    }
    roles = {
        "judge": {"name": judge_model},
        "synthesiser": {"name": synthesiser_model},
        "grader": {"name": grader_model},
        "reward": {"name": reward_model, "base_url": reward_url},
    }
    flags = {
        "benchmark": name,
        "data": _absolute(data),
        "revision": revision,
        "options": _options(option or []),
        "out": None if out is None else str(out),
        "limit": limit,
        "repeats": repeats,
        "model": main,
        "models": roles,
        "arms": arm,
        "preset": preset,
        "judges": judge,
        "score_after": score_after or None,
        "grader": grader,
        "seeds": seed,
        "caps": {"rounds": rounds, "attempts": attempts, "tokens": problem_tokens, "calls": problem_calls},
        "width": width,
        "rotation": rotation,
        "deck": _absolute(deck),
        "stop": stop,
        "share_first": share_first,
        "order": order,
        "active": active,
        "retries": retries,
        "scheduler": scheduler,
        "limits": {
            "tokens": budget_tokens,
            "calls": budget_calls,
            "seconds": budget_seconds,
            "usd": budget_usd,
        },
        "prompts": _absolute(prompts),
        "shots": int(shots) if shots is not None and shots.isdigit() else _absolute_text(shots),
        "primary": primary,
        "margin": margin,
        "assume": {"discordance": discordance},
    }
    given = _given(flags)
    shown = Shown(executor_from_name(executor, workers=workers), json=json, otel=otel, dry_run=dry_run)
    if resume is not None:
        _resume(resume, given, config, shown)
    else:
        _run(given, config, shown)


# --- doing it ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """How the run is worked on and told of: what is no part of the run itself."""

    executor: Executor | None
    json: bool
    otel: bool
    dry_run: bool


def _run(flags: dict[str, Any], config: Path | None, shown: Shown) -> None:
    from heartloop_benchmarks.runfile import checked, layered, read_run_file

    tables = read_run_file(config) if config is not None else {}
    for one, other in (("arms", "preset"), ("preset", "arms")):
        if one in flags and other not in flags:
            tables.pop(other, None)  # the flag replaces the file's choice of arms, however it was made
    if "discordance" in flags.get("assume", {}) and isinstance(tables.get("assume"), dict):
        tables["assume"].pop("base_rate", None)
    named, asked = tables.get("benchmark"), flags.get("benchmark")
    if named is not None and asked is not None and named != asked:
        raise UsageError(f"{config} is a run file for {named!r}, not for {asked!r}")
    file = checked(layered(tables, flags), "the command line" if config is None else str(config))
    _go(_ready(file, flags, config), shown)


def _resume(folder: Path, flags: dict[str, Any], config: Path | None, shown: Shown) -> None:
    from heartloop.commands.output import console
    from heartloop_benchmarks.bench import kept_flags, kept_tables, opened_without_data
    from heartloop_benchmarks.runfile import checked, layered

    if config is not None or "out" in flags:
        raise UsageError("--resume FOLDER goes on with that run; leave --config and --out out")
    tables, source = kept_tables(folder)
    file = checked(layered(tables, flags), str(source or folder))
    if file.data is not None and not Path(file.data).exists():
        note = f"{file.data} is not there any more: going on with the problems as they were recorded"
        console(stderr=True).print(note, style="yellow", soft_wrap=True, markup=False)
        _work(opened_without_data(file), shown)
    _go(_ready(file, layered(kept_flags(folder), flags), source), shown)


def _ready(file: Any, flags: Mapping[str, Any], config: Path | None) -> Prepared:
    import sys

    from heartloop_benchmarks.bench import prepared
    from heartloop_benchmarks.manifest import command_line

    kept = {key: value for key, value in flags.items() if key != "out"}
    source = None if config is None else config.resolve()
    return prepared(file, command=command_line(["heartloop", *sys.argv[1:]]), flags=kept, read_from=source)


def _go(ready: Prepared, shown: Shown) -> None:
    from heartloop.commands.output import console, print_json
    from heartloop_benchmarks.bench import opened
    from heartloop_benchmarks.showing import show_dry_run, show_plan

    if shown.dry_run:
        show_dry_run(ready, None if shown.json else console(), print_json)
        return
    screen = console(stderr=True)
    show_plan(ready, screen)
    run, said = opened(ready)
    for line in said:
        screen.print(line, style="yellow", soft_wrap=True, markup=False)
    _work(run, shown)


def _work(run: Any, shown: Shown) -> None:
    from heartloop.commands.output import console, finish, keeping, telemetry
    from heartloop.commands.work import go_on

    run.executor = shown.executor
    with run:
        with telemetry(shown.otel), keeping(run.folder, shown.json):
            summary = go_on(run, console(stderr=True))
        more = {"out": str(run.folder), "benchmark": run.config.benchmark}
    try:
        finish(summary, shown.json, run.folder, more)
    finally:
        if not shown.json and not summary.interrupted and not summary.pending:
            console().print(
                f"Compare the arms: heartloop compare {run.folder}; as a page: heartloop report {run.folder} "
                "--out FILE.html",
                soft_wrap=True,
                markup=False,
            )


# --- flags -------------------------------------------------------------------------------------------


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    """``table`` without what was not given."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            value = _given(value) or None
        if value is not None and value != []:
            found[key] = value
    return found


def _options(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--option {text!r}: write NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().resolve())


def _absolute_text(path: str | None) -> str | None:
    return None if path is None else _absolute(Path(path))
