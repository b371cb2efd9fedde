"""Synthesis: a call that reads the candidates and writes the final answer (HEART in S2, arXiv 2509.22876).

The paper's prompt is not public. Ours shows the candidates shuffled, so that their order says nothing, and
what comes back is guarded: it may not bring an answer that no candidate has, unless that is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heartloop.judges.asking import framed, generate_fitting, mark_for, with_images
from heartloop.judges.majority import groups_by_answer, largest_group
from heartloop.responders.chat import attempt_from
from heartloop.types import Attempt, Completion, Message, Problem, Verdict, text_of

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Synthesis"]

_NAMED = re.compile(r"attempt\W{0,6}(\d{1,4})(?!\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Synthesis:
    """One call in the role ``synthesiser``; none where there is nothing to choose (equal texts, or without
    ``allow_new`` one answer only).

    Candidates whose text is the same are shown once. Where they overflow the model's context, each is
    cut to its end, where the answer is. A synthesis whose answer is a candidate's chooses that candidate (the
    first that gave it); one that only names a candidate ("attempt 2 is right") chooses that one; in every
    other case the majority's answer is taken.

    Attributes:
        allow_new: take the synthesis's own answer, whatever it is, as a new attempt.
    """

    allow_new: bool = False
    name: str = "synthesis"
    needs_reference: bool = False

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "a synthesis says nothing of a single attempt")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """A candidate; with ``allow_new`` a new attempt made of them."""
        distinct = list({attempt.text: attempt for attempt in attempts}.values())
        if len(distinct) == 1:
            return distinct[0]
        groups = await groups_by_answer(attempts, session.equivalent)
        if not self.allow_new and len(groups) < 2:
            return groups[0][0] if groups else attempts[-1]
        session.random("shuffle").shuffle(distinct)
        completion = await self._ask(problem, distinct, session)
        last_round = max(attempt.round for attempt in attempts)
        written = attempt_from(completion, problem, branch=session.branch_name, round=last_round)
        if self.allow_new and written.answer is not None:
            return written
        if written.answer is not None:
            for group in groups:
                if await session.equivalent(str(group[0].answer), written.answer):
                    return group[0]
        last_line = written.text.rstrip()[-200:].rpartition("\n")[2]
        named = {int(number) for number in _NAMED.findall(f"{written.answer} {last_line}")}
        for number in named & set(range(1, len(distinct) + 1)) if len(named) == 1 else ():
            if distinct[number - 1].answer is not None:
                return distinct[number - 1]
        group = await largest_group(attempts, session.equivalent)
        return group[0] if group else attempts[-1]

    async def _ask(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Completion:
        question = text_of(problem.question)
        mark = mark_for(question, *(text for a in attempts for text in (a.text, a.answer or "")))
        names = [str(number) for number in range(1, len(attempts) + 1)]

        def message(limit: int) -> Message:
            candidates = framed(attempts, mark, limit, names, "Attempt")
            prompt = session.prompts.fill(
                "synthesis", "prompt", question=question, candidates=candidates, mark=mark
            )
            return with_images(prompt, problem)

        return await generate_fitting(
            session,
            message,
            max(len(attempt.text) for attempt in attempts),
            role="synthesiser",
            round=max(attempt.round for attempt in attempts),
        )
