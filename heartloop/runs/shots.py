"""Worked examples that stand before each question: our own, or a file's."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import orjson

from heartloop.errors import DataError, UsageError
from heartloop.strategies.prompts import Shot

__all__ = ["own_shots", "shots_from"]


def own_shots(count: int) -> tuple[Shot, ...]:
    """The first ``count`` of HeartLoop's own worked examples (one-step word problems).

    Raises:
        UsageError: there are not so many.
    """
    text = resources.files("heartloop.runs").joinpath("data/shots.jsonl").read_text(encoding="utf-8")
    shots = [Shot(**orjson.loads(line)) for line in text.splitlines() if line.strip()]
    if not 0 <= count <= len(shots):
        raise UsageError(f"--shots: there are {len(shots)} worked examples of our own, not {count}")
    return tuple(shots[:count])


def shots_from(path: Path) -> Iterator[Shot]:
    """The worked examples in a JSON lines file.

    Raises:
        DataError: it can't be read, or a line is none; which one is said.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: can't read the worked examples: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = orjson.loads(line)
            question, answer = data["question"], data["answer"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: no worked example with question and answer") from error
        if not isinstance(question, str) or not isinstance(answer, str):
            raise DataError(f"{path}, line {number}: question and answer must be text")
        yield Shot(question, answer)
