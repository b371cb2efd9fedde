"""Asking the model for something that is no attempt: a critique, a reflection, notes."""

from __future__ import annotations

from collections.abc import Sequence

from heartloop.answers import strip_reasoning
from heartloop.engine.session import Session
from heartloop.errors import ContextOverflow
from heartloop.responders.chat import LEAST_CHARACTERS, ends
from heartloop.types import Message, Problem

__all__ = ["consult"]


async def consult(
    branch: Session, request: str, problem: Problem, context: Sequence[str], *, round: int
) -> str:
    """What the generator says to the prompt ``request`` with ``context`` in it, reasoning stripped.

    Texts of the context are cut to their ends where they overflow the model's context.

    Raises:
        BudgetExhausted, BackendError: as in :meth:`~heartloop.engine.session.Session.generate`.
    """
    prompts = branch.prompts
    system = [] if prompts.system is None else [Message("system", prompts.system)]
    limit = max(map(len, context), default=0)
    while True:
        asked = prompts.ask(request, problem.question, ends(context, limit), section="request")
        try:
            completion = await branch.generate([*system, Message("user", asked)], round=round)
        except ContextOverflow:
            if limit <= LEAST_CHARACTERS:
                raise
            limit = max(LEAST_CHARACTERS, limit // 2)
        else:
            return strip_reasoning(completion.text).strip()
