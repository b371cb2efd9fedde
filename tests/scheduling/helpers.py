"""A pilot run's journal, written without running anything."""

from __future__ import annotations

from pathlib import Path

from heartloop.engine.results import solution_to_result
from heartloop.engine.serial import attempt_to_dict
from heartloop.journal.records import Event, EventKey
from heartloop.journal.sqlite import SqliteJournal
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.run import JOURNAL_NAME
from heartloop.simulation import World
from heartloop.types import Attempt, Problem, Solution, StopReason, Usage, Verdict


def write_pilot(
    folder: Path,
    world: World,
    rounds: int,
    *,
    oracle: bool = True,
    cut_at: int | None = None,
    arm: ArmConfig | None = None,
) -> Path:
    """The run of ``world`` in ``folder``: with ``oracle`` problems end once right, otherwise all rounds run
    and are scored afterwards. ``cut_at``: a budget ended every problem after so many attempts. ``arm``: as
    which the run is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    arm = arm or ArmConfig("main", judge="oracle" if oracle else "majority", max_rounds=rounds)
    config = RunConfig({"generator": ModelConfig("scripted/echo", concurrency=8)}, (arm,))
    journal = SqliteJournal.create(folder / JOURNAL_NAME, meta={"config": config.to_dict()})
    try:
        journal.add_problems(Problem(f"p{i}", f"question {i}", "right") for i in range(len(world)))
        for i, course in enumerate(world):
            attempts = []
            for round, sample in enumerate(course[:cut_at], 1):
                verdict = Verdict(sample.correct, "test")
                attempts.append(
                    Attempt(
                        f"p{i}",
                        "0",
                        round,
                        "text",
                        sample.answer,
                        usage=Usage(10, sample.tokens - 10),
                        verdict=verdict if oracle else None,
                        score=verdict,
                    )
                )
                if oracle and sample.correct:
                    break
            ended = attempts[-1].verdict is not None and bool(attempts[-1].verdict.correct)
            reason = StopReason.VERIFIED if ended else StopReason.ROUNDS
            if cut_at is not None and not ended and len(attempts) < rounds:
                reason = StopReason.BUDGET
            usage = sum((attempt.usage for attempt in attempts), Usage())
            solution = Solution(
                f"p{i}",
                attempts[-1].answer,
                attempts[-1],
                tuple(attempts),
                reason,
                usage=usage,
                calls=len(attempts),
                verdict=attempts[-1].score,
            )
            for ordinal, attempt in enumerate(attempts):
                journal.post(
                    Event(EventKey("main", f"p{i}", "0", "attempt", ordinal), "", attempt_to_dict(attempt))
                )
            journal.post(solution_to_result("main", solution))
    finally:
        journal.close()
    return folder
