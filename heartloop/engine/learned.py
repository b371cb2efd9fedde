"""What an arm's finished problems have to teach, read back from the journal."""

from __future__ import annotations

from heartloop.emotions.outcomes import Outcome, Outcomes
from heartloop.journal.base import Journal
from heartloop.types import Emotion, text_of

__all__ = ["recorded_outcomes"]


def recorded_outcomes(journal: Journal, arm: str) -> Outcomes:
    """What :meth:`Outcomes.observe` noted of them when it happened. Problems that are unfinished are not in
    it: they are solved again, from the journal, and noted then."""
    found = Outcomes()
    look_up = getattr(journal, "problem", None)
    for result in journal.results(arm):
        problem = None if look_up is None else look_up(result.problem)
        question = "" if problem is None else text_of(problem.question)
        for row in result.data.get("attempts", ()):
            reward = row.get("score") if row.get("verdict") is None else float(row["verdict"])
            if reward is None or not row.get("affective") or row.get("emotion") is None:
                continue
            outcome = Outcome(Emotion(row["emotion"]), min(1.0, max(0.0, reward)), question, row["cue"])
            found.add(result.problem, row["branch"], row["round"], outcome)
    return found
