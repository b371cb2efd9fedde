"""High-precision evaluation with mpmath; runs in workers only.

Two constants count as equal when they agree to three quarters of the digits at 60 digits and still do at
150: no pair of different answers that fits into a box comes that near by accident. Functions are compared
at scattered
points, which a nonzero difference of analytic functions does not survive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mp, mpc, mpf

from .exact import NotExact, Undefined, evaluate, needs_integers, symbols
from .leaves import OutOfReach, Unsupported, environments
from .parser import Node

__all__ = ["Numerics"]

_LOW, _HIGH = 60, 150
_HUGE = mpf(10) ** 9


class Numerics:
    """Implements :class:`.leaves.Numeric`."""

    def equal(self, a: Node, b: Node) -> bool:
        free = sorted(n for n in symbols(a) | symbols(b) if not n.startswith("const:"))
        if not free:
            try:
                return self._equal_at(a, b, {})
            except OutOfReach:
                return _same_logarithm(a, b)
        integers = needs_integers(a) or needs_integers(b) or _alternates(a) or _alternates(b)
        agreed = 0
        for index, env in enumerate(self._points(free, integers)):
            try:
                with mp.workdps(_LOW):
                    x, y = _value(a, env), _value(b, env)
                if (x.imag == 0) != (y.imag == 0) and index >= 4:
                    continue  # one side leaves its real domain here: conventions on branches differ
                if x.imag != 0 and y.imag != 0 and index >= 4:
                    continue
            except (Undefined, ZeroDivisionError):
                continue
            # full precision at the first points; the others only have to agree to 45 digits
            if not (agreed >= 3 and _near(x, y, _LOW)) and not self._equal_at(a, b, env):
                return False
            agreed += 1
        if agreed < 3:
            raise Unsupported("no points where both sides are defined")
        return True

    def ratio(self, a: Node, b: Node) -> float | None:
        free = sorted(n for n in symbols(a) | symbols(b) if not n.startswith("const:"))
        integers = needs_integers(a) or needs_integers(b) or _alternates(a) or _alternates(b)
        found: Any = None
        agreed = 0
        for env in self._points(free, integers):
            try:
                with mp.workdps(_HIGH):
                    x, y = _value(a, env), _value(b, env)
                    tiny = mpf(10) ** -100
                    if abs(x) < tiny or abs(y) < tiny:
                        if (abs(x) < tiny) != (abs(y) < tiny):
                            return None
                        continue
                    here = x / y
                    if found is not None and abs(here - found) > abs(found) * mpf(10) ** -90:
                        return None
                    found = here
                    agreed += 1
            except (Undefined, ZeroDivisionError):
                continue
        if agreed < 3 or found is None or abs(found.imag) > 1e-30:
            return None
        return float(found.real)

    def approximate(self, a: Node) -> Fraction | None:
        with mp.workdps(_LOW):
            try:
                value = _value(a, {})
            except (Undefined, ZeroDivisionError):
                return None
            if abs(value.imag) > abs(value) * mpf(10) ** -40:
                return None
            return _fraction(value.real)

    def _points(self, free: list[str], integers: bool) -> list[dict[str, Any]]:
        """Positive points first, then points of either sign; off the integers unless only they make sense."""
        points = environments(free, integers)
        if integers:
            return list(points[:12])
        shifts = (mpf("0.317"), mpf("-0.271"), mpf("0.193"))
        positive = [
            {n: abs(_mpf(v)) / (7 + 40 * j) + shifts[j % 3] / 9 for n, v in env.items()}
            for j, env in enumerate(points[:4])
        ]
        mixed = [
            {n: _mpf(v) / 53 + shifts[j % 3] for n, v in env.items()} for j, env in enumerate(points[4:])
        ]
        return positive + mixed

    def _nothing_lost(self, a: Node, b: Node, env: Mapping[str, Any]) -> bool:
        """Equal to many digits: also with enough digits to see the smallest term beside the largest?"""
        digits = 0 if not _span else int((max(_span) - min(_span)) * 0.302) + 60
        if digits <= _HIGH * 3 // 4:
            return True
        if digits > 30_000:
            raise OutOfReach("terms too far apart in size")
        with mp.workdps(digits + 60):
            return _near(_value(a, env), _value(b, env), (digits + 60) * 4 // 3 - 80)

    def _equal_at(self, a: Node, b: Node, env: Mapping[str, Any]) -> bool:
        try:
            with mp.workdps(_LOW):
                x, y = _value(a, env), _value(b, env)
                larger = max(abs(x), abs(y))
                # far apart, unless both are mere noise around zero
                if abs(x - y) > larger * mpf(10) ** -12 and larger > mpf(10) ** -30:
                    return False
            with mp.workdps(_HIGH):
                _span.clear()
                x2, y2 = _value(a, env), _value(b, env)
                if _near(x2, y2, _HIGH):
                    return self._nothing_lost(a, b, env)
                noise = mpf(10) ** -(_HIGH * 2 // 3)
                if abs(x2) < noise and abs(y2) < noise:
                    # zero on both sides shrinks as the precision grows; a tiny number does not
                    with mp.workdps(2 * _HIGH):
                        x3, y3 = _value(a, env), _value(b, env)
                        floor = mpf(10) ** -_HIGH
                        return _near(x3, y3, 2 * _HIGH) or (
                            abs(x3) < abs(x2) * floor + mpf(10) ** -(2 * _HIGH - 30)
                            and abs(y3) < abs(y2) * floor + mpf(10) ** -(2 * _HIGH - 30)
                            and not (_solid(x2, x3) or _solid(y2, y3))
                        )
                return False
        except (Undefined, ZeroDivisionError):
            return False


# binary magnitudes of the terms of sums in the evaluation under way: how much a sum may have swallowed
_span: list[int] = []


def _same_logarithm(a: Node, b: Node) -> bool:
    """Towers of powers by their logarithms. Sums don't get here, so equal logarithms mean equal numbers."""
    with mp.workdps(_HIGH):
        (sign_a, log_a), (sign_b, log_b) = _logarithm(a), _logarithm(b)
        return sign_a == sign_b and _near(log_a, log_b, _HIGH)


