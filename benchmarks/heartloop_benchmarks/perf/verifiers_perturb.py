"""Ways to get an answer wrong by a little. Each result is checked to differ, by other means than the
package under test."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from .verifiers_rewrites import to_sympy, top_level

__all__ = ["perturbations"]

_NUMBER = re.compile(r"(?<![\d.])\d+(?![\d.])")
_DIGITS = re.compile(r"\d{2,}")
_FRAC = re.compile(r"\\frac\{([^{}]+)\}\{([^{}]+)\}")


def _replaced(text: str, match: re.Match[str], new: str) -> str:
    return text[: match.start()] + new + text[match.end() :]


def _candidates(
    text: str, answer_type: str, unit: str | None, rng: random.Random
) -> Iterator[tuple[str, str]]:
    numbers = list(_NUMBER.finditer(text))
    for match in rng.sample(numbers, min(3, len(numbers))):
        value = int(match.group())
        yield "off by one", _replaced(text, match, str(value + 1))
        if value > 1:
            yield "one less", _replaced(text, match, str(value - 1))
        yield "times ten", _replaced(text, match, str(value * 10))
        yield "times hundred", _replaced(text, match, str(value * 100))
        if value and "^" not in text:
            yield "negated inside", _replaced(text, match, f"(-{value})")
    for match in _DIGITS.finditer(text):
        digits = match.group()
        at = rng.randrange(len(digits) - 1)
        swapped = digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]
        if swapped != digits and swapped[0] != "0":
            yield "swapped digits", _replaced(text, match, swapped)
        yield "digit dropped", _replaced(text, match, digits[:-1])
        yield "digit added", _replaced(text, match, digits + "3")
        break
    if "=" not in text and len(top_level(text)) == 1 and text[0] not in "([" and text[-1] not in "])":
        yield (
            "sign",
            text[1:]
            if text.startswith("-")
            else f"-({text})"
            if "+" in text or "-" in text[1:]
            else f"-{text}",
        )
        yield "divided by hundred", rf"\frac{{{text}}}{{100}}"
        yield "plus one", f"{text}+1"
        yield "squared", f"({text})^2"
        yield "doubled", rf"2 \cdot ({text})"
    if (match2 := _FRAC.search(text)) is not None:
        yield "swapped fraction", _replaced(text, match2, rf"\frac{{{match2[2]}}}{{{match2[1]}}}")
        yield "numerator only", _replaced(text, match2, match2[1])
    if r"\sqrt" in text:
        yield "root dropped", text.replace(r"\sqrt", "", 1)
        yield "cube root", text.replace(r"\sqrt{", r"\sqrt[3]{", 1)
    if "+" in text:
        yield "plus to minus", text.replace("+", "-", 1)
        yield "term dropped", re.sub(r"\+[^+,)}\]]*$", "", text)
    if re.search(r"(?<=[\w})])-", text):
        yield "minus to plus", re.sub(r"(?<=[\w})])-", "+", text, count=1)
    exponent = re.search(r"\^\{?(\d+)\}?", text)
    if exponent:
        yield "exponent", _replaced(text, exponent, f"^{{{int(exponent[1]) + 1}}}")
        yield "exponent dropped", _replaced(text, exponent, "")
    for old, new in (
        (r"\lfloor", r"\lceil"),
        (r"\log", r"\ln"),
        (r"\sin", r"\cos"),
        (r"\pi", "e"),
        (r"\pi", "3"),
        ("!", ""),
    ):
        if old in text and not (old == r"\log" and "_" in text):
            changed = (
                text.replace(old, new).replace(r"\rfloor", r"\rceil")
                if "floor" in old
                else text.replace(old, new)
            )
            yield f"{old} to {new}", changed
    letter = re.search(r"(?<![\\a-zA-Z])[nkmxp](?![a-zA-Z(])", text.rpartition("=")[2])
    if letter and "=" not in text:
        yield "other variable", re.sub(rf"(?<![\\a-zA-Z]){letter.group()}(?![a-zA-Z])", "q", text)
        yield (
            "shifted",
            re.sub(rf"(?<![\\a-zA-Z]){letter.group()}(?![a-zA-Z])", f"({letter.group()}+1)", text),
        )
    parts = [p.strip("$ ") for p in top_level(text)]
    if len(parts) > 1 and all(parts):
        yield "element dropped", ", ".join(parts[:-1])
        yield "first dropped", ", ".join(parts[1:])
        yield "element added", ", ".join([*parts, "1729"])
    if answer_type == "Interval" and text[0] in "([":
        yield "opened or closed", ("[" if text[0] == "(" else "(") + text[1:]
        end = text.rstrip(".")
        if end[-1] in ")]":
            yield "end opened or closed", end[:-1] + ("]" if end[-1] == ")" else ")")
        yield "union to intersection", text.replace(r"\cup", r"\cap")
        yield "infinity sign", text.replace(r"-\infty", r"\infty") if r"-\infty" in text else text
    if answer_type == "Tuple" and len(parts) == 1 and text[0] == "(" and text[-1] == ")":
        inner = top_level(text[1:-1])
        if len(inner) > 1:
            yield "entries swapped", "(" + ", ".join([inner[1], inner[0], *inner[2:]]) + ")"
            yield "entry dropped", "(" + ", ".join(inner[:-1]) + ")" if len(inner) > 2 else inner[0]
            yield "entry added", "(" + ", ".join([*inner, "0"]) + ")"
    expression = to_sympy(text)
    if expression is not None and not getattr(expression, "free_symbols", True):
        try:
            value_ = float(expression)
        except (TypeError, ValueError, OverflowError):
            value_ = 0.0
        if 1e-3 < abs(value_) < 1e7:
            yield "near miss", f"{value_ * 1.001:.6g}"
            yield "nearer miss", f"{value_ * (1 + 3e-5):.8g}"
            if abs(float(f"{value_:.2g}") / value_ - 1) > 1e-9:
                yield "two digits", f"{value_:.2g}"
            yield "tenth", f"{value_ / 10:.9g}"
    if unit in ("km", "minutes", "minute", "min", "km/h"):
        other = {"km": "m", "km/h": "m/h"}.get(unit, "hours")
        yield "wrong unit", rf"{text} \text{{ {other}}}"


def _numeric(expression: Any) -> complex | None:
    try:
        return complex(expression.evalf(30))
    except (TypeError, ValueError, AttributeError):
        return None


def _really_differs(text: str, changed: str) -> bool:
    """By sympy where it parses both; where it does not, the edits above change the meaning as they stand."""
    first, second = to_sympy(text), to_sympy(changed)
    if first is None or second is None:
        return True
    try:
        if first == second:
            return False
        names = sorted(
            getattr(first, "free_symbols", set()) | getattr(second, "free_symbols", set()), key=str
        )
        for start in (7, 13):
            values = {name: start + 3 * i for i, name in enumerate(names)}
            x, y = _numeric(first.subs(values)), _numeric(second.subs(values))
            if x is None or y is None:
                return True
            if abs(x - y) > 1e-12 * max(abs(x), abs(y)):
                return True
        return False
    except Exception:  # sympy on strange input
        return True


def _same_items(text: str, changed: str) -> bool:
    def items(t: str) -> list[str]:
        return sorted(re.sub(r"[\s$]", "", p) for p in top_level(t))

    return items(text) == items(changed)


def perturbations(text: str, answer_type: str, unit: str | None, rng: random.Random) -> list[tuple[str, str]]:
    """(kind, wrong text) pairs."""
    text = text.strip().rstrip(".")
    seen: set[str] = set()
    found: list[tuple[str, str]] = []
    for kind, changed in _candidates(text, answer_type, unit, rng):
        if changed in seen or changed == text or _same_items(text, changed) or not changed.strip():
            continue
        seen.add(changed)
        if _really_differs(text, changed):
            found.append((kind, changed))
    return found
