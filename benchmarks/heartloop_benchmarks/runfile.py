"""Run files of ``heartloop bench``: TOML, checked to the last key, with the command line laid over them.

Keys have the names of the command line's options. Files that a run file names (data, prompts, a deck, prices,
worked examples) are looked up beside it; ``~`` and ``$VARIABLES`` in their names are filled in.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from heartloop.errors import UsageError
from heartloop_benchmarks.runtables import (
    ArmTable,
    Assume,
    Caps,
    ContrastTable,
    FamilyTable,
    JudgeTable,
    Limits,
    ModelTable,
    RunFile,
)

__all__ = ["checked", "layered", "read_run_file"]

ROLES = ("judge", "synthesiser", "grader", "reward")

_PATHS = (("data",), ("deck",), ("prompts",), ("shots",), ("model", "prices"))


def read_run_file(path: Path) -> dict[str, Any]:
    """The tables in a run file, unchecked; paths in it are made to start from its folder.

    Raises:
        UsageError: it can't be read, or is not TOML.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: can't read the run file: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the run file is not UTF-8 text: {error.reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    here = path.resolve().parent
    places = [*_PATHS, *(("models", role, "prices") for role in ROLES)]
    for *tables, key in places:
        table: Any = data
        for name in tables:
            table = table.get(name) if isinstance(table, dict) else None
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = _path(table[key], here, f"{path}: {key}")
    for arm in data["arms"] if isinstance(data.get("arms"), list) else ():
        if isinstance(arm, dict) and isinstance(arm.get("deck"), str):
            arm["deck"] = _path(arm["deck"], here, f"{path}: deck")
    return data


def _path(text: str, here: Path, where: str) -> str:
    filled = os.path.expanduser(os.path.expandvars(text))
    if missing := re.search(r"\$\{?(\w+)", filled):
        raise UsageError(f"{where}: {text!r} needs the environment variable {missing.group(1)}, not set here")
    return str(here / filled) if filled else filled


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with the values of ``above`` in their places; tables are merged, lists replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = (
            layered(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def checked(data: Mapping[str, Any], where: str) -> RunFile:
    """The run file that ``data`` is. A role's model has the main model's settings where it names none.

    Args:
        where: what it was read from, for messages.

    Raises:
        UsageError: keys that mean nothing (with the one that was perhaps meant), values that can't be.
    """
    data = dict(data)
    main, roles = data.get("model"), data.get("models")
    if isinstance(main, str):
        main = data["model"] = {"name": main}
    if isinstance(roles, Mapping):
        for role in roles.keys() - set(ROLES):
            raise UsageError(f"{where}: {_unknown(f'models.{role}', role, ROLES)}")
        shared = {key: main[key] for key in _SHARED & main.keys()} if isinstance(main, Mapping) else {}
        data["models"] = {
            role: {**_without_price(shared, main, model), **model} if isinstance(model, Mapping) else model
            for role, model in roles.items()
        }
    try:
        return RunFile.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True)
        raise UsageError("\n".join(f"{where}: {line}" for line in map(_complaint, found))) from None


def _without_price(shared: dict[str, Any], main: Any, model: Mapping[str, Any]) -> dict[str, Any]:
    """What another role's model shares with the main one: not its price, unless it is the same."""
    if isinstance(main, Mapping) and model.get("name", main.get("name")) == main.get("name"):
        return shared
    return {key: value for key, value in shared.items() if key != "price"}


def _complaint(error: Any) -> str:
    # A default that is validated, or a union, puts names of its own into the place.
    place = [part for part in error["loc"] if isinstance(part, int) or not _INNER.match(part)]
    name = ".".join(f"[{part + 1}]" if isinstance(part, int) else str(part) for part in place)
    name = name.replace(".[", "[")
    if error["type"] == "extra_forbidden":
        return _unknown(name, str(place[-1]), _known(place[:-1]))
    if error["type"] == "missing":
        return f"{name!r} is missing" + _MISSING.get(name, "")
    cause = (error.get("ctx") or {}).get("error")
    if isinstance(cause, UsageError):
        return str(cause)
    said = re.sub(r"^(?i:input|value) should be|^(?i:list|string) should have", _must, error["msg"])
    said = re.sub(r"a valid dictionary or instance of \w+", "a table", said).replace(" after validation", "")
    given = error.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{name} {said}{shown}"


def _must(found: re.Match[str]) -> str:
    return "must be" if found.group().endswith("be") else "must have"


def _unknown(name: str, last: str, known: Sequence[str]) -> str:
    close = get_close_matches(last, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"
    return f"unknown key {name!r}; {hint}"


_INNER = re.compile(r"^(function-before|constrained-|list\[|str$|int$|float$)")
_SHARED = frozenset(ModelTable.model_fields) - {"name", "logprobs"}
_MISSING = {
    "model": ": name one with --model, or a table [model] with its name",
    "benchmark": ": name one, as in `heartloop bench olympiadbench`",
}


def _known(place: list[Any]) -> list[str]:
    """The keys of the table at ``place``."""
    tables: dict[str, type[BaseModel]] = {
        "model": ModelTable,
        "models": ModelTable,
        "arms": ArmTable,
        "judges": JudgeTable,
        "caps": Caps,
        "limits": Limits,
        "primary": ContrastTable,
        "families": FamilyTable,
        "contrasts": ContrastTable,
        "assume": Assume,
    }
    if place == ["models"]:
        return list(ROLES)
    named = [part for part in place if part in tables]
    return list((tables[named[-1]] if named else RunFile).model_fields)
