"""Are two single values equal? Exactly where possible; else the worker's numerics decide."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from .exact import NotExact, Surd, Undefined, Value, approximation, evaluate, needs_integers, symbols
from .parser import Node, loose

__all__ = [
    "Context",
    "NeedsWorker",
    "Numeric",
    "OutOfReach",
    "Unsupported",
    "approximate",
    "as_decimal",
    "constant_ratio",
    "same_value",
]


class NeedsWorker(Exception):
    """This process does not take it on; a worker does."""


class Unsupported(Exception):
    """Not even numerics can evaluate it."""


class OutOfReach(Unsupported):
    """A value too large to be evaluated; says what."""


class Numeric(Protocol):
    """High-precision evaluation, present in workers only (:mod:`.numeric`)."""

    def equal(self, a: Node, b: Node) -> bool: ...
    def ratio(self, a: Node, b: Node) -> float | None: ...
    def approximate(self, a: Node) -> Fraction | None: ...


@dataclass(slots=True)
class Context:
    """What a comparison needs to know. ``tolerance`` is absolute."""

    significant: int = 4
    tolerance: Fraction | None = None
    unit: tuple[str, Fraction] | None = None
    numeric: Numeric | None = None
    method: str = "exact"

    def worker(self) -> Numeric:
        if self.numeric is None:
            raise NeedsWorker
        self.method = "numeric"
        return self.numeric


_RANDOM = random.Random(20250924)
_GENERIC = [[_RANDOM.choice((-1, 1)) * _RANDOM.randint(2, 997) for _ in range(40)] for _ in range(8)]
_POSITIVE = [[_RANDOM.randint(2, 41) for _ in range(40)] for _ in range(10)]
_PI = Fraction(31415926535897932384626433832795028841971693993751058209749445923078164, 10**70)
_CONSTS = ("const:pi", "const:e", "const:i", "const:inf")


def environments(names: Sequence[str], integers: bool) -> list[dict[str, Value]]:
    """Points to compare at: scattered integers, positive and partly consecutive where only those make
    sense."""
    if len(names) > 40:  # a long sum: the same numbers, shifted
        base = _POSITIVE if integers else _GENERIC
        return [{n: row[i % 40] + 7 * (i // 40) for i, n in enumerate(names)} for row in base[:3]]
    if not integers:
        return [dict(zip(names, row, strict=False)) for row in _GENERIC]
    points: list[dict[str, Value]] = [dict(zip(names, row, strict=False)) for row in _POSITIVE]
    if len(names) == 1:  # residues matter to floor and its kin
        points[:0] = [{names[0]: n} for n in range(12, 25)]
    elif len(names) == 2:  # where one must not exceed the other, as in binomials
        points += [{names[0]: 20 + i, names[1]: 3 + i % 5} for i in range(4)]
        points += [{names[1]: 20 + i, names[0]: 3 + i % 5} for i in range(4)]
    return points


def closed(node: Node) -> bool:
    """No variables."""
    return all(name in _CONSTS for name in symbols(node))


def exact_constant(node: Node) -> Value | None:
    """The exact value, pi excluded; None where there is none."""
    try:
        return evaluate(node, {})
    except (NotExact, Undefined):
        return None


def as_decimal(node: Node) -> tuple[Fraction, Fraction, int] | None:
    """(value, size of the last place, significant digits) where ``node`` is one decimal numeral, maybe
    scaled by 10^k."""
    op = node[0]
    if op == "dec":
        return Fraction(node[1]), node[2], node[3]
    if op == "neg":
        inner = as_decimal(node[1])
        return inner and (-inner[0], inner[1], inner[2])
    if op == "percent":
        inner = as_decimal(node[1])
        return inner and (inner[0] / 100, inner[1] / 100, inner[2])
    if op == "mul" and len(node[1]) == 2 and node[1][1][0] == "pow" and node[1][1][1] == ("num", 10):
        inner = as_decimal(node[1][0])
        exponent = exact_constant(node[1][1][2])
        if inner is not None and isinstance(exponent, int) and abs(exponent) < 5000:
            scale = Fraction(10) ** exponent
            return inner[0] * scale, inner[1] * scale, inner[2]
    return None


def _integer_literal(node: Node) -> bool:
    return (node[0] == "num" and isinstance(node[1], int)) or (node[0] == "neg" and _integer_literal(node[1]))


def approximate(node: Node, ctx: Context) -> Fraction | None:
    """A rational very near to a constant's real value; None if it is not real."""
    try:
        return approximation(evaluate(node, {"pi": _PI}), 60)
    except Undefined:
        return None
    except NotExact:
        return ctx.worker().approximate(node)


