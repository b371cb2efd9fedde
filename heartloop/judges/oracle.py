"""The oracle: compares with the reference (HEART's setting S1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heartloop.judges.verifying import score
from heartloop.strategies.base import accepted
from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Oracle"]


@dataclass(frozen=True, slots=True)
class Oracle:
    """Right or wrong by ``verify`` (default: the installed verifiers).

    Unknown without a reference or when a verifier was killed.
    """

    verify: Callable[[Problem, str | None], Awaitable[Verdict]] = score
    name: str = "oracle"
    needs_reference: bool = True

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        return await self.verify(problem, attempt.answer)

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """The first one found right; else the last one made."""
        return accepted(attempts) or attempts[-1]
