"""First floor: text, exact numbers, choice letters here; the rest by latex2sympy2_extended in a worker."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from heartloop.answers import extract_answer
from heartloop.types import Verdict

from .options import Options

__all__ = ["Task", "cheap", "prepare", "reply"]


def _nothing() -> None:
    return None


on_loading: Callable[[], None] = _nothing
on_loaded: Callable[[], None] = _nothing

_WRAP = re.compile(r"\$|\\left|\\right|\\[,;:! ]|\\displaystyle|\\text\{|\\mathrm\{|\s+")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{?(-?\d+)\}?\{?(-?\d+)\}?")
_PLAIN = re.compile(r"[-+]?\d+(?:\.\d+)?(?:/\d+)?")


@dataclass(frozen=True, slots=True)
class Task:
    prediction: str
    answer: str | None
    references: tuple[str, ...]
    options: Options


def prepare(prediction: str, references: tuple[str, ...], options: Options) -> Task:
    answer = extract_answer(prediction, options.kind) if options.extract else prediction
    return Task(prediction, answer, references, options)


def _normal(text: str) -> str:
    return _WRAP.sub("", text).strip(".,").lower()


def _number(text: str) -> Fraction | None:
    text = (
        text.replace("{,}", "").replace(",", "")
        if re.fullmatch(r"[-+]?\d{1,3}(?:\{?,\}?\d{3})+(?:\.\d+)?", text)
        else text
    )
    match = _FRACTION.fullmatch(text)
    if match and len(text) < 4000:
        return (
            None if int(match[3]) == 0 else Fraction(int(match[2]), int(match[3])) * (-1 if match[1] else 1)
        )
    if _PLAIN.fullmatch(text) and len(text) < 4000 and not re.search(r"/0+$", text):
        return Fraction(text)
    return None


def cheap(task: Task) -> Verdict | None:
    if task.answer is None:
        return Verdict(False, "none", "no answer found in the prediction")
    answer = _normal(task.answer)
    for reference in task.references:
        normal = _normal(reference)
        if normal == answer:
            return Verdict(True, "text", prediction=answer, reference=normal)
    normals = [_normal(r) for r in task.references]
    if task.options.kind == "choice":
        letter = extract_answer(task.answer, "choice")
        return Verdict(
            letter is not None and letter in {extract_answer(r, "choice") for r in task.references}, "choice"
        )
    if task.options.kind == "text":
        return Verdict(False, "text", prediction=answer, reference=normals[0] if normals else None)
    value, values = _number(answer), [_number(n) for n in normals]
    if value is not None and all(v is not None for v in values):
        return Verdict(
            value in values, "number", prediction=str(value), reference=str(values[0]) if values else None
        )
    return None


def reply(case: dict[str, Any]) -> dict[str, Any]:
    options = Options(**case["options"])
    task = prepare(case["prediction"], tuple(case["references"]), options)
    on_loading()
    from latex2sympy2_extended import latex2sympy
    from sympy import simplify

    on_loaded()

    def parse(text: str) -> Any:
        return latex2sympy(text.strip().strip("$").rstrip("."))

    answer = parse(task.answer or "")
    correct = False
    for reference in task.references:
        other = parse(reference)
        correct = correct or bool(answer == other) or bool(simplify(answer - other) == 0)
    return {
        "correct": correct,
        "method": "sympy",
        "prediction": str(answer),
        "reference": str(task.references[0]),
    }
