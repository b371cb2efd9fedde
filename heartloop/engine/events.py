"""What an engine tells those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from heartloop.engine.scheduler import Ended, Judged, Made, Observation
from heartloop.types import Attempt, Solution

__all__ = ["AttemptJudged", "AttemptMade", "LoopEvent", "ProblemSolved", "ProblemStarted", "observation_of"]


@dataclass(frozen=True, slots=True)
class ProblemStarted:
    """A problem became active."""

    arm: str
    problem_id: str


@dataclass(frozen=True, slots=True)
class AttemptMade:
    """An attempt was made (or replayed)."""

    arm: str
    attempt: Attempt

    @property
    def problem_id(self) -> str:
        return self.attempt.problem_id


@dataclass(frozen=True, slots=True)
class AttemptJudged:
    """The judge looked at an attempt; its verdict is in it."""

    arm: str
    attempt: Attempt

    @property
    def problem_id(self) -> str:
        return self.attempt.problem_id


@dataclass(frozen=True, slots=True)
class ProblemSolved:
    """A problem ended, for whatever reason; its result is on its way into the journal."""

    arm: str
    solution: Solution

    @property
    def problem_id(self) -> str:
        return self.solution.problem_id


LoopEvent: TypeAlias = ProblemStarted | AttemptMade | AttemptJudged | ProblemSolved


def observation_of(event: LoopEvent) -> Observation | None:
    """What a scheduling policy is told of ``event``."""
    match event:
        case AttemptMade(arm, a):
            return Made(arm, a.problem_id, a.branch, a.round, a.usage.total_tokens, a.answer)
        case AttemptJudged(arm, a):
            correct = None if a.verdict is None else a.verdict.correct
            return Judged(arm, a.problem_id, a.branch, a.round, a.answer, correct)
        case ProblemSolved(arm, solution):
            return Ended(arm, solution.problem_id)
        case _:
            return None