def _logarithm(node: Node) -> tuple[int, Any]:
    """(sign, logarithm of the absolute value) of a product of powers."""
    op = node[0]
    if op == "neg":
        sign, value = _logarithm(node[1])
        return -sign, value
    if op == "mul":
        parts = [_logarithm(part) for part in node[1]]
        return 1 if sum(s < 0 for s, _ in parts) % 2 == 0 else -1, mpmath.fsum([v for _, v in parts])
    if op == "div":
        (sign, top), (other, bottom) = _logarithm(node[1]), _logarithm(node[2])
        return sign * other, top - bottom
    if op == "pow":
        sign, base = _logarithm(node[1])
        if sign < 0:
            raise OutOfReach("a power of a negative number out of reach")
        return 1, base * _value(node[2], {}).real
    if op == "fn" and node[1] == "factorial":
        return 1, mpmath.loggamma(_value(node[2][0], {}).real + 1)
    value = _value(node, {}).real
    if value == 0:
        raise OutOfReach("zero beside a number out of reach")
    return (1 if value > 0 else -1), mpmath.log(abs(value))


def _mpf(value: Any) -> Any:
    return mpf(int(value))


def _solid(before: Any, after: Any) -> bool:
    """A number that higher precision leaves as it was: tiny, but not zero."""
    return bool(before != 0 and abs(after - before) <= abs(before) * mpf("1e-3"))


