r"""Ways to write the same answer differently. Each takes a reference's LaTeX (no ``$``) and returns other
texts for it.

The rewriting works on text and, for the algebraic kinds, through sympy with latex2sympy2_extended: not
through the
parser of the package under test.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

__all__ = ["rewrites", "to_sympy", "top_level"]

_FRAC = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
_INT_FRAC = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}")
_SQRT = re.compile(r"\\sqrt\{([^{}]*)\}")
_UNICODE = [
    (r"\infty", "∞"), (r"\cup", "∪"), (r"\pi", "π"), (r"\cdot", "·"), (r"\times", "×"), ("-", "−"),
    (r"\geqslant", "≥"),
    (r"\geq", "≥"), (r"\leq", "≤"), (r"^{\circ}", "°"), ("^{2}", "²"), ("^{3}", "³"), ("^2", "²"), (r"\pm",
    "±"),
    (r"\lfloor", "⌊"), (r"\rfloor", "⌋"), (r"\lceil", "⌈"), (r"\rceil", "⌉"),
]  # fmt: skip
_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_SENTENCES = (
    r"So the final answer is \boxed{%s}.",
    r"Therefore, we conclude that the required value is $\boxed{%s}$",
    "The answer is $%s$.",
    r"**Final Answer:** $\boxed{%s}$",
    "We try small cases first.\n\nThe final answer is: $%s$.",
    r"<think>maybe \boxed{17}? no.</think> Hence \[\boxed{%s}\]",
    "#### %s",
    r"Thus \( \boxed{%s} \) is what we want. I hope it is correct.",
    "Answer: %s",
    r"First we get \boxed{n=2} as a check. After correcting this slip, the final answer is \boxed{%s}.",
)


def top_level(text: str, separator: str = ",") -> list[str]:
    """``text`` split at separators outside brackets."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == separator and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


@lru_cache(maxsize=4096)
def to_sympy(text: str) -> Any:
    """The sympy object for a plain expression or number, or None."""
    from latex2sympy2_extended import latex2sympy

    if re.search(r"(?<!\\)[A-Z]|[=,\[\]]|\\cup|\\circ|\\%|where|\\in|\\ge|\\le|\\angle|!", text):
        return None
    try:
        return latex2sympy(text)
    except Exception:  # the grammar raises whatever it likes
        return None


def _whole_number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None


