"""Follow-up likelihood: would the person who got this answer now sound satisfied?

After the question and the answer stands one more turn of the user: once a satisfied one, once a
dissatisfied one. The model is asked for neither; it is asked how likely each of them was, which is in the
log-probabilities of the prompt. With even odds before, the two likelihoods give the probability that the turn
is the satisfied one: that is the score. The idea is that of "follow-up likelihood as reward" (arXiv
2409.13948); wording and formula here are our own.

The model judges its own answers this way, so what biases it there biases it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heartloop.errors import LogprobsMissing
from heartloop.judges.base import Weighed, chosen
from heartloop.judges.scored import Pick, sigmoid, weigh_by_score
from heartloop.types import Attempt, Completion, Message, Problem, TokenLogprob, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["FollowUp", "log_odds"]

SATISFIED = "Thank you, that is the right answer."
DISSATISFIED = "No, that is not the right answer."


@dataclass(frozen=True, slots=True)
class FollowUp:
    """Two calls for each distinct candidate, in the role ``judge``: prompt tokens and one new token each.

    Needs prompt log-probabilities, as vLLM gives them. (vLLM serves such a prompt without its prefix cache.)

    Attributes:
        satisfied, dissatisfied: the two turns. The same pair for all candidates, so their own likelihoods
            cancel in the ranking; alike in length and words, so that little else is compared.
        pick: the best candidate, or the answer with the highest sum of scores.
        each: score every attempt as it is made, so that a stop rule can go by it; otherwise only those that
            are there at the end, equal ones once.
    """

    satisfied: str = SATISFIED
    dissatisfied: str = DISSATISFIED
    pick: Pick = "best"
    each: bool = False
    name: str = "follow_up"
    needs_reference: bool = False

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        """With ``each`` the probability of the satisfied turn as score. It has no threshold, so it says
        nothing of right or wrong."""
        if not self.each:
            return Verdict(None, self.name, "scored at the end")
        score = await self.score(problem, attempt, session)
        return Verdict(None, self.name, f"a satisfied user is {score:.0%} likely", score=score)

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """See ``pick``."""
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with its best score (``best``) or its share of all scores (``votes``)."""
        return await weigh_by_score(self, problem, attempts, session)

    async def score(self, problem: Problem, attempt: Attempt, session: Session) -> float:
        """Probability of the satisfied turn against the dissatisfied one.

        Raises:
            LogprobsMissing: the backend gives no log-probabilities of prompts.
            BackendError, BudgetExhausted: see there.
        """
        one = await self._likelihood(self.satisfied, problem, attempt, session)
        other = await self._likelihood(self.dissatisfied, problem, attempt, session)
        return sigmoid(log_odds(one, other))

    async def _likelihood(
        self, turn: str, problem: Problem, attempt: Attempt, session: Session
    ) -> Completion:
        drawn = session.sampling("judge")
        asked = replace(
            drawn,
            temperature=0.0,
            max_tokens=1,
            seed=0,
            logprobs=None,
            logprobs_as="summary",
            extra={**drawn.extra, "prompt_logprobs": 0, "add_generation_prompt": False},
        )
        messages = (
            Message("user", problem.question),
            Message("assistant", attempt.text or "(no answer)"),
            Message("user", turn),
        )
        completion = await session.generate(messages, role="judge", sampling=asked, round=attempt.round)
        if not completion.prompt_logprobs:
            raise LogprobsMissing(
                f"the judge {self.name!r} needs log-probabilities of prompts, and the model "
                f"{completion.model!r} returned none: serve it with vLLM (--model vllm/NAME), or take "
                "another judge"
            )
        return completion


def log_odds(one: Completion, other: Completion) -> float:
    """Log-likelihood of the turn that ends one prompt less that of the other's, from where they part."""
    first, second = _placed(one), _placed(other)
    common = sorted(first.keys() & second.keys())
    parts = next((place for place in common if first[place].token != second[place].token), None)
    if parts is None:  # one is the beginning of the other
        parts = common[-1] + 1 if common else 0
    return _sum_from(first, parts) - _sum_from(second, parts)


def _placed(completion: Completion) -> dict[int, TokenLogprob]:
    """The prompt's tokens by their places; the beginning of a long prompt may be missing."""
    rows = completion.prompt_logprobs or ()
    whole = len(rows) if completion.usage is None else max(len(rows), completion.usage.prompt_tokens)
    start = whole - len(rows)
    return {start + place: row for place, row in enumerate(rows) if row is not None}


def _sum_from(rows: dict[int, TokenLogprob], place: int) -> float:
    return sum(row.logprob for at, row in rows.items() if at >= place)