def _near(x: Any, y: Any, digits: int) -> bool:
    return bool(abs(x - y) <= max(abs(x), abs(y)) * mpf(10) ** -(digits * 3 // 4))


def _fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = mpf(value)._mpf_
    if abs(exponent) > 100_000:
        raise OutOfReach("a number out of reach")
    result = Fraction(int(mantissa)) * (Fraction(2) ** int(exponent))
    return -result if sign else result


def _alternates(node: Node) -> bool:
    """``(-1)^n``: defined at integers only."""
    if node[0] == "pow" and symbols(node[2]) and node[1][0] == "neg":
        return True
    return any(
        isinstance(part, tuple)
        and part
        and (
            _alternates(part)
            if isinstance(part[0], str)
            else any(isinstance(inner, tuple) and inner and _alternates(inner) for inner in part)
        )
        for part in node[1:]
    )


def _integer(value: Any) -> int:
    nearest = int(mpmath.nint(value.real))
    if abs(value - nearest) > mpf(10) ** -20:
        raise Unsupported("an integer is needed")
    return nearest


def _power(base: Any, exponent: Any) -> Any:
    if base == 0:
        if exponent.real <= 0:
            if exponent == 0:
                return mpc(1)
            raise Undefined
        return mpc(0)
    if abs(exponent) > _HUGE or abs(mpmath.log(abs(base)) * exponent) > mpf(10) ** 12:
        raise OutOfReach("a power out of reach")
    if (
        base.imag == 0
        and exponent.imag == 0
        and base.real < 0
        and exponent.real != mpmath.nint(exponent.real)
    ):
        # an odd root of a negative number is meant as the real one
        for q in (3, 5, 7, 9):
            p = exponent.real * q
            if abs(p - mpmath.nint(p)) < mpf(10) ** -(mp.dps - 10):
                root = -mpmath.power(-base.real, mpf(1) / q)
                return mpc(mpmath.power(root, int(mpmath.nint(p))))
    if exponent.imag == 0 and exponent.real == mpmath.nint(exponent.real):
        return mpc(mpmath.power(base if base.imag else base.real, int(exponent.real)))
    return mpc(mpmath.power(base if base.imag else base.real, exponent if exponent.imag else exponent.real))


def _log(value: Any, *base: Any) -> Any:
    if value == 0:
        raise Undefined
    top = mpmath.log(value if value.imag else value.real)
    if not base:
        return mpc(top)
    bottom = mpmath.log(base[0])
    if bottom == 0:
        raise Undefined
    return mpc(top / bottom)


def _root(value: Any, index: Any) -> Any:
    n = _integer(index)
    if n < 1 or n > 10_000:
        raise Unsupported("a root out of reach")
    if value.imag == 0 and value.real < 0 and n % 2:
        return mpc(-mpmath.root(-value.real, n))
    return mpc(mpmath.root(value if value.imag else value.real, n))


def _factorial(value: Any) -> Any:
    if abs(value) > 10**7:
        raise OutOfReach("a factorial out of reach")
    return mpc(mpmath.factorial(value.real))


def _binomial(n: Any, k: Any) -> Any:
    if abs(n) > 10**7 or abs(k) > 10**7:
        raise OutOfReach("a binomial out of reach")
    return mpc(mpmath.binomial(n.real, k.real))


def _floor(value: Any) -> Any:
    if value.imag != 0:
        raise Undefined
    nearest = mpmath.nint(value.real)
    if value.real != nearest and abs(value.real - nearest) < mpf(10) ** -(mp.dps - 15):
        return mpc(nearest)
    return mpc(mpmath.floor(value.real))


def _plain(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(value: Any) -> Any:
        if abs(value) > mpf(10) ** 9:
            raise OutOfReach("an argument out of reach")
        return mpc(function(value if value.imag else value.real))

    return apply


def _exp(value: Any) -> Any:
    if abs(value) > mpf(10) ** 12:
        raise OutOfReach("a power out of reach")
    return mpc(mpmath.exp(value))


_PLAIN: dict[str, Callable[..., Any]] = {
    "sqrt": lambda v: mpc(mpmath.sqrt(v if v.imag else v.real)),
    "root": _root,
    "log": _log,
    "ln": _log,
    "exp": _exp,
    "factorial": _factorial,
    "factorial2": lambda v: mpc(mpmath.fac2(v.real)),
    "binom": _binomial,
    "floor": _floor,
    "ceil": lambda v: -_floor(-v),
    "abs": lambda v: mpc(abs(v)),
    "max": lambda *vs: max(vs, key=lambda v: v.real),
    "min": lambda *vs: min(vs, key=lambda v: v.real),
    "Re": lambda v: mpc(v.real),
    "Im": lambda v: mpc(v.imag),
    "arccot": lambda v: mpc(mpmath.acot(v.real)),
    "sgn": lambda v: mpc(mpmath.sign(v.real)),
}
_ANALYTIC = {
    name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")
} | {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **_PLAIN,
    **{name: _plain(getattr(mpmath, known)) for name, known in _ANALYTIC.items()},
}


def _value(node: Node, env: Mapping[str, Any]) -> Any:
    op = node[0]
    if op in ("num", "dec", "based"):
        value = node[1]
        if isinstance(value, int):
            return mpc(value)
        return mpc(mpf(value.numerator) / value.denominator)
    if op == "sym" or op == "call":
        value = env.get(node[1] if op == "sym" else repr(node))
        if value is None:
            raise Unsupported(f"no value for {node[1]}")
        return mpc(value)
    if op == "const":
        if node[1] == "pi":
            return mpc(mp.pi)
        if node[1] == "e":
            return mpc(mp.e)
        if node[1] == "i":
            return mpc(0, 1)
        raise Unsupported("infinity in a sum")
    if op == "add":
        terms = [_value(part, env) for part in node[1]]
        _span.extend(int(mpmath.mag(term)) for term in terms if term != 0)
        return mpmath.fsum(terms)
    if op == "neg":
        return -_value(node[1], env)
    if op == "mul":
        total = mpc(1)
        for part in node[1]:
            total *= _value(part, env)
        return total
    if op == "div":
        bottom = _value(node[2], env)
        if bottom == 0:
            raise Undefined
        return _value(node[1], env) / bottom
    if op == "pow":
        if not env:
            try:  # 2^2004 and its kin exactly, if need be
                return mpc(_exact(node))
            except (NotExact, Undefined):
                pass
        return _power(_value(node[1], env), _value(node[2], env))
    if op == "fn":
        function = _FUNCTIONS.get(node[1])
        if function is None:
            raise Unsupported(node[1])
        try:
            return function(*(_value(part, env) for part in node[2]))
        except (TypeError, ValueError, OverflowError) as error:
            raise Unsupported(str(error)) from None
    if op == "percent":
        return _value(node[1], env) / 100
    if op == "degree":
        return _value(node[1], env) * mp.pi / 180
    raise Unsupported(f"{op} in a number")


def _exact(node: Node) -> Any:
    value = evaluate(node, {})
    if isinstance(value, int):
        return mpf(value)
    if isinstance(value, Fraction):
        return mpf(value.numerator) / value.denominator
    raise NotExact
