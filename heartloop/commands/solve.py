"""``heartloop solve``: one question."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from heartloop.commands import options as opt
from heartloop.commands.output import (
    BUDGET,
    DONE,
    FAILED,
    console,
    log_to_stderr,
    note_unused,
    print_json,
    telemetry,
)
from heartloop.errors import UsageError
from heartloop.runs.safe import printable

__all__ = ["solve"]


def solve(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    model: opt.Model = "local/smollm2-135m",
    reference: Annotated[
        str | None, typer.Option(help="The right answer, for the oracle or for scoring.")
    ] = None,
    kind: opt.Kind = "auto",
    strategy: opt.Strategy = "heart",
    judge: Annotated[
        str | None, typer.Option("--judge", "-j", help="Default: oracle with --reference, else majority.")
    ] = None,
    max_rounds: opt.MaxRounds = 6,
    width: opt.Width = 1,
    rotation: opt.Rotation = "alternating",
    deck: opt.Deck = None,
    stable_rounds: opt.Stable = None,
    stop: opt.Stop = None,
    score_after: opt.ScoreAfter = False,
    base_url: opt.BaseUrl = None,
    api_key_env: opt.ApiKeyEnv = None,
    temperature: opt.Temperature = 0.7,
    max_tokens: opt.MaxTokens = 1024,
    context_tokens: opt.ContextTokens = None,
    concurrency: opt.Concurrency = None,
    timeout: opt.Timeout = 600.0,
    budget_tokens: opt.BudgetTokens = None,
    budget_calls: opt.BudgetCalls = None,
    budget_seconds: opt.BudgetSeconds = None,
    seed: opt.Seed = 0,
    prompts: opt.Prompts = None,
    shots: opt.Shots = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="The answer alone, without the rounds.")
    ] = False,
    json: opt.Json = False,
    otel: opt.Otel = False,
    verbose: opt.Verbose = False,
) -> None:
    """Answer one question, and show the rounds."""
    from heartloop.commands.work import make_prompts, solution_to_json
    from heartloop.judges.verifying import check_kind
    from heartloop.loop import HeartLoop
    from heartloop.runs.config import ModelConfig
    from heartloop.runs.show import show_solution
    from heartloop.strategies import strategy_from_name
    from heartloop.types import Budget

    log_to_stderr(verbose)
    note_unused(context, strategy)
    if question == "-":
        question = sys.stdin.buffer.read().decode("utf-8", "replace")
    check_kind(kind)
    if judge == "oracle" and reference is None:
        raise UsageError("--judge oracle needs the right answer: --reference ANSWER")
    options: dict[str, Any] = {}
    if deck is not None:
        from heartloop.emotions import Deck as DeckOfCues

        options["deck"] = DeckOfCues.load(deck)
    loop = HeartLoop(
        ModelConfig(
            model,
            base_url=base_url,
            api_key_env=api_key_env,
            temperature=temperature,
            max_tokens=max_tokens,
            context_tokens=context_tokens,
            concurrency=concurrency,
            attempt_timeout=timeout,
        ).model(),
        judge=judge or ("majority" if reference is None else "oracle"),
        strategy=strategy_from_name(
            strategy,
            max_rounds=max_rounds,
            width=width,
            rotation=rotation,
            stable_rounds=stable_rounds,
            stop=stop,
            **options,
        ),
        score_after=score_after,
        budget=Budget(tokens=budget_tokens, calls=budget_calls, seconds=budget_seconds),
        prompts=make_prompts(prompts, shots),
        seed=seed,
    )
    with telemetry(otel), loop:
        solution = loop.solve_sync(question, reference, kind=kind)
    if json:
        print_json(solution_to_json(solution))
    elif quiet:
        if solution.answer is not None:
            print(printable(solution.answer))
        if solution.error:
            print(f"heartloop: {printable(solution.error)}", file=sys.stderr)
    else:
        show_solution(solution, console())
    stopped = solution.stop_reason.value
    raise typer.Exit({"failed": FAILED, "budget": BUDGET}.get(stopped, DONE))
