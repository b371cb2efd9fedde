"""What a judge is: someone who looks at attempts.

Oracle and verifier-free judges are the same kind of thing. Only a judge with ``needs_reference`` is
handed the reference; all others get ``problem.without_reference()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from heartloop.types import Attempt, Problem, Verdict

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Judge", "logprobs_needed"]


class Judge(Protocol):
    """Two verbs. A judge that has no use for one of them says so with an unknown verdict, or by
    returning the last attempt.

    A judge may have more, which is used where it is there:

    * an attribute ``logprobs: int | None``: the generator is asked for so many top alternatives of each
      token that it draws (-1: the whole vocabulary). Attempts then carry ``confidence``.
    """

    @property
    def name(self) -> str:
        """As in the CLI and the journal."""
        ...

    @property
    def needs_reference(self) -> bool:
        """True for an oracle: it knows the reference, and its "wrong" may be passed on to the model (S1)."""
        ...

    async def assess(self, problem: Problem, attempt: Attempt, session: Session) -> Verdict:
        """Look at one attempt. Unknown (``correct=None``) when it can't tell."""
        ...

    async def select(self, problem: Problem, attempts: Sequence[Attempt], session: Session) -> Attempt:
        """The final answer: one of ``attempts`` (never empty), or a new attempt made from them."""
        ...


def logprobs_needed(judge: Judge) -> int | None:
    """How many alternatives of each token ``judge`` wants attempts to be made with; None: it needs none."""
    needed: int | None = getattr(judge, "logprobs", None)
    return needed
