"""Judges from specs (:mod:`heartloop.specs`): the options are the judge's own parameters, and the judges in
its parentheses go to the parameters that take judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeAlias, cast

from heartloop.errors import UsageError
from heartloop.judges.base import Judge
from heartloop.specs import Spec, options_of, parameters, read_options

__all__ = ["built"]

Maker: TypeAlias = Callable[..., Judge]


def built(spec: Spec, maker_of: Callable[[Spec], Maker]) -> Judge:
    """The judge that ``spec`` says, named by it, so that the journal tells differently set judges apart.

    Raises:
        UnknownName, UsageError: see :func:`heartloop.judges.judge_from_name`.
    """
    maker = maker_of(spec)
    parts = tuple(built(part, maker_of) for part in spec.parts)
    inner = {name: hint for name, hint in parameters(maker).items() if hint in (Judge, tuple[Judge, ...])}
    # What a judge is called, and whether it sees the reference, is not for a spec to say.
    known = {
        name: hint for name, hint in options_of(maker).items() if name not in ("name", "needs_reference")
    }
    given = read_options("judge", spec, known) | _inner(spec, parts, inner)
    try:
        judge = maker(**given)
    except TypeError as error:
        raise UsageError(f"judge {spec.text!r}: can't be made: {error}") from error
    if (
        spec.text != judge.name
        and is_dataclass(judge)
        and "name" in {f.name for f in fields(judge) if f.init}
    ):
        judge = replace(cast(Any, judge), name=spec.text)
    return judge


def _inner(spec: Spec, parts: tuple[Judge, ...], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """``parts`` by the names of the parameters that take judges."""
    several = [name for name, hint in wanted.items() if hint is not Judge]
    if several and parts:
        return {several[0]: parts}
    if len(parts) != len(wanted):
        takes = f"{len(wanted)} ({', '.join(wanted)})" if wanted else "none"
        if several:
            takes = "one or more"
        raise UsageError(
            f"judge {spec.text!r}: {len(parts)} judges in its parentheses, and {spec.name!r} takes {takes}"
        )
    return dict(zip(wanted, parts, strict=True))
