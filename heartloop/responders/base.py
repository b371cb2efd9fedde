"""How one attempt is made. Strategies don't know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from heartloop.types import Attempt, Cue, Problem

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Responder"]


class Responder(Protocol):
    """Makes attempts: by a chat call, or by a program of its own."""

    async def respond(
        self,
        problem: Problem,
        history: Sequence[Attempt],
        session: Session,
        *,
        prompt: str,
        cue: Cue | None,
        feedback: str | None,
        round: int,
        context: Sequence[str] = (),
    ) -> Attempt:
        """Make an attempt through ``session.generate``.

        Args:
            history: the attempts before it on its line, oldest first; empty for a first attempt.
            prompt: name of the question's template.
            cue: goes into the feedback, with the template named ``feedback`` (default ``"heart"``).
            feedback: name of the feedback template; None is HEART's, or without a cue self-reflection's.
            round: its round, from 1.
            context: texts to show where the template says ``$context``. Passed only where there are some, so
                a responder for strategies without them may leave it out.
        """
        ...
