"""Judges as the command line writes them.

::

    spec   = NAME [ "(" spec { "," spec } ")" ] [ ":" option { "," option } ]
    option = NAME "=" VALUE

``pairwise:budget=3,window=8`` is a judge with options; ``cascade(majority,pairwise:window=4):margin=0.5``
one made of others, with an option of its own. A comma followed by ``NAME=`` goes on with the options of the
judge before it. A value ends at a comma or parenthesis; several values in one are separated by slashes
(``weights=2/1``). The options are the judge's own parameters, read by their types.
"""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from heartloop.errors import UnknownName, UsageError
from heartloop.judges.base import Judge

__all__ = ["Spec", "built", "parsed"]

_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_OPTION = re.compile(r"([A-Za-z_]\w*)\s*=\s*([^,()]*)")
_DEEPEST = 16

Maker: TypeAlias = Callable[..., Judge]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a spec says: a name, the judges it is made of, and options as they were written.

    ``text`` is the spec in its one canonical spelling: without spaces.
    """

    name: str
    parts: tuple[Spec, ...]
    options: Mapping[str, str]

    @property
    def text(self) -> str:
        parts = f"({','.join(part.text for part in self.parts)})" if self.parts else ""
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.name}{parts}:{options}" if options else f"{self.name}{parts}"


def parsed(text: str) -> Spec:
    """``text`` taken apart.

    Raises:
        UsageError: it is no spec; the message says where.
    """
    spec, end = _spec(text, 0, 0)
    if end < len(text):
        raise _broken(text, end, "the judge's spec ends here, but text follows")
    return spec


def _spec(text: str, at: int, depth: int) -> tuple[Spec, int]:
    if depth > _DEEPEST:
        raise _broken(text, at, f"more than {_DEEPEST} judges inside one another")
    at = _blank(text, at)
    named = _NAME.match(text, at)
    if named is None:
        raise _broken(text, at, "the name of a judge is missing")
    at = _blank(text, named.end())
    parts: list[Spec] = []
    if text.startswith("(", at):
        while text[at : at + 1] in ("(", ",") and (not parts or text[at] == ","):
            part, at = _spec(text, at + 1, depth + 1)
            parts.append(part)
        if not text.startswith(")", at):
            raise _broken(text, at, "a closing parenthesis is missing")
        at = _blank(text, at + 1)
    options: dict[str, str] = {}
    if text.startswith(":", at):
        at += 1
        while True:
            option = _OPTION.match(text, _blank(text, at))
            if option is None:
                raise _broken(text, at, "an option is missing; write name=value")
            name, value = option.group(1), option.group(2).strip()
            if not value:
                raise _broken(text, at, f"the option {name!r} has no value")
            if name in options:
                raise _broken(text, at, f"the option {name!r} is there twice")
            options[name] = value
            at = option.end()
            if not (text.startswith(",", at) and _OPTION.match(text, _blank(text, at + 1))):
                break
            at += 1
    return Spec(named.group(), tuple(parts), types.MappingProxyType(options)), at


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _broken(text: str, at: int, what: str) -> UsageError:
    return UsageError(
        f"judge {text!r}, character {at + 1}: {what}. "
        "Write NAME, NAME:option=value,option=value, or NAME(JUDGE,JUDGE):option=value"
    )


def built(spec: Spec, maker_of: Callable[[Spec], Maker]) -> Judge:
    """The judge that ``spec`` says, named by it, so that the journal tells differently set judges apart.

    Raises:
        UnknownName, UsageError: see :func:`heartloop.judges.judge_from_name`.
    """
    maker = maker_of(spec)
    parts = tuple(built(part, maker_of) for part in spec.parts)
    hints = _parameters(maker)
    inner = {name: hint for name, hint in hints.items() if hint in (Judge, tuple[Judge, ...])}
    known = {name: hint for name, hint in hints.items() if name not in inner and _readable(hint)}
    given: dict[str, Any] = {}
    for name, value in spec.options.items():
        if name not in known:
            raise UnknownName(f"option of the judge {spec.name!r}:", name, known)
        given[name] = _read(value, known[name], f"judge {spec.text!r}: {name}")
    given |= _inner(spec, parts, inner)
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


def _parameters(maker: Maker) -> dict[str, Any]:
    """Names and types of what ``maker`` takes by name, apart from the judge's own identity."""
    target: Any = maker if inspect.isclass(maker) or inspect.isfunction(maker) else type(maker).__call__
    hints = get_type_hints(target if is_dataclass(target) or not inspect.isclass(target) else target.__init__)
    names = [
        name
        for name, parameter in inspect.signature(maker).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    return {name: hints.get(name, str) for name in names if name not in ("name", "needs_reference")}


def _readable(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_readable(one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is tuple:
        return len(get_args(hint)) == 2 and get_args(hint)[1] is Ellipsis and _readable(get_args(hint)[0])
    return hint in (bool, int, float, str) or get_origin(hint) is Literal


def _read(value: str, hint: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value == "none" and type(None) in get_args(hint):
            return None
        choices = [one for one in get_args(hint) if one is not type(None) and _readable(one)]
        return _read(value, choices[0], where)
    if origin is tuple:
        return tuple(_read(part.strip(), get_args(hint)[0], where) for part in value.split("/"))
    if origin is Literal:
        by_text = {str(one): one for one in get_args(hint)}
        if value not in by_text:
            raise UsageError(f"{where} is one of {', '.join(by_text)}, not {value!r}")
        return by_text[value]
    if hint is bool:
        if value.lower() not in ("true", "false", "yes", "no"):
            raise UsageError(f"{where} is true or false, not {value!r}")
        return value.lower() in ("true", "yes")
    if hint is str:
        return value
    try:
        number = hint(value)
    except ValueError:
        number = None
    if number is None or not math.isfinite(number):
        wanted = "a whole number" if hint is int else "a number"
        raise UsageError(f"{where} is {wanted}, not {value!r}")
    return number
