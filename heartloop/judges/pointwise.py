"""A model rates each candidate by itself against a rubric (LLM as a judge, arXiv 2306.05685).

The score is the rating's expectation over the probabilities of the score token, where log-probabilities are
given (G-Eval, arXiv 2303.16634), else the rating as written; the mean over several votes. Ours: the rubric,
and a scale from 0 to 9, so that a rating is one token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heartloop.errors import UsageError
from heartloop.judges.asking import Ask
from heartloop.judges.base import Weighed, chosen
from heartloop.judges.majority import branch_votes, groups_by_answer
from heartloop.judges.reading import BEST, figure
from heartloop.types import Attempt, Completion, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Pointwise", "expected_score"]

_ALTERNATIVES = 10


@dataclass(frozen=True, slots=True)
class Pointwise:
    """``votes`` calls in the role ``judge`` for each distinct text; none for a text without an answer.

    The best score wins, whichever attempt has it; ties go to the answer with more votes of the attempts.

    Attributes:
        votes: ratings of each candidate.
        think: reasons before the rating. Without them, the log-probabilities of the rating are asked for.
        alternatives: top log-probabilities asked for each token; default: 10 without ``think``, else none
            (each token's would go into the journal).
    """

    votes: int = 1
    think: bool = True
    structured: bool = True
    alternatives: int | None = None
    name: str = "pointwise"
    needs_reference: bool = False

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise UsageError(f"judge {self.name!r}: votes is at least 1, not {self.votes}")
        if self.alternatives is not None and not 0 <= self.alternatives <= 20:
            raise UsageError(f"judge {self.name!r}: alternatives is from 0 to 20, not {self.alternatives}")

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        """A graded verdict: ``score`` in [0, 1], ``correct`` unknown (a rating is no proof)."""
        if attempt.answer is None:
            return Verdict(None, self.name, "no final answer", score=0.0)
        alternatives = self.alternatives
        if alternatives is None and not self.think:
            alternatives = _ALTERNATIVES
        ask = Ask("rate", "score", self.think, self.structured, alternatives=alternatives, names=("",))
        replies = await session.gather(
            {vote: ask(problem, [attempt], session.branch(vote)) for vote in range(self.votes)}
        )
        scores = [score for reply in replies.values() if (score := _score(reply)) is not None]
        if not scores:
            return Verdict(None, self.name, f"none of {len(replies)} ratings could be read")
        mean = math.fsum(scores) / len(scores)
        return Verdict(None, self.name, f"rated {mean:.2f} by {len(scores)} votes", score=mean)

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with its best score, by the attempt that has it; answers of more votes come first.

        What :meth:`assess` said of an attempt while the loop ran counts, and is not asked again. A
        candidate whose rating can't be read has none: 0.
        """
        groups = await groups_by_answer(attempts, session.equivalent)
        if len(groups) < 2:
            return [Weighed(group[0], 1.0) for group in groups]
        votes = branch_votes(groups)
        groups = [groups[k] for k in sorted(range(len(groups)), key=lambda k: -votes[k])]
        rated = {
            attempt.text: attempt.verdict
            for attempt in attempts
            if attempt.verdict is not None and attempt.verdict.method == self.name
        }
        distinct = {attempt.text: attempt for group in groups for attempt in reversed(group)}
        missing = [attempt for text, attempt in distinct.items() if text not in rated]
        if missing:
            made = await session.gather(
                {a.text: self.assess(problem, a, session.branch(k)) for k, a in enumerate(missing)}
            )
            rated |= made

        def score(attempt: Attempt) -> float:
            verdict = rated.get(attempt.text)
            return 0.0 if verdict is None or verdict.score is None else verdict.score

        best = [max(group, key=score) for group in groups]
        return [Weighed(attempt, score(attempt)) for attempt in best]


def _score(completion: Completion) -> float | None:
    written = figure(completion.text, "score")
    return None if written is None else expected_score(completion, written)


def expected_score(completion: Completion, written: float) -> float:
    """The expectation of the rating over the digits that could have stood in its token's place.

    ``written`` (in [0, 1]) itself where there are no log-probabilities, or no token is that one digit.
    """
    digit = str(round(written * BEST))
    for token in reversed(completion.logprobs or ()):
        if token.token.strip(' "\n') != digit:
            continue
        odds: dict[int, float] = {}
        for text, logprob in dict([(token.token, token.logprob), *token.top]).items():
            bare = text.strip(' "\n')
            if bare.isascii() and bare.isdigit() and len(bare) == 1 and not math.isnan(logprob):
                odds[int(bare)] = odds.get(int(bare), 0.0) + math.exp(min(logprob, 0.0))
        total = math.fsum(odds.values())
        if total > 0:
            return math.fsum(value * p for value, p in odds.items()) / total / BEST
    return written
