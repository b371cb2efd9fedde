"""Synthesis: a call that reads the candidates and writes the final answer (HEART's setting S2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heartloop.errors import ContextOverflow
from heartloop.judges.majority import largest_group
from heartloop.responders.chat import LEAST_NEW_TOKENS, attempt_from, room_left
from heartloop.types import Attempt, Completion, Message, Problem, Verdict, text_of

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Synthesis"]

_LEAST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Synthesis:
    """One call in the role ``synthesiser``.

    Candidates whose text is the same are shown once. Where they overflow the model's context, each is
    cut to its end, where the answer is. If the synthesis holds no answer, the majority's is taken.
    """

    name: str = "synthesis"
    needs_reference: bool = False

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return Verdict(None, self.name, "a synthesis says nothing of a single attempt")

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """A new attempt made of the candidates; the candidate itself where there is only one."""
        distinct = list({attempt.text: attempt for attempt in attempts}.values())
        if len(distinct) == 1:
            return distinct[0]
        completion = await self._ask(problem, distinct, session)
        last_round = max(attempt.round for attempt in attempts)
        written = attempt_from(completion, problem, branch=session.branch_name, round=last_round)
        if written.answer is not None:
            return written
        group = await largest_group(attempts, session.equivalent)
        return group[0] if group else attempts[-1]

    async def _ask(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Completion:
        limit = max(len(attempt.text) for attempt in attempts)
        last = max(attempt.round for attempt in attempts)
        sampling = asked = session.sampling("synthesiser")
        while True:
            message = self._message(problem, attempts, limit, session)
            try:
                return await session.generate([message], role="synthesiser", sampling=asked, round=last)
            except ContextOverflow as overflow:
                shortest = limit <= _LEAST_CHARACTERS
                least = LEAST_NEW_TOKENS if shortest else max(LEAST_NEW_TOKENS, sampling.max_tokens // 4)
                room = room_left(overflow)
                if room is not None and least <= room < asked.max_tokens:
                    asked = replace(asked, max_tokens=room)
                    continue
                if shortest:
                    raise
            asked = sampling
            limit = max(_LEAST_CHARACTERS, limit // 2)

    def _message(
        self, problem: Problem, attempts: Sequence[Attempt], limit: int, session: Session
    ) -> Message:
        shown = []
        for number, attempt in enumerate(attempts, 1):
            text = attempt.text if len(attempt.text) <= limit else "[...] " + attempt.text[-limit:]
            answer = "none" if attempt.answer is None else attempt.answer
            shown.append(f"Attempt {number} (final answer: {answer}):\n{text}")
        prompt = session.prompts.fill(
            "synthesis", "prompt", question=text_of(problem.question), candidates="\n\n".join(shown)
        )
        if isinstance(problem.question, str):
            return Message("user", prompt)
        images = [part for part in problem.question if part.get("type") != "text"]
        return Message("user", ({"type": "text", "text": prompt}, *images))
