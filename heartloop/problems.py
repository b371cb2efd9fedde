"""A problem from a question, as a caller gives it."""

from __future__ import annotations

import hashlib

from heartloop.errors import UsageError
from heartloop.types import Content, Problem

__all__ = ["is_empty", "make_problem"]


def make_problem(
    question: str | Content, reference: str | None = None, id: str | None = None, kind: str = "auto"
) -> Problem:
    """A problem from a question; its id is a hash of the question unless given.

    Raises:
        UsageError: the question is empty, or is no question; the reference is empty, or no text.
    """
    if not isinstance(question, str | tuple):
        raise UsageError(
            f"a question is text or a tuple of parts, not {type(question).__name__}; "
            "with an id or a reference, pass heartloop.Problem(id, question, reference)"
        )
    if is_empty(question):
        raise UsageError("the question is empty")
    if reference is not None and (not isinstance(reference, str) or not reference.strip()):
        raise UsageError(f"a reference is text, such as '42', not {reference!r}")
    if id is None:
        id = hashlib.blake2b(repr(question).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Problem(id=id, question=question, reference=reference, kind=kind)


def is_empty(question: Content) -> bool:
    """Whether it has neither a word nor an image."""
    if isinstance(question, str):
        return not question.strip()
    return not any(part.get("type") != "text" or str(part["text"]).strip() for part in question)
