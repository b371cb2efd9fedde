"""The way from the engine to the verifiers: found by entry point, when first needed.

The engine imports no verifier. A distribution offers one in the entry point group
``heartloop.verifiers``; the one called ``default`` is used. Its module has ``averify`` and
``aequivalent`` (see ``heartloop_verifiers``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Protocol, cast

from heartloop.errors import UsageError
from heartloop.types import Problem, Verdict

__all__ = ["check_kind", "equivalent", "score"]


class _Verifiers(Protocol):
    def averify(
        self, prediction: str, reference: str | Sequence[str], *, kind: str = ...
    ) -> Awaitable[Verdict]: ...

    def aequivalent(self, a: str, b: str, *, kind: str = ...) -> Awaitable[bool | None]: ...


@cache
def _verifiers() -> _Verifiers:
    for point in entry_points(group="heartloop.verifiers", name="default"):
        return cast(_Verifiers, point.load())
    raise UsageError("no verifiers are installed (entry point group heartloop.verifiers): reinstall")


def check_kind(kind: str) -> None:
    """Raise UnknownName for a kind of answer that the verifiers don't know (where they tell)."""
    options = getattr(_verifiers(), "Options", None)
    if options is not None:
        options.of(kind=kind)


async def score(problem: Problem, answer: str | None) -> Verdict:
    """``answer`` against the problem's reference; unknown where there is none."""
    if problem.reference is None:
        return Verdict(None, "oracle", "the problem has no reference")
    if answer is None:
        return Verdict(False, "oracle", "no final answer was found")
    return await _verifiers().averify(answer, problem.reference, kind=problem.kind)


async def equivalent(a: str, b: str, kind: str = "auto") -> bool:
    """Whether two answers are the same answer; unknown counts as different."""
    return bool(await _verifiers().aequivalent(a, b, kind=kind))
