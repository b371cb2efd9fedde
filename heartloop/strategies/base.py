"""What a strategy is: when to try again, with which cue, when to stop.

A strategy is straight-line async code. It awaits its session and nothing else, so that a run can be
resumed by running the same code again: whatever the session was asked before, the journal answers.
Anything that is not a function of the problem's own history goes through ``session.decide``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from heartloop.types import Attempt, Problem, Solution

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Strategy", "accepted"]


class Strategy(Protocol):
    """One law holds for all: the same problem with the same recorded answers has the same solution."""

    @property
    def name(self) -> str:
        """As in the CLI and the journal."""
        ...

    async def solve(self, problem: Problem, session: Session) -> Solution:
        """Solve one problem; end with ``session.finish(...)``.

        ``problem`` carries no reference. BudgetExhausted and BackendError are left to the engine, which
        then ends the problem with its best attempt so far.
        """
        ...


def accepted(attempts: Iterable[Attempt]) -> Attempt | None:
    """The first of ``attempts`` that the judge called right, or None."""
    for attempt in attempts:
        if attempt.verdict is not None and attempt.verdict.correct:
            return attempt
    return None