def _number_forms(value: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    yield "integer as decimal", f"{value}.0"
    yield "integer as fraction", rf"\frac{{{value * 3}}}{{3}}"
    yield "prefix", f"{rng.choice(['x', 'N', 'n', 'k', 'S', 'a_1', 'A B'])} = {value}"
    yield "plus sign", f"+{value}" if value >= 0 else f"{value}"
    yield "sum", f"{value - 7}+7"
    yield "full width", str(value).translate({ord(str(d)): chr(0xFF10 + d) for d in range(10)})
    if 0 <= value <= 12:
        yield "word", _WORDS[value]
    if abs(value) >= 1000:
        yield "thousands", f"{value:,}"
        yield "thousands LaTeX", f"{value:,}".replace(",", "{,}")
        yield "thousands thin", f"{value:,}".replace(",", r"\,")
        yield "thousands bang", f"{value:,}".replace(",", r",\!")
    if abs(value) >= 10:
        digits = str(abs(value))
        mantissa = digits[0] + ("." + digits[1:] if digits[1:].strip("0") else "")
        sign = "-" if value < 0 else ""
        yield "scientific", rf"{sign}{mantissa} \times 10^{{{len(digits) - 1}}}"
        yield "scientific e", f"{sign}{mantissa}e{len(digits) - 1}"
    if value > 3:
        import sympy

        factors = sympy.factorint(value)
        yield "factored", r" \cdot ".join(f"{p}^{{{e}}}" if e > 1 else str(p) for p, e in factors.items())
        yield "root of square", rf"\sqrt{{{value * value}}}"
    yield "with noun", rf"{value} \text{{ ways}}"
    yield "with noun after", f"{value} points"


def _fraction_forms(text: str) -> Iterator[tuple[str, str]]:
    match = _INT_FRAC.fullmatch(text)
    if not match:
        return
    sign, p, q = match[1], int(match[2]), int(match[3])
    yield "scaled fraction", rf"{sign}\frac{{{6 * p}}}{{{6 * q}}}"
    yield "slash", f"{sign}{p}/{q}"
    yield "sign inside", rf"\frac{{{sign}{p}}}{{{q}}}"
    yield "negative power", rf"{sign}{p} \cdot {q}^{{-1}}"
    yield "bare digits", rf"{sign}\frac{p}{q}" if p < 10 and q < 10 else f"{sign}{p} / {q}"
    if sign:
        yield "sign below", rf"\frac{{{p}}}{{-{q}}}"
    if p > q and p % q:
        yield "mixed", rf"{sign}{p // q}\frac{{{p % q}}}{{{q}}}"
    value = Fraction(p, q)
    bottom = q // 1
    while bottom % 2 == 0:
        bottom //= 2
    while bottom % 5 == 0:
        bottom //= 5
    if value.denominator == 1 or bottom == 1:
        yield "exact decimal", f"{sign}{float(value):.12g}"
        yield "percent", rf"{sign}{float(value * 100):.12g}\%"
    else:
        yield "rounded decimal", f"{sign}{float(value):.6g}"
        yield "approx", rf"{text} \approx {sign}{float(value):.3g}"


def _textual(text: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    yield "dfrac", text.replace(r"\frac", r"\dfrac")
    yield "tfrac", text.replace(r"\frac", r"\tfrac")
    yield "slash fraction", _FRAC.sub(r"(\1)/(\2)", text)
    yield (
        "left right",
        text.replace("(", r"\left(").replace(")", r"\right)")
        if r"\left" not in text
        else text.replace(r"\left", "").replace(r"\right", ""),
    )
    yield "spaces", re.sub(r"([+=,])", r" \1 ", text)
    yield "thin spaces", re.sub(r"([+=,])", r"\\, \1 \\;", text)
    yield "no spaces", re.sub(r"(?<![a-zA-Z]) +| +(?![a-zA-Z])", "", text)
    yield "full stop", text + "."
    yield "dollars", f"${text}$"
    yield "display", rf"\[ {text} \]"
    yield "displaystyle", rf"\displaystyle {text}"
    yield "braces", re.sub(r"\^(\d)(?!\d)", r"^{\1}", text)
    yield "bold", f"**{text}**" if "*" not in text else text
    changed = text
    for old, new in _UNICODE:
        changed = re.sub(re.escape(old) + (r"(?![a-zA-Z])" if old[-1].isalpha() else ""), new, changed)
    yield "unicode", re.sub(r"√\{(\d+)\}", r"√\1", changed.replace(r"\sqrt{", "√{"))
    yield "text wrapper", rf"\text{{{text}}}" if re.fullmatch(r"[\d.,() -]+", text) else text
    if r"\sqrt{" in text:
        yield "power of a half", _SQRT.sub(r"(\1)^{1/2}", text)
        yield "sqrt bare", re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", text)
        yield "plain sqrt", _SQRT.sub(r" sqrt(\1)", text)
    if re.search(r"\d [a-zA-Z\\]|\d[a-z]", text) and "log" not in text:
        yield "cdot", re.sub(r"(\d) ?(?=[a-zA-Z]|\\sqrt|\\pi)", r"\1 \\cdot ", text)
        yield "star", re.sub(r"(\d) ?(?=[a-zA-Z]|\\sqrt|\\pi)", r"\1*", text)
    if "^{" in text:
        yield "stars", re.sub(r"\^\{([^{}]*)\}", r"**(\1)", text) if r"\circ" not in text else text
    if r"\binom" in text:
        yield (
            "factorials",
            re.sub(r"\\binom\{([^{}]*)\}\{([^{}]*)\}", r"\\frac{(\1)!}{(\2)!((\1)-(\2))!}", text),
        )
    if r"\log _{10}" in text:
        yield "log quotient", re.sub(r"\\log _\{10\} (\w+)", r"\\frac{\\ln \1}{\\ln 10}", text)
    yield "boxed twice", rf"\boxed{{{text}}}"


def _algebraic(text: str) -> Iterator[tuple[str, str]]:
    import sympy

    prefix, _, body = text.rpartition("=")
    expression = to_sympy(body.strip())
    if expression is None or not isinstance(expression, sympy.Expr) or expression.is_Integer:
        return
    head = f"{prefix}= " if prefix else ""
    forms: list[tuple[str, Callable[[Any], Any]]] = [
        ("expanded", sympy.expand), ("factored", sympy.factor), ("together", sympy.together), ("simplified",
        sympy.simplify),
        ("nsimplified", lambda e: e), ("half and double", lambda e: sympy.Mul(2, e / 2, evaluate=False)),
        ("plus one minus one", lambda e: sympy.Add(e + 1, -1, evaluate=False)),
        ("apart", lambda e: sympy.apart(e) if len(e.free_symbols) == 1 else sympy.expand(e)),
    ]  # fmt: skip
    for name, change in forms:
        try:
            changed = change(expression)
            yield f"sympy {name}", head + sympy.latex(changed)
            yield f"python {name}", head + str(changed)
            yield (
                f"sympy {name} folded",
                head + sympy.latex(changed, fold_short_frac=True, mul_symbol="times"),
            )
        except Exception:  # some forms don't exist for some expressions
            continue
    if prefix:
        yield "prefix dropped", body.strip()
    elif expression.free_symbols:
        yield "prefix added", f"f({min(map(str, expression.free_symbols))}) = {text}"
    if not expression.free_symbols and expression.is_real:
        try:
            digits = sympy.N(expression, 30)
            if 1e-3 < abs(digits) < 1e6 and not expression.is_Integer:
                yield "six digits", f"{float(digits):.6f}" if abs(digits) > 0.1 else f"{float(digits):.6g}"
                yield "approx given", rf"{text} \approx {float(digits):.2f}"
        except (TypeError, ValueError):
            return


def _several(text: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    parts = [p.strip("$ ") for p in top_level(text)]
    if len(parts) < 2 or any(not p for p in parts) or "where" in text:
        return
    for _ in range(2):
        shuffled = parts[:]
        rng.shuffle(shuffled)
        yield "reordered", ", ".join(shuffled)
    yield "and", ", ".join(parts[:-1]) + " and " + parts[-1]
    yield "text and", ", ".join(parts[:-1]) + r" \text{ and } " + parts[-1]
    yield "or", r" \text{ or } ".join(parts)
    yield "semicolons", "; ".join(parts)
    yield "each in dollars", ", ".join(f"${p}$" for p in parts)
    if not any("(" in p or "=" in p for p in parts) and len(set(parts)) == len(parts):
        yield "set", r"\{" + ", ".join(parts) + r"\}"
        if "x" not in text:
            yield "named", ", ".join(f"x = {p}" for p in parts)
            yield "indexed", ", ".join(f"x_{i} = {p}" for i, p in enumerate(parts, 1))
    yield "separate boxes", r"\boxed{" + r"}, \boxed{".join(parts) + "}"
    if len(parts) == 2 and parts[0] == "-" + parts[1]:
        yield "plus minus", rf"\pm {parts[1]}"
    if len(parts) == 2 and parts[1] == "-" + parts[0]:
        yield "plus minus", rf"\pm {parts[0]}"


def _interval(text: str) -> Iterator[tuple[str, str]]:
    match = re.fullmatch(r"([\[(])(.+),(.+)([\])])", text)
    if not match or r"\cup" in text:
        if r"\cup" in text:
            yield "union reversed", r"\cup".join(reversed(text.rstrip(".").split(r"\cup")))
            yield "in", rf"x \in {text}"
        return
    low, high = match[2].strip(), match[3].strip()
    left, right = ("<" if match[1] == "(" else r"\le"), ("<" if match[4] == ")" else r"\leq")
    if r"\infty" in low:
        yield "inequality", f"x {right} {high}"
    elif r"\infty" in high:
        yield "inequality", f"{low} {left} x"
    else:
        yield "inequality", f"{low} {left} x {right} {high}"
    yield "in", rf"t \in {text}"


def rewrites(text: str, answer_type: str, unit: str | None, rng: random.Random) -> list[tuple[str, str]]:
    """(kind, rewritten text) pairs; all mean what ``text`` means."""
    text = text.strip()
    found: list[tuple[str, str]] = []
    if (value := _whole_number(text)) is not None:
        found += _number_forms(value, rng)
    found += _fraction_forms(text)
    found += _textual(text, rng)
    if answer_type in ("Numerical", "Expression") and len(top_level(text)) == 1:
        found += _algebraic(text)
    if answer_type == "Interval":
        found += _interval(text)
    found += _several(text, rng)
    if text.endswith(r"^{\circ}"):
        found += [
            ("degree word", text[: -len(r"^{\circ}")] + " degrees"),
            ("degree dropped", text[: -len(r"^{\circ}")]),
        ]
        found.append(("degree unicode", text[: -len(r"^{\circ}")] + "°"))
    if text.endswith("%"):
        found += [
            ("percent word", text.rstrip("%\\ ") + " percent"),
            ("percent dropped", text.rstrip("%\\ ")),
        ]
    if unit and unit.isalpha():
        found += [
            ("unit in", f"{text} {unit}"),
            ("unit text", rf"{text} \text{{ {unit}}}"),
            ("unit mathrm", rf"{text}\,\mathrm{{{unit}}}"),
        ]
    found = [(kind, new) for kind, new in found if new and new != text]
    wrapped = [("sentence: " + s.split("%s")[0][:20].strip(), s % text) for s in _SENTENCES]
    both = []
    for kind, new in rng.sample(found, min(6, len(found))):
        if r"\boxed" not in new and "$" not in new and r"\[" not in new and "**" not in new:
            both.append((kind + " in a sentence", rng.choice(_SENTENCES) % new))
    return found + wrapped + both