def same_value(a: Node, b: Node, ctx: Context) -> bool:
    """Is the value ``a`` (predicted) the value ``b`` (reference)?"""
    if a == b:
        return True
    if a[0] == "quantity" or b[0] == "quantity":
        return _same_quantity(a, b, ctx)
    if a[0] in ("percent", "degree") or b[0] in ("percent", "degree"):
        return _same_marked(a, b, ctx)
    if a[0] == "based" or b[0] == "based":
        if a[0] == b[0]:
            return a[1:] == b[1:]
        based, plain = (a, b) if a[0] == "based" else (b, a)
        return plain == ("num", based[2]) or _same_plain(a, b, ctx)
    if a[0] == "modulo" or b[0] == "modulo":
        return _same_residue(a, b, ctx)
    return _same_plain(a, b, ctx)


def _same_residue(a: Node, b: Node, ctx: Context) -> bool:
    """``7 (mod 5)`` and ``2 (mod 5)``; against a bare number, the number itself."""
    if a[0] == b[0]:
        x, y, m, n = (exact_constant(part) for part in (a[1], b[1], a[2], b[2]))
        if isinstance(x, int) and isinstance(y, int) and isinstance(m, int) and m == n and m:
            return (x - y) % m == 0
        return same_value(a[1], b[1], ctx) and same_value(a[2], b[2], ctx)
    return same_value(a[1] if a[0] == "modulo" else a, b[1] if b[0] == "modulo" else b, ctx)


def _same_quantity(a: Node, b: Node, ctx: Context) -> bool:
    if a[0] != "quantity":
        other = loose(a)
        if other is not None:
            return _same_quantity(other, b, ctx) or (same_value(a, b[1], ctx))
        a_value, a_unit = a, None
    else:
        a_value, a_unit = a[1], a[2]
    if b[0] != "quantity":
        other = loose(b)
        if other is not None:
            return _same_quantity(a, other, ctx) or (same_value(a_value, b, ctx))
        b_value, b_unit = b, ctx.unit
    else:
        b_value, b_unit = b[1], b[2]
    if a_unit is None:
        a_unit = ctx.unit if ctx.unit and b_unit and ctx.unit[0] == b_unit[0] else b_unit
    if a_unit is None or b_unit is None or a_unit == b_unit:
        return same_value(a_value, b_value, ctx)
    if a_unit[0] != b_unit[0]:
        counted = not (
            _measures(a_unit) and _measures(b_unit)
        )  # "12 apples" and "12 pieces", "5 square units"
        return counted and same_value(a_value, b_value, ctx)
    return same_value(("mul", (a_value, ("num", a_unit[1] / b_unit[1]))), b_value, ctx) or _scaled_decimal(
        a_value, b_value, a_unit[1] / b_unit[1], ctx
    )


def _measures(unit: tuple[str, Fraction]) -> bool:
    from .units import find_unit

    return (
        unit[1] != 1
        or unit[0] in _DIMENSIONS
        or find_unit(unit[0]) is not None
        or "/" in unit[0]
        or "^" in unit[0]
    )


_DIMENSIONS = frozenset(
    [
        "length",
        "time",
        "month",
        "mass",
        "volume",
        "speed",
        "angle",
        "degree",
        "money",
        "euro",
        "quid",
        "force",
        "energy",
        "power",
        "voltage",
        "current",
        "frequency",
        "pressure",
        "temperature",
    ]
)


def _scaled_decimal(a: Node, b: Node, factor: Fraction, ctx: Context) -> bool:
    decimal = as_decimal(a)
    if decimal is None:
        return False
    value, ulp, digits = decimal
    return same_value(("dec", value * factor, ulp * factor, digits), b, ctx)


def _same_marked(a: Node, b: Node, ctx: Context) -> bool:
    """Percent and degree signs: equal values, or the same number with the sign on one side only."""
    if a[0] == b[0]:
        return same_value(a[1], b[1], ctx)
    if {a[0], b[0]} == {"percent", "degree"}:
        return False
    marked, plain = (a, b) if a[0] in ("percent", "degree") else (b, a)
    inner = (marked[1], plain) if marked is a else (plain, marked[1])
    if same_value(inner[0], inner[1], ctx):
        return True
    if marked[0] == "degree" and "const:pi" not in symbols(plain):
        return False
    scaled: Node = (
        ("mul", (marked[1], ("div", ("const", "pi"), ("num", 180)))) if marked[0] == "degree" else marked
    )
    decimal = as_decimal(marked) if marked[0] == "percent" else None
    if decimal is not None:
        scaled = ("dec", *decimal)
    elif marked[0] == "percent":
        scaled = ("div", marked[1], ("num", 100))
    return _same_plain(scaled, plain, ctx) if marked is a else _same_plain(plain, scaled, ctx)


