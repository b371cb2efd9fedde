"""Universal self-consistency (arXiv 2311.17311): the model names the response that most others agree with.

For free-form answers, which can't be counted: all responses go into one prompt, and the model picks the one
most consistent with the rest. The paper asks for the choice alone, without reasons (``think``); wording,
shuffling and the fallback are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heartloop.judges.asking import Ask
from heartloop.judges.majority import groups_by_answer, largest_group
from heartloop.judges.reading import number_named
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["UniversalSelfConsistency"]


@dataclass(frozen=True, slots=True)
class UniversalSelfConsistency:
    """One call in the role ``judge``; none where all texts, or all answers, are the same.

    Equal texts are kept apart: how often a response came is what consistency is about. An answer of the
    judge that names no response leaves the choice to the majority.
    """

    think: bool = False
    structured: bool = True
    name: str = "usc"
    needs_reference: bool = False

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "consistency says nothing of a single attempt")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        groups = await groups_by_answer(attempts, session.equivalent)
        if len({attempt.text for attempt in attempts}) == 1 or [len(g) for g in groups] == [len(attempts)]:
            return attempts[0]
        shown = list(attempts)
        session.random("shuffle").shuffle(shown)
        ask = Ask("consistent", "choice", self.think, self.structured, what="Response")
        completion = await ask(problem, shown, session)
        number = number_named(completion.text, len(shown), cut=completion.finish_reason == "length")
        if number is not None:
            return shown[number - 1]
        group = await largest_group(attempts, session.equivalent)
        return group[0] if group else attempts[-1]
