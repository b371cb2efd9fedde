"""The command line. Options are read here; the work is elsewhere.

Exit codes: 0 done, 1 failed (or some problem did), 2 bad usage, 3 the budget ended first, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from heartloop import __version__
from heartloop.commands.judge import judge as judge_command
from heartloop.errors import HeartLoopError, UsageError
from heartloop.runs.safe import printable

if TYPE_CHECKING:
    from rich.console import Console

    from heartloop.runs.summary import Summary

__all__ = ["app", "main"]

DONE, FAILED, USAGE, BUDGET, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="heartloop",
    help="Test-time scaling of language models with HEART loops: answer, judge, and try again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# --- options that several commands share ---------------------------------------------------------------

_MODEL = typer.Option(
    "--model",
    "-m",
    help="local/smollm2-135m, openai/NAME, azure/DEPLOYMENT, or a name that --base-url serves.",
)
Model = Annotated[str, _MODEL]
BaseUrl = Annotated[
    str | None, typer.Option(help="OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(help="Variable that holds the key. Default: OPENAI_API_KEY, or AZURE_OPENAI_API_KEY."),
]
Strategy = Annotated[
    str,
    typer.Option(
        "--strategy",
        "-s",
        help="heart, resample, self_consistency, self_refine, rsa, ...; options follow, as rsa:k=3. See docs/strategies.md.",
    ),
]
Judge = Annotated[
    str,
    typer.Option(
        "--judge",
        "-j",
        help="oracle, majority, synthesis, pairwise:budget=3, cascade(majority,pairwise), ...",
    ),
]
MaxRounds = Annotated[int, typer.Option(min=1, help="Rounds in all, the first attempt included.")]
Width = Annotated[int, typer.Option(min=1, help="Branches side by side in each round.")]
Rotation = Annotated[
    str,
    typer.Option(
        help="alternating[:negative|:positive|:random], round_robin, pair:A,B, fixed:A, random, randomised, "
        "adaptive[:ucb], personality[:NAME], memory[:FOLDER]; controls: neutral[:ROTATION], irrelevant[:ROTATION], "
        "phrase; @mild, @moderate or @strong may follow."
    ),
]
Stable = Annotated[int | None, typer.Option(min=2, help="Stop when this many answers in a row agree.")]
Stop = Annotated[
    str | None,
    typer.Option(
        help="Stop rule: stability, agreement, confidence or gain; options follow, as agreement:level=0.9."
    ),
]
ScoreAfter = Annotated[
    bool, typer.Option("--score-after", help="Oracle: run all rounds, score them afterwards.")
]
Temperature = Annotated[float, typer.Option(min=0.0)]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most new tokens of one answer.")]
ContextTokens = Annotated[
    int | None, typer.Option(min=1, help="The model's context length, if it doesn't tell.")
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        "-c",
        min=1,
        help="Most calls at once; fewer if the server can't take them. Default: 256, or the embedded model's slots.",
    ),
]
Rpm = Annotated[float | None, typer.Option(help="Requests a minute.")]
Tpm = Annotated[float | None, typer.Option(help="Tokens a minute.")]
Hedge = Annotated[
    bool | None,
    typer.Option("--hedge/--no-hedge", help="Send calls that take far longer than others a second time."),
]
Batch = Annotated[
    bool,
    typer.Option(
        "--batch",
        help="Ask by the batch: OpenAI's Batch API, half the price, within 24 hours. Or: batch/NAME.",
    ),
]
WaveSize = Annotated[
    int | None, typer.Option(min=1, help="Most calls in one batch. Default: the API's 50,000.")
]
WaveSeconds = Annotated[
    float, typer.Option(min=0.1, help="Longest that a call waits for others to fill its batch.")
]
BatchCommand = Annotated[
    str | None,
    typer.Option(
        help="For vllm-batch/MODEL: what to run, with {input}, {output} and {model}; empty: you run it yourself."
    ),
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds one try of a call may take.")]
Retries = Annotated[int, typer.Option(min=0, help="Further tries of a failed call.")]
BudgetTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens, prompt and completion together.")]
BudgetCalls = Annotated[int | None, typer.Option(min=1, help="Most calls, retries included.")]
BudgetSeconds = Annotated[float | None, typer.Option(help="Most seconds.")]
BudgetUsd = Annotated[
    float | None, typer.Option(help="Most US dollars; needs a known price (--price, --prices).")
]
Price = Annotated[
    tuple[float, float] | None,
    typer.Option(help="US dollars per million prompt and completion tokens.", metavar="PROMPT COMPLETION"),
]
Seed = Annotated[int, typer.Option(help="Every random choice derives from it.")]
Prompts = Annotated[Path | None, typer.Option(help="TOML file with other wording for the prompts.")]
Deck = Annotated[Path | None, typer.Option(help="JSON lines with other wording for the cues.")]
Shots = Annotated[
    str | None,
    typer.Option(help="Worked examples before each question: a number of our own, or a JSONL file."),
]
JudgeModel = Annotated[str | None, typer.Option(help="Another model for the judge's calls (same server).")]
SynthesiserModel = Annotated[str | None, typer.Option(help="Another model for the synthesis (same server).")]
RewardModel = Annotated[
    str | None,
    typer.Option(
        help="Reward model of the judge 'reward': vllm-score/NAME, vllm-classify/NAME, http-score/NAME."
    ),
]
RewardUrl = Annotated[str | None, typer.Option(help="Where the reward model is served.")]
Logprobs = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=20,
        help="Ask for so many alternatives of each token, and keep a summary to judge by later.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else to standard output.")
]
Otel = Annotated[
    bool, typer.Option("--otel", help="Send OpenTelemetry traces and metrics, as OTEL_* variables say.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"heartloop {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# --- commands ------------------------------------------------------------------------------------------


@app.command()
def solve(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    model: Model = "local/smollm2-135m",
    reference: Annotated[
        str | None, typer.Option(help="The right answer, for the oracle or for scoring.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="How answers are compared: auto, math, number, choice, text.")
    ] = "auto",
    strategy: Strategy = "heart",
    judge: Annotated[
        str | None, typer.Option("--judge", "-j", help="Default: oracle with --reference, else majority.")
    ] = None,
    max_rounds: MaxRounds = 6,
    width: Width = 1,
    rotation: Rotation = "alternating",
    deck: Deck = None,
    stable_rounds: Stable = None,
    stop: Stop = None,
    score_after: ScoreAfter = False,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 1024,
    context_tokens: ContextTokens = None,
    concurrency: Concurrency = None,
    timeout: Timeout = 600.0,
    budget_tokens: BudgetTokens = None,
    budget_calls: BudgetCalls = None,
    budget_seconds: BudgetSeconds = None,
    seed: Seed = 0,
    prompts: Prompts = None,
    shots: Shots = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="The answer alone, without the rounds.")
    ] = False,
    json: Json = False,
    otel: Otel = False,
    verbose: Verbose = False,
) -> None:
    """Answer one question, and show the rounds."""
    from heartloop.judges.verifying import check_kind
    from heartloop.loop import HeartLoop
    from heartloop.runs.commands import make_model, make_prompts, solution_to_json
    from heartloop.runs.show import show_solution
    from heartloop.strategies import strategy_from_name
    from heartloop.types import Budget

    _logging(verbose)
    _note_unused(context, strategy)
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
        make_model(
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
    with _telemetry(otel), loop:
        solution = loop.solve_sync(question, reference, kind=kind)
    if json:
        _print_json(solution_to_json(solution))
    elif quiet:
        if solution.answer is not None:
            print(printable(solution.answer))
        if solution.error:
            print(f"heartloop: {printable(solution.error)}", file=sys.stderr)
    else:
        show_solution(solution, _console())
    stopped = solution.stop_reason.value
    raise typer.Exit({"failed": FAILED, "budget": BUDGET}.get(stopped, DONE))


@app.command()
def run(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="JSON lines with id, question and answer.")],
    model: Model,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; must not hold one yet. Not needed for --dry-run.")
    ] = None,
    id_field: Annotated[
        str, typer.Option(help="Field with the id; the line's number where it is missing.")
    ] = "id",
    question_field: Annotated[str, typer.Option(help="Field with the question.")] = "question",
    answer_field: Annotated[str, typer.Option(help="Field with the reference answer.")] = "answer",
    kind: Annotated[
        str, typer.Option(help="How answers are compared: auto, math, number, choice, text.")
    ] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave broken lines out.")] = False,
    strategy: Strategy = "heart",
    arms: Annotated[
        str | None, typer.Option(help="Several arms under equal caps: affect or baselines.")
    ] = None,
    judge: Judge = "majority",
    max_rounds: MaxRounds = 6,
    width: Width = 1,
    rotation: Rotation = "alternating",
    deck: Deck = None,
    stable_rounds: Stable = None,
    stop: Stop = None,
    score_after: ScoreAfter = False,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    judge_model: JudgeModel = None,
    synthesiser_model: SynthesiserModel = None,
    reward_model: RewardModel = None,
    reward_url: RewardUrl = None,
    logprobs: Logprobs = None,
    temperature: Temperature = 0.7,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    max_tokens: MaxTokens = 1024,
    context_tokens: ContextTokens = None,
    concurrency: Concurrency = None,
    active: Annotated[
        int | None, typer.Option(min=1, help="Problems in work at once. Default: twice the concurrency.")
    ] = None,
    requests_per_minute: Rpm = None,
    tokens_per_minute: Tpm = None,
    hedge: Hedge = None,
    batch: Batch = False,
    wave_size: WaveSize = None,
    wave_seconds: WaveSeconds = 300.0,
    batch_command: BatchCommand = None,
    timeout: Timeout = 600.0,
    retries: Retries = 5,
    scheduler: Annotated[
        str, typer.Option(help="breadth_first, depth_first, deadline or adaptive.")
    ] = "breadth_first",
    budget_tokens: BudgetTokens = None,
    budget_calls: BudgetCalls = None,
    budget_seconds: BudgetSeconds = None,
    budget_usd: BudgetUsd = None,
    problem_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of one problem.")] = None,
    problem_calls: Annotated[int | None, typer.Option(min=1, help="Most calls of one problem.")] = None,
    price: Price = None,
    prices: Annotated[Path | None, typer.Option(help="Prices of models, as a TOML file.")] = None,
    seed: Seed = 0,
    prompts: Prompts = None,
    shots: Shots = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the exact prompts and the most it can cost; send nothing.")
    ] = False,
    json: Json = False,
    otel: Otel = False,
    verbose: Verbose = False,
) -> None:
    """Run a strategy over a file of problems; resumable at any moment."""
    from heartloop.runs.commands import make_model, make_prompts, preview, read, start
    from heartloop.runs.config import ArmConfig, RunConfig
    from heartloop.runs.data import Fields
    from heartloop.runs.presets import preset_arms
    from heartloop.types import Budget

    _logging(verbose)
    _note_unused(context, strategy)
    shared = {
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
        "prices": None if prices is None else str(prices),
    }
    models = {"generator": make_model(model, logprobs=logprobs, **shared)}
    for role, name in (("judge", judge_model), ("synthesiser", synthesiser_model)):
        if name is not None:
            models[role] = make_model(name, **shared)
    if reward_model is not None:
        models["reward"] = make_model(reward_model, **{**shared, "base_url": reward_url or base_url})
    arm = ArmConfig(
        name=strategy,
        strategy=strategy,
        judge=judge,
        max_rounds=max_rounds,
        width=width,
        rotation=rotation,
        deck=None if deck is None else str(deck),
        stable_rounds=stable_rounds,
        stop=stop,
        score_after=score_after,
    )
    config = RunConfig(
        models=models,
        arms=(arm,) if arms is None else preset_arms(arms, arm),
        share_first=arms is not None,
        seed=seed,
        budget=Budget(budget_tokens, budget_calls, budget_seconds, budget_usd),
        problem_budget=Budget(problem_tokens, problem_calls),
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
        console=_console(stderr=True),
    )
    if dry_run:
        preview(config, problems, None if json else _console(), _print_json)
        return
    if out is None:
        raise UsageError("--out is missing: name a folder for the run")
    with _telemetry(otel), _kept(out, json):
        summary = start(out, config, problems, _console(stderr=True))
    _finish(summary, json, out)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    max_rounds: Annotated[int | None, typer.Option(min=1, help="More rounds.")] = None,
    data: Annotated[Path | None, typer.Option(help="Further problems, as JSON lines with other ids.")] = None,
    id_field: Annotated[str, typer.Option(help="Field with the id.")] = "id",
    question_field: Annotated[str, typer.Option(help="Field with the question.")] = "question",
    answer_field: Annotated[str, typer.Option(help="Field with the reference answer.")] = "answer",
    kind: Annotated[str, typer.Option(help="How answers are compared.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many of --data.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave broken lines out.")] = False,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    concurrency: Concurrency = None,
    active: Annotated[int | None, typer.Option(min=1, help="Problems in work at once.")] = None,
    requests_per_minute: Rpm = None,
    tokens_per_minute: Tpm = None,
    hedge: Hedge = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds one try of a call may take.")
    ] = None,
    retries: Annotated[int | None, typer.Option(min=0, help="Further tries of a failed call.")] = None,
    budget_tokens: BudgetTokens = None,
    budget_calls: BudgetCalls = None,
    budget_seconds: BudgetSeconds = None,
    budget_usd: BudgetUsd = None,
    problem_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of one problem.")] = None,
    problem_calls: Annotated[int | None, typer.Option(min=1, help="Most calls of one problem.")] = None,
    json: Json = False,
    otel: Otel = False,
    verbose: Verbose = False,
) -> None:
    """Go on with a run: what is unfinished or failed, and, if asked, more rounds, problems or budget.

    Limits count from the run's beginning, so a raised budget is the new total.
    """
    from heartloop.runs.commands import changed, go_on, read
    from heartloop.runs.data import Fields
    from heartloop.runs.run import Run

    _logging(verbose)
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
            problem_budget={"tokens": problem_tokens, "calls": problem_calls},
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
                console=_console(stderr=True),
            )
        opened.extend(config, problems)
        with _telemetry(otel), _kept(folder, json):
            summary = go_on(opened, _console(stderr=True))
    _finish(summary, json, folder)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    problem: Annotated[str | None, typer.Argument(help="A problem's id: its whole conversation.")] = None,
    json: Json = False,
) -> None:
    """A run's problems and summary, or one problem's conversation with cues and verdicts."""
    from heartloop.journal.reader import JournalReader
    from heartloop.runs.config import RunConfig
    from heartloop.runs.run import journal_in
    from heartloop.runs.show import conversation_to_json, show_conversation, show_problems, show_summary
    from heartloop.runs.summary import summarise

    with JournalReader(journal_in(folder)) as journal:
        config = RunConfig.from_dict(journal.meta.get("config", {}))
        if problem is not None:
            if json:
                _print_json(conversation_to_json(journal, config, problem))
            else:
                show_conversation(journal, config, problem, _console())
            return
        summary = summarise(journal, config, seconds=journal.elapsed_before())
        if json:
            _print_json(summary.to_dict())
            return
        show_problems(journal, config, _console())
        show_summary(summary, _console())


@app.command()
def plan(
    folder: Annotated[Path, typer.Argument(help="Folder of a pilot run: some problems of the kind to come.")],
    budget_tokens: Annotated[
        list[int] | None, typer.Option(min=1, help="A budget in tokens; several may be given.")
    ] = None,
    problems: Annotated[int | None, typer.Option(min=1, help="Problems of the run to come.")] = None,
    scheduler: Annotated[list[str] | None, typer.Option(help="Scheduler; several may be given.")] = None,
    arm: Annotated[str | None, typer.Option(help="Arm of the pilot, where it has several.")] = None,
    draws: Annotated[int | None, typer.Option(min=20, help="Simulated runs. Default: 200 or 100.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """What accuracy to expect at what budget, under each scheduler, judging by a pilot run."""
    from heartloop.runs.plan import plan as make_plan
    from heartloop.runs.plan import plan_table

    made = make_plan(
        folder,
        budgets=budget_tokens or (),
        arm=arm,
        problems=problems,
        schedulers=scheduler or (),
        draws=draws,
        seed=seed,
    )
    if json:
        _print_json(made.to_dict())
        return
    _console().print(plan_table(made))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
) -> None:
    """Everything recorded, as JSON lines: sorted, without times, equal for equal runs."""
    from heartloop.journal.export import canonical
    from heartloop.runs.run import journal_in

    path = journal_in(folder)
    if out is None:
        for line in canonical(path):
            sys.stdout.buffer.write(line)
        return
    with out.open("wb") as file:
        file.writelines(canonical(path))


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Keep the run in this folder.")] = None,
    seed: Seed = 0,
    problems: Annotated[int, typer.Option(min=1, help="Problems of the demo's set to use.")] = 10,
    json: Json = False,
) -> None:
    """Real loops on the embedded model: what they cost, gain and lose, with intervals."""
    from heartloop.runs.demo import run_demo

    _logging(False)
    summary = run_demo(out, seed=seed, problems=problems, console=_console(stderr=json))
    if json:
        _print_json(summary)


app.command(name="judge")(judge_command)


def _note_unused(context: typer.Context, strategy: str) -> None:
    """Say it when an option was given that the strategy has no use for: a run must not seem to be what it is not."""
    from heartloop.strategies import options_of

    takes = options_of(strategy)
    for option in ("max_rounds", "width", "rotation", "deck", "stable_rounds", "stop"):
        source = context.get_parameter_source(option)
        if takes is not None and option not in takes and source is not None and source.name == "COMMANDLINE":
            shown = f"--{option.replace('_', '-')}"
            print(f"heartloop: note: {shown} means nothing to the strategy {strategy!r}", file=sys.stderr)


# --- around them ---------------------------------------------------------------------------------------


@contextmanager
def _telemetry(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    from heartloop.telemetry.sdk import from_environment

    with from_environment():
        yield


@contextmanager
def _kept(folder: Path, json: bool) -> Iterator[None]:
    """Whoever reads why a run ended early also reads what is kept of it, and how to go on."""
    from heartloop.runs.commands import kept

    try:
        yield
    except UsageError:
        raise
    except HeartLoopError as error:
        _complain(error)
        summary = kept(folder, error)
        if summary is not None:
            print(f"What was done is kept. Once mended: heartloop resume {folder}", file=sys.stderr)
            if json:
                _print_json(summary.to_dict())
        raise typer.Exit(FAILED) from error


def _finish(summary: Summary, json: bool, folder: Path) -> NoReturn:
    from heartloop.runs.show import show_summary

    if json:
        _print_json(summary.to_dict())
    else:
        console = _console()
        show_summary(summary, console)
        if summary.batches:
            _tell_batches(summary, console)
        if summary.interrupted:
            console.print(f"Interrupted. Go on with: heartloop resume {folder}")
    if summary.interrupted:
        raise typer.Exit(INTERRUPTED)
    if summary.failures:
        raise typer.Exit(FAILED)
    raise typer.Exit(BUDGET if summary.budget_ended else DONE)


def _tell_batches(summary: Summary, console: Console) -> None:
    names = [printable(ref) or "one not confirmed yet" for ref, _ in summary.batches]
    calls = sum(count for _, count in summary.batches)
    console.print(
        f"{calls:,} calls go on in {len(names)} {'batch' if len(names) == 1 else 'batches'} "
        f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}); resuming picks up their results.",
        markup=False,
    )


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def _print_json(data: dict[str, Any]) -> None:
    import json

    import orjson

    try:
        text = orjson.dumps(data, option=orjson.OPT_INDENT_2)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        text = json.dumps(data, indent=2).encode()
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.flush()


class _ToStderr(logging.StreamHandler[Any]):
    """Whatever ``sys.stderr`` is at the time: a progress bar stands in for it, to keep lines apart."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


def _logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        handlers=[_ToStderr()],
    )
    if verbose:
        # Not other libraries': an HTTP client's line for each call says nothing.
        logging.getLogger("heartloop").setLevel(logging.INFO)


@cache
def _add_commands() -> None:
    """Commands of other packages join by entry point; one that is broken does not take the rest along."""
    for point in entry_points(group="heartloop.commands"):
        try:
            point.load()(app)
        except Exception as error:
            print(f"heartloop: the command {point.name!r} can't be loaded: {error}", file=sys.stderr)


def _complain(error: HeartLoopError) -> None:
    # It may quote a server, or a data set.
    print(f"heartloop: {printable(str(error))}", file=sys.stderr)


def main() -> None:
    """Entry point of the command ``heartloop``."""
    try:
        _add_commands()
        app(prog_name="heartloop")
    except UsageError as error:
        _complain(error)
        sys.exit(USAGE)
    except HeartLoopError as error:
        _complain(error)
        sys.exit(FAILED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILED)
    except OSError as error:
        _complain(HeartLoopError(f"can't write the output: {error.strerror or error}"))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
