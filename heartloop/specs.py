"""Things by name with options, as the command line writes them: ``NAME`` or ``NAME:OPTION=VALUE,...``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heartloop.errors import UnknownName, UsageError

__all__ = ["split_spec"]


def split_spec(what: str, spec: str, known: Mapping[str, Mapping[str, type]]) -> tuple[str, dict[str, Any]]:
    """The name in ``spec`` and its options, each of its type.

    Args:
        what: what is named, for messages (``"stop rule"``).
        known: name to its options to their types (int, float or str).

    Raises:
        UnknownName: no such name or option; the known ones are listed.
        UsageError: a value is missing, or no number where one belongs.
    """
    name, colon, rest = spec.strip().partition(":")
    if name not in known:
        raise UnknownName(what, name, known)
    if colon and not rest.strip():
        raise UsageError(f"{what} {spec!r}: nothing follows the colon")
    options: dict[str, Any] = {}
    for pair in rest.split(",") if rest else []:
        option, _, value = (part.strip() for part in pair.partition("="))
        if option not in known[name]:
            raise UnknownName(f"option of the {what} {name!r}", option, known[name])
        if not value:
            raise UsageError(f"{what} {spec!r}: {option} needs a value, as in {option}=...")
        try:
            options[option] = known[name][option](value)
        except ValueError:
            raise UsageError(f"{what} {spec!r}: {option} must be a number, not {value!r}") from None
    return name, options
