"""What came of cues, over the problems of one arm: all that a learning rotation knows.

Each attempt counts once, however often it is told, and the order does not matter: so a run that was killed
and resumed knows what one that was not would know, as soon as it has seen the same attempts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from heartloop.types import Attempt, Emotion

__all__ = ["Outcome", "Outcomes"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer that followed a cue.

    Attributes:
        reward: 1 for a right answer and 0 for a wrong one, by an oracle; or a verifier-free judge's score.
        question: the problem's text.
        cue: id of the cue.
    """

    emotion: Emotion
    reward: float
    question: str = ""
    cue: str = ""


class Outcomes:
    """Outcomes by (problem, branch, round)."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, int], Outcome] = {}
        self._sums: dict[Emotion, list[float]] = {emotion: [0.0, 0.0] for emotion in Emotion}

    def __len__(self) -> int:
        return len(self._seen)

    def __iter__(self) -> Iterator[tuple[str, Outcome]]:
        """(problem's id, outcome), sorted: the order of arrival is not passed on."""
        return ((key[0], self._seen[key]) for key in sorted(self._seen))

    def add(self, problem_id: str, branch: str, round: int, outcome: Outcome) -> None:
        """Take note of an outcome, once."""
        key = (problem_id, branch, round)
        if key not in self._seen:
            self._seen[key] = outcome
            sums = self._sums[outcome.emotion]
            sums[0] += outcome.reward
            sums[1] += 1 - outcome.reward

    def observe(self, attempt: Attempt, question: str = "") -> None:
        """Take note of a judged attempt, if a charged cue went before it and the judge could tell."""
        cue, verdict = attempt.cue, attempt.verdict
        if cue is None or cue.emotion is None or not cue.affective or verdict is None:
            return
        reward = verdict.score if verdict.correct is None else float(verdict.correct)
        if reward is not None:
            outcome = Outcome(cue.emotion, min(1.0, max(0.0, reward)), question, cue.id)
            self.add(attempt.problem_id, attempt.branch, attempt.round, outcome)

    def counts(self, emotion: Emotion) -> tuple[float, float]:
        """(sum of rewards, sum of what was missing to 1) of the answers after ``emotion``."""
        won, lost = self._sums[emotion]
        return won, lost
