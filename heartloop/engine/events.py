"""What an engine tells those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from heartloop.types import Attempt, Solution

__all__ = ["AttemptJudged", "AttemptMade", "LoopEvent", "ProblemSolved", "ProblemStarted"]


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
    """A problem ended, for whatever reason; its result is committed."""

    arm: str
    solution: Solution

    @property
    def problem_id(self) -> str:
        return self.solution.problem_id


LoopEvent: TypeAlias = ProblemStarted | AttemptMade | AttemptJudged | ProblemSolved
