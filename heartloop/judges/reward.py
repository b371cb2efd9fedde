"""Reward: a model that was trained to score answers scores each candidate (best-of-n, arXiv 2110.14168)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heartloop.errors import BadResponse, UsageError
from heartloop.judges.base import Weighed, chosen
from heartloop.judges.scored import Pick, sigmoid, weigh_by_score
from heartloop.types import Attempt, Message, Problem, Sampling, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Reward"]


NEEDS_REWARD_MODEL = (
    "the judge 'reward' needs a reward model in the role 'reward': --reward-model vllm-score/NAME "
    "(vllm-classify, vllm-pooling, http-score likewise) with --reward-url URL"
)
"""What is said where there is none."""


@dataclass(frozen=True, slots=True)
class Reward:
    """One call for each distinct candidate, in the role ``reward``, to a backend that scores
    (:class:`heartloop.backends.scoring.ScoringBackend`).

    Attributes:
        pick: the best candidate, or the answer with most reward.
        each: score every attempt as it is made, so that a stop rule can go by it; otherwise only those that
            are there at the end, equal ones once.
    """

    pick: Pick = "best"
    each: bool = False
    name: str = "reward"
    needs_reference: bool = False

    @property
    def role(self) -> str:
        return "reward"

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        """With ``each`` the score, in [0, 1]: as given, or a logit's sigmoid. It has no threshold, so it says
        nothing of right or wrong."""
        if not self.each:
            return Verdict(None, self.name, "scored at the end")
        score = await self.score(problem, attempt, session)
        graded = score if 0 <= score <= 1 else sigmoid(score)
        return Verdict(None, self.name, f"the reward model gave {score:.4g}", score=graded)

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """See ``pick``."""
        return chosen(await self.weigh(problem, attempts, session), attempts)

    async def weigh(
        self, problem: Problem, attempts: Sequence[Attempt], session: Session
    ) -> Sequence[Weighed]:
        """Each answer with its best score (``best``) or its share of all scores (``votes``)."""
        return await weigh_by_score(self, problem, attempts, session)

    async def score(self, problem: Problem, attempt: Attempt, session: Session) -> float:
        """What the reward model gives.

        Raises:
            UsageError: the model in the role ``reward`` is none.
            BadResponse: what came is no finite number.
            BackendError, BudgetExhausted: see there.
        """
        if not session.offers("reward", "scores"):
            raise UsageError(NEEDS_REWARD_MODEL)
        messages = (
            Message("user", problem.question),
            Message("assistant", attempt.text or "(no answer)"),
        )
        # It generates nothing; the prompt is what it costs.
        sampling: Sampling = replace(session.sampling("reward"), temperature=None, max_tokens=1, seed=0)
        completion = await session.generate(messages, role="reward", sampling=sampling, round=attempt.round)
        try:
            score = float(completion.text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise BadResponse(
                f"the reward model {completion.model!r} gave {completion.text[:40]!r} for a score"
            )
        return score
