"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        help="heart, resample, self_consistency, self_refine, rsa, ...; options follow, as rsa:k=3. See "
        "docs/strategies.md.",
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
        "adaptive[:ucb], personality[:NAME], memory[:FOLDER]; controls: neutral[:ROTATION], "
        "irrelevant[:ROTATION], phrase; @mild, @moderate or @strong may follow."
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
IdField = Annotated[str, typer.Option(help="Field with the id; the line's number where it is missing.")]
QuestionField = Annotated[str, typer.Option(help="Field with the question.")]
AnswerField = Annotated[str, typer.Option(help="Field with the reference answer.")]
Kind = Annotated[str, typer.Option(help="How answers are compared: auto, math, number, choice, text.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many problems of --data.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave broken lines out.")]
Active = Annotated[
    int | None, typer.Option(min=1, help="Problems in work at once. Default: twice the concurrency.")
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        "-c",
        min=1,
        help="Most calls at once; fewer if the server can't take them. Default: 256, or the embedded model's "
        "slots.",
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
        help="For vllm-batch/MODEL: what to run, with {input}, {output} and {model}; empty: you run it "
        "yourself."
    ),
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds one try of a call may take.")]
Retries = Annotated[int, typer.Option(min=0, help="Further tries of a failed call.")]
BudgetTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens, prompt and completion together.")]
BudgetCalls = Annotated[int | None, typer.Option(min=1, help="Most calls, retries included.")]
BudgetSeconds = Annotated[float | None, typer.Option(help="Most seconds.")]
BudgetUsd = Annotated[float | None, typer.Option(help="Most US dollars; needs a known price (--price).")]
ArmTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens of one arm, all problems together.")]
ArmCalls = Annotated[int | None, typer.Option(min=1, help="Most calls of one arm, all problems together.")]
ArmUsd = Annotated[float | None, typer.Option(help="Most US dollars of one arm; needs a known price.")]
ProblemTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens of one problem.")]
ProblemCalls = Annotated[int | None, typer.Option(min=1, help="Most calls of one problem.")]
ProblemSeconds = Annotated[
    float | None, typer.Option(help="Most seconds of one problem, from its beginning.")
]
ProblemUsd = Annotated[
    float | None, typer.Option(help="Most US dollars of one problem; needs a known price.")
]
Price = Annotated[
    tuple[float, float] | None,
    typer.Option(
        help="US dollars per million prompt and completion tokens of the model; of others: --prices.",
        metavar="PROMPT COMPLETION",
    ),
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
Grader = Annotated[str, typer.Option(help="Who scores the answers afterwards: verify, or another grader.")]
GraderModel = Annotated[str | None, typer.Option(help="The model that a grader asks (same server).")]
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
Executor = Annotated[
    str,
    typer.Option(
        metavar="KIND[:ADDRESS]",
        help="Who works: local (this process), or ray[:HOST:PORT] (engines on a Ray cluster).",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="How many engines, with --executor ray. Default: one a node.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else to standard output.")
]
Otel = Annotated[
    bool, typer.Option("--otel", help="Send OpenTelemetry traces and metrics, as OTEL_* variables say.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")]