def _same_plain(a: Node, b: Node, ctx: Context) -> bool:
    names = symbols(a)
    names_b = symbols(b)
    if "const:inf" in names or "const:inf" in names_b:
        return _signed_infinity(a) is not None and _signed_infinity(a) == _signed_infinity(b)
    free = sorted(n for n in names | names_b if not n.startswith("const:"))
    if free:
        different = {n for n in names ^ names_b if not n.startswith("const:")}
        # terms that cancel aside, different variables are different expressions
        if different and not _may_cancel(a) and not _may_cancel(b):
            return False
        return _same_function(a, b, free, ctx)
    decided = _same_constant_exactly(a, b, names | names_b)
    if decided is not None and (
        decided or (ctx.tolerance is None and not _has_decimal(a) and not _has_decimal(b))
    ):
        return decided
    if decided is None and not _has_decimal(a) and not _has_decimal(b) and ctx.tolerance is None:
        return ctx.worker().equal(a, b)
    return _same_rounded(a, b, ctx) or (decided is None and ctx.worker().equal(a, b))


def _may_cancel(node: Node) -> bool:
    return node[0] in ("div", "add", "pow", "mul", "neg", "fn")


def _signed_infinity(node: Node) -> int | None:
    if node == ("const", "inf"):
        return 1
    if node == ("neg", ("const", "inf")):
        return -1
    return None


def _same_constant_exactly(a: Node, b: Node, names: set[str]) -> bool | None:
    try:
        if not names:
            return evaluate(a, {}) == evaluate(b, {})
        if names == {"const:pi"}:  # transcendental: equal only if equal as functions of it
            return _agree(a, b, [{"pi": Fraction(p, 7)} for p in (23, 29, 41)]) is True
    except NotExact:
        return None
    except Undefined:
        return False
    return None


def _agree(a: Node, b: Node, points: Sequence[dict[str, Value]]) -> bool | None:
    """Equal at every point where both are defined; None if that is nowhere. Raises NotExact."""
    seen = 0
    for env in points:
        try:
            x: Value | None = evaluate(a, env)
        except Undefined:
            x = None
        try:
            y: Value | None = evaluate(b, env)
        except Undefined:
            y = None
        if x is None or y is None:
            continue
        if x != y:
            return False
        seen += 1
    return True if seen >= min(3, len(points)) else None


def _same_function(a: Node, b: Node, free: list[str], ctx: Context) -> bool:
    integers = needs_integers(a) or needs_integers(b)
    points = environments(free, integers)
    agreed = 0
    unknown = False
    for env in points:
        try:
            if evaluate(a, env) != evaluate(b, env):
                return False
            agreed += 1
        except Undefined:
            continue
        except NotExact:
            unknown = True
            if agreed == 0:
                break
    if agreed >= 3 and (not unknown or integers):
        return True
    return ctx.worker().equal(a, b)


def _has_decimal(node: Node) -> bool:
    if node[0] == "dec":
        return True
    return node[0] in ("neg", "mul", "percent") and as_decimal(node) is not None


def _same_rounded(a: Node, b: Node, ctx: Context) -> bool:
    """A decimal that shows enough digits counts for the value it is a rounding of; ``tolerance`` likewise."""
    first, second = as_decimal(a), as_decimal(b)
    x = first[0] if first else approximate(a, ctx)
    y = second[0] if second else approximate(b, ctx)
    if x is None or y is None:
        return False
    if ctx.tolerance is not None and abs(x - y) <= ctx.tolerance * Fraction(101, 100):
        return True
    if first is not None and second is not None:
        coarse = first if first[1] >= second[1] else second
        return coarse[2] >= ctx.significant and abs(x - y) <= coarse[1] / 2
    rounded, exact = (first, b) if first is not None else (second, a)
    if rounded is None or rounded[2] < ctx.significant:
        return False
    if _integer_literal(exact) and rounded[1] > Fraction(1, 10):
        return False  # an integer is not rounded to tens of thousands
    return abs(x - y) <= rounded[1] / 2


def constant_ratio(a: Node, b: Node, ctx: Context) -> Value | float | None:
    """The constant c with a = c·b everywhere, or None if there is none (or it is 0)."""
    free = sorted(n for n in symbols(a) | symbols(b) if not n.startswith("const:"))
    integers = needs_integers(a) or needs_integers(b)
    ratio: Value | None = None
    agreed = 0
    try:
        for env in environments(free, integers):
            x, y = evaluate(a, env), evaluate(b, env)
            if isinstance(x, Surd) or isinstance(y, Surd):
                raise NotExact
            if (x == 0) != (y == 0):
                return None
            if y == 0:
                continue
            here = Fraction(x) / y
            if ratio is not None and here != ratio:
                return None
            ratio = here
            agreed += 1
    except Undefined:
        pass
    except NotExact:
        return ctx.worker().ratio(a, b)
    if agreed >= 3:
        return ratio
    return ctx.worker().ratio(a, b)
