"""``heartloop run`` and ``heartloop resume``: a file of problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from heartloop.commands import options as opt
from heartloop.commands.output import (
    console,
    finish,
    keeping,
    log_to_stderr,
    note_unused,
    print_json,
    telemetry,
)
from heartloop.errors import UsageError

__all__ = ["resume", "run"]


def run(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="JSON lines with id, question and answer.")],
    model: opt.Model,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; must not hold one yet. Not needed for --dry-run.")
    ] = None,
    id_field: opt.IdField = "id",
    question_field: opt.QuestionField = "question",
    answer_field: opt.AnswerField = "answer",
    kind: opt.Kind = "auto",
    limit: opt.Limit = None,
    skip_bad: opt.SkipBad = False,
    strategy: opt.Strategy = "heart",
    arms: Annotated[
        str | None, typer.Option(help="Several arms under equal caps: affect or baselines.")
    ] = None,
    judge: opt.Judge = "majority",
    max_rounds: opt.MaxRounds = 6,
    width: opt.Width = 1,
    rotation: opt.Rotation = "alternating",
    deck: opt.Deck = None,
    stable_rounds: opt.Stable = None,
    stop: opt.Stop = None,
    score_after: opt.ScoreAfter = False,
    base_url: opt.BaseUrl = None,
    api_key_env: opt.ApiKeyEnv = None,
    judge_model: opt.JudgeModel = None,
    grader: opt.Grader = "verify",
    grader_model: opt.GraderModel = None,
    synthesiser_model: opt.SynthesiserModel = None,
    reward_model: opt.RewardModel = None,
    reward_url: opt.RewardUrl = None,
    logprobs: opt.Logprobs = None,
    temperature: opt.Temperature = 0.7,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    max_tokens: opt.MaxTokens = 1024,
    context_tokens: opt.ContextTokens = None,
    concurrency: opt.Concurrency = None,
    active: opt.Active = None,
    requests_per_minute: opt.Rpm = None,
    tokens_per_minute: opt.Tpm = None,
    hedge: opt.Hedge = None,
    batch: opt.Batch = False,
    wave_size: opt.WaveSize = None,
    wave_seconds: opt.WaveSeconds = 300.0,
    batch_command: opt.BatchCommand = None,
    timeout: opt.Timeout = 600.0,
    retries: opt.Retries = 5,
    scheduler: Annotated[
        str, typer.Option(help="breadth_first, depth_first, deadline or adaptive.")
    ] = "breadth_first",
    budget_tokens: opt.BudgetTokens = None,
    budget_calls: opt.BudgetCalls = None,
    budget_seconds: opt.BudgetSeconds = None,
    budget_usd: opt.BudgetUsd = None,
    arm_tokens: opt.ArmTokens = None,
    arm_calls: opt.ArmCalls = None,
    arm_usd: opt.ArmUsd = None,
    problem_tokens: opt.ProblemTokens = None,
    problem_calls: opt.ProblemCalls = None,
    problem_seconds: opt.ProblemSeconds = None,
    problem_usd: opt.ProblemUsd = None,
    price: opt.Price = None,
    prices: Annotated[Path | None, typer.Option(help="Prices of models, as a TOML file.")] = None,
    seed: opt.Seed = 0,
    prompts: opt.Prompts = None,
    shots: opt.Shots = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the exact prompts and the most it can cost; send nothing.")
    ] = False,
    executor: opt.Executor = "local",
    workers: opt.Workers = None,
    json: opt.Json = False,
    otel: opt.Otel = False,
    verbose: opt.Verbose = False,
) -> None:
    """Run a strategy over a file of problems; resumable at any moment."""
    from heartloop.commands.work import make_prompts, preview, read, start
    from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
    from heartloop.runs.data import Fields
    from heartloop.runs.executors import executor_from_name
    from heartloop.runs.presets import preset_arms
    from heartloop.types import Budget

    log_to_stderr(verbose)
    elsewhere = executor_from_name(executor, workers=workers)
    note_unused(context, strategy)
    shared: dict[str, Any] = {
        "base_url": base_url,
        "api_key_env": api_key_env,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "context_tokens": context_tokens,
        "concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "hedge": bool(hedge),
        "attempt_timeout": timeout,
        "batch": batch,
        "wave_size": wave_size,
        "wave_seconds": wave_seconds,
        "batch_command": batch_command,
        "price": price,
        "prices": None if prices is None else str(prices.resolve()),
    }
    models = {"generator": ModelConfig(model, logprobs=logprobs, **shared)}
    others = {"judge": judge_model, "synthesiser": synthesiser_model, "grader": grader_model}
    for role, name in others.items():
        if name is not None:
            models[role] = ModelConfig(name, **shared | {"price": price if name == model else None})
    if reward_model is not None:
        own = {"base_url": reward_url or base_url, "price": None}
        models["reward"] = ModelConfig(reward_model, **shared | own)
    arm = ArmConfig(
        name=strategy,
        strategy=strategy,
        judge=judge,
        max_rounds=max_rounds,
        width=width,
        rotation=rotation,
        deck=None if deck is None else str(deck.resolve()),
        stable_rounds=stable_rounds,
        stop=stop,
        score_after=score_after,
        grader=grader,
    )
    config = RunConfig(
        models=models,
        arms=(arm,) if arms is None else preset_arms(arms, arm),
        share_first=arms is not None,
        seed=seed,
        budget=Budget(budget_tokens, budget_calls, budget_seconds, budget_usd),
        arm_budget=Budget(arm_tokens, arm_calls, usd=arm_usd),
        problem_budget=Budget(problem_tokens, problem_calls, problem_seconds, problem_usd),
        prompts=make_prompts(prompts, shots).as_dict(),
        scheduler=scheduler,
        retries=retries,
        active=active,
        data=str(data),
    )
    problems = read(
        data,
        Fields(id_field, question_field, answer_field, kind),
        limit=limit,
        config=config,
        skip_bad=skip_bad,
        console=console(stderr=True),
    )
    if dry_run:
        preview(config, problems, None if json else console(), print_json)
        return
    if out is None:
        raise UsageError("--out is missing: name a folder for the run")
    with telemetry(otel), keeping(out, json):
        summary = start(out, config, problems, console(stderr=True), executor=elsewhere)
    finish(summary, json, out)


def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    max_rounds: Annotated[int | None, typer.Option(min=1, help="More rounds.")] = None,
    data: Annotated[Path | None, typer.Option(help="Further problems, as JSON lines with other ids.")] = None,
    id_field: opt.IdField = "id",
    question_field: opt.QuestionField = "question",
    answer_field: opt.AnswerField = "answer",
    kind: opt.Kind = "auto",
    limit: opt.Limit = None,
    skip_bad: opt.SkipBad = False,
    base_url: opt.BaseUrl = None,
    api_key_env: opt.ApiKeyEnv = None,
    concurrency: opt.Concurrency = None,
    active: opt.Active = None,
    requests_per_minute: opt.Rpm = None,
    tokens_per_minute: opt.Tpm = None,
    hedge: opt.Hedge = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds one try of a call may take.")
    ] = None,
    retries: Annotated[int | None, typer.Option(min=0, help="Further tries of a failed call.")] = None,
    budget_tokens: opt.BudgetTokens = None,
    budget_calls: opt.BudgetCalls = None,
    budget_seconds: opt.BudgetSeconds = None,
    budget_usd: opt.BudgetUsd = None,
    arm_tokens: opt.ArmTokens = None,
    arm_calls: opt.ArmCalls = None,
    arm_usd: opt.ArmUsd = None,
    problem_tokens: opt.ProblemTokens = None,
    problem_calls: opt.ProblemCalls = None,
    problem_seconds: opt.ProblemSeconds = None,
    problem_usd: opt.ProblemUsd = None,
    executor: opt.Executor = "local",
    workers: opt.Workers = None,
    json: opt.Json = False,
    otel: opt.Otel = False,
    verbose: opt.Verbose = False,
) -> None:
    """Go on with a run: what is unfinished or failed, and, if asked, more rounds, problems or budget.

    Limits count from the run's beginning, so a raised budget is the new total.
    """
    from heartloop.commands.work import changed, go_on, read
    from heartloop.runs.data import Fields
    from heartloop.runs.executors import executor_from_name
    from heartloop.runs.run import Run

    log_to_stderr(verbose)
    elsewhere = executor_from_name(executor, workers=workers)
    with Run.open(folder) as opened:
        config = changed(
            opened.config,
            arms={"max_rounds": max_rounds},
            models={
                "base_url": base_url,
                "api_key_env": api_key_env,
                "concurrency": concurrency,
                "requests_per_minute": requests_per_minute,
                "tokens_per_minute": tokens_per_minute,
                "hedge": hedge,
                "attempt_timeout": timeout,
            },
            budget={
                "tokens": budget_tokens,
                "calls": budget_calls,
                "seconds": budget_seconds,
                "usd": budget_usd,
            },
            arm_budget={"tokens": arm_tokens, "calls": arm_calls, "usd": arm_usd},
            problem_budget={
                "tokens": problem_tokens,
                "calls": problem_calls,
                "seconds": problem_seconds,
                "usd": problem_usd,
            },
            run={"active": active, "retries": retries},
        )
        problems: Any = ()
        if data is not None:
            problems = read(
                data,
                Fields(id_field, question_field, answer_field, kind),
                limit=limit,
                config=config,
                skip_bad=skip_bad,
                console=console(stderr=True),
            )
        opened.extend(config, problems)
        opened.executor = elsewhere
        with telemetry(otel), keeping(folder, json):
            summary = go_on(opened, console(stderr=True))
    finish(summary, json, folder)
