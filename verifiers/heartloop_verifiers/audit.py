"""References looked over before a run: which do not parse, and which do not even equal themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from heartloop.types import Problem, as_references

from . import engine
from .api import verify_many
from .clean import clean
from .lexer import ParseError
from .options import Case, Options
from .pool import Pool

__all__ = ["Finding", "audit"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a reference. ``what`` is for a person to read."""

    problem_id: str
    reference: str
    what: str


def audit(
    problems: Iterable[Problem | Mapping[str, Any]],
    *,
    timeout: float = 2.0,
    pool: Pool | None = None,
    **options: Any,
) -> list[Finding]:
    """References that are empty, unbalanced, unparsable, or not equal to themselves.

    ``problems`` are :class:`~heartloop.types.Problem` or mappings with an id and a reference under
    ``reference``,
    ``answer`` or ``final_answer``. A reference in plain words is fine; one that looks like mathematics and
    does not parse is reported, since only its exact text will ever be accepted.
    """
    chosen = Options.of(**options)
    findings: list[Finding] = []
    cases: list[Case] = []
    owners: list[tuple[str, str]] = []
    for number, problem in enumerate(problems, 1):
        ident, references = _reference(problem, number)
        if not references:
            findings.append(Finding(ident, "", "no reference"))
        for reference in references:
            what = _complaint(reference, chosen)
            if what:
                findings.append(Finding(ident, reference, what))
            # written with a space more, so that the comparison is one of meaning and not of text
            cases.append(Case(f"\\boxed{{{clean(reference)}}}", reference, chosen))
            owners.append((ident, reference))
    for (ident, reference), verdict in zip(
        owners, verify_many(cases, timeout=timeout, pool=pool), strict=True
    ):
        if verdict.correct is not True:
            findings.append(
                Finding(ident, reference, f"does not equal itself ({verdict.reason or verdict.method})")
            )
    return findings


def _reference(problem: Problem | Mapping[str, Any], number: int) -> tuple[str, tuple[str, ...]]:
    if isinstance(problem, Problem):
        return problem.id, as_references(problem.reference)
    ident = str(problem.get("id", number))
    for key in ("reference", "final_answer", "answer"):
        value = problem.get(key)
        if value is not None:
            return ident, as_references(value if isinstance(value, str) else [str(v) for v in value])
    return ident, ()


def _complaint(reference: str, options: Options) -> str | None:
    if not reference.strip():
        return "empty"
    if reference.replace("\\$", "").count("$") % 2:
        return "an odd number of $"
    depth = 0
    for char in reference.replace("\\{", "").replace("\\}", ""):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            break
    if depth:
        return "unbalanced braces"
    if options.kind in ("choice", "text"):
        return None
    text = clean(reference)
    if not any(c.isdigit() or c in "\\^=+*/_<>()[]" for c in text):
        return None  # words
    try:
        engine.readings(text, options)
    except (ParseError, RecursionError) as error:
        return f"does not parse: {error}"
    return None
