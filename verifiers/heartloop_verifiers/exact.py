r"""Exact values without a computer algebra system: rationals and sums of square roots.

A value is an int, a Fraction, or a :class:`Surd` (a rational combination of square roots of distinct
squarefree numbers, which are linearly independent over the rationals: equal values have equal
coefficients). Variables, and pi
where it stands alone (it is transcendental, so it behaves as one), are replaced by rationals.
Everything is bounded in size; what is not exact, or too large, raises :class:`NotExact`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import isqrt
from typing import Any, TypeAlias

from .parser import Node

__all__ = [
    "NotExact",
    "Surd",
    "Undefined",
    "Value",
    "allow_bits",
    "approximation",
    "evaluate",
    "needs_integers",
    "symbols",
]

_limit = [16_000]


def allow_bits(bits: int) -> None:
    """Let numbers grow to ``bits`` bits: workers, which have a deadline, may take on more than the caller's
    process."""
    _limit[0] = bits


def _guard(bits: int) -> None:
    if bits > _limit[0]:
        raise NotExact


class NotExact(Exception):
    """Not a value this module represents (or too large a one)."""


class Undefined(Exception):
    """A division by zero or the like."""


class Surd:
    """``sum(coefficient * sqrt(key))`` over squarefree keys; at least one key is above 1."""

    __slots__ = ("terms",)

    def __init__(self, terms: dict[int, Fraction]) -> None:
        self.terms = terms

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Surd) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))


Value: TypeAlias = int | Fraction | Surd


def _size(value: int | Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _surd(terms: dict[int, Fraction]) -> Value:
    terms = {key: value for key, value in terms.items() if value}
    if not terms:
        return 0
    if len(terms) == 1 and 1 in terms:
        return _rational(terms[1])
    if len(terms) > 64:
        raise NotExact
    return Surd(terms)


def _rational(value: Fraction | int) -> int | Fraction:
    if isinstance(value, int):
        return value
    return value.numerator if value.denominator == 1 else value


def _terms(value: Value) -> dict[int, Fraction]:
    return value.terms if isinstance(value, Surd) else {1: Fraction(value)}


def add(a: Value, b: Value) -> Value:
    if not isinstance(a, Surd) and not isinstance(b, Surd):
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            _guard(a.denominator.bit_length() + b.denominator.bit_length())
        return _rational(a + b)
    terms = dict(_terms(a))
    for key, value in _terms(b).items():
        terms[key] = terms.get(key, Fraction(0)) + value
    return _surd(terms)


def mul(a: Value, b: Value) -> Value:
    if not isinstance(a, Surd) and not isinstance(b, Surd):
        if isinstance(a, int) and isinstance(b, int):
            if -64 < a < 64 or -64 < b < 64:  # a sign or a small factor never makes it too large
                return a * b
            _guard(a.bit_length() + b.bit_length())
            return a * b
        _guard(_size(a) + _size(b))
        return _rational(a * b)
    terms: dict[int, Fraction] = {}
    for p, x in _terms(a).items():
        for q, y in _terms(b).items():
            g = math.gcd(p, q)  # sqrt(p)sqrt(q) = g sqrt(pq/g^2), squarefree again
            key = p * q // (g * g)
            terms[key] = terms.get(key, Fraction(0)) + x * y * g
    return _surd(terms)


def inverse(a: Value) -> Value:
    if not isinstance(a, Surd):
        if a == 0:
            raise Undefined
        return _rational(Fraction(1) / a) if isinstance(a, Fraction) else _rational(Fraction(1, a))
    # multiply by the conjugate under sqrt(prime) -> -sqrt(prime) until the denominator is rational
    top: Value = 1
    for _ in range(12):
        if not isinstance(a, Surd):
            return mul(top, inverse(a))
        prime = _smallest_prime(max(a.terms))
        conjugate = _surd({key: -value if key % prime == 0 else value for key, value in a.terms.items()})
        top, a = mul(top, conjugate), mul(a, conjugate)
    raise NotExact


def _smallest_prime(n: int) -> int:
    for p in range(2, min(isqrt(n), 10**5) + 1):
        if n % p == 0:
            return p
    return n


def root(a: Value, index: int) -> Value:
    """The real ``index``-th root."""
    if isinstance(a, Surd):
        raise NotExact
    if a < 0:
        if index % 2 == 0:
            raise NotExact  # complex
        return mul(-1, root(-a, index))
    fraction = Fraction(a)
    p, q = _integer_root(fraction.numerator, index), _integer_root(fraction.denominator, index)
    if p is not None and q is not None:
        return _rational(Fraction(p, q))
    if index != 2:
        raise NotExact
    outside, inside = _square_part(fraction.numerator * fraction.denominator)
    return _surd({inside: Fraction(outside, fraction.denominator)})


def _integer_root(n: int, index: int) -> int | None:
    if n < 2:
        return n
    if index == 2:
        r = isqrt(n)
    else:
        if n.bit_length() > 2000:
            raise NotExact
        r = 1 << -(-n.bit_length() // index)
        while True:  # Newton, from above
            s = ((index - 1) * r + n // r ** (index - 1)) // index
            if s >= r:
                break
            r = s
    return r if r**index == n else None


def _square_part(n: int) -> tuple[int, int]:
    """n = outside^2 * inside, inside squarefree."""
    if n > 10**12:
        raise NotExact
    outside, inside, p = 1, 1, 2
    while p * p <= n:
        if n % p == 0:
            n //= p
            if n % p == 0:
                n //= p
                outside *= p
            else:
                inside *= p
        else:
            p += 1 if p == 2 else 2
        if p > 30_000:  # what is left has at most two prime factors: is it a square?
            r = isqrt(n)
            if r * r == n:
                return outside * r, inside
            break
    return outside, inside * n


def power(a: Value, b: Value) -> Value:
    if isinstance(b, Surd):
        raise NotExact
    if isinstance(b, Fraction):
        if b.denominator > 60 or isinstance(a, Surd):
            raise NotExact
        if a < 0:
            raise NotExact  # which root is meant differs between conventions
        return power(root(a, b.denominator), b.numerator)
    if b < 0:
        return inverse(power(a, -b))
    if isinstance(a, Surd):
        if b > 64:
            raise NotExact
        result: Value = 1
        for _ in range(b):
            result = mul(result, a)
        return result
    if a in (0, 1, -1):
        return (1 if b == 0 else 0) if a == 0 else (1 if a == 1 or b % 2 == 0 else -1)
    size = max(abs(a.numerator).bit_length(), a.denominator.bit_length())
    _guard(size * b)
    return _rational(a**b)


def _factorial(a: Value, step: int = 1) -> int:
    if isinstance(a, int) and a < 0:
        raise Undefined
    if not isinstance(a, int) or a > 2500:
        raise NotExact
    return math.factorial(a) if step == 1 else math.prod(range(a, 0, -step))


def _binomial(n: Value, k: Value) -> Value:
    if not isinstance(n, int) or not isinstance(k, int) or n < 0 or k < 0 or n > 4000:
        raise NotExact
    return math.comb(n, k)


def _floor(a: Value) -> int:
    return math.floor(a) if not isinstance(a, Surd) else math.floor(_sure(a))


def _ceil(a: Value) -> int:
    return math.ceil(a) if not isinstance(a, Surd) else math.ceil(_sure(a))


def _sure(a: Surd) -> Fraction:
    """An approximation that is far enough from an integer to round safely (a surd never is one)."""
    value = approximation(a, 60)
    if abs(value - round(value)) < Fraction(1, 10**40):
        raise NotExact
    return value


def _absolute(a: Value) -> Value:
    if isinstance(a, Surd):
        value = approximation(a, 60)
        if abs(value) < Fraction(1, 10**40):
            raise NotExact
        return a if value > 0 else mul(-1, a)
    return -a if a < 0 else a


def _integers(function: Callable[..., int]) -> Callable[..., Value]:
    def apply(*values: Value) -> Value:
        if not all(isinstance(v, int) for v in values):
            raise NotExact
        return function(*values)

    return apply


def _extreme(pick: Callable[..., Any]) -> Callable[..., Value]:
    def apply(*values: Value) -> Value:
        if any(isinstance(v, Surd) for v in values):
            raise NotExact
        return pick(values)  # type: ignore[no-any-return]

    return apply


def _logarithm(a: Value, *base: Value) -> Value:
    if a == 1:
        return 0
    if not base or isinstance(a, Surd) or isinstance(base[0], Surd) or a <= 0 or base[0] <= 0 or base[0] == 1:
        raise NotExact
    for exponent in range(1, 40):
        if base[0] ** exponent == a:
            return exponent
        if Fraction(base[0]) ** -exponent == a:
            return -exponent
    raise NotExact


_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "sqrt": lambda a: root(a, 2),
    "factorial": _factorial,
    "factorial2": lambda a: _factorial(a, 2),
    "binom": _binomial,
    "floor": _floor,
    "ceil": _ceil,
    "abs": _absolute,
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
    "max": _extreme(max),
    "min": _extreme(min),
    "log": _logarithm,
    "ln": _logarithm,
}


def evaluate(node: Node, env: Mapping[str, Value]) -> Value:
    """The value of ``node`` with variables from ``env``. Raises :class:`NotExact` or :class:`Undefined`."""
    op = node[0]
    if op == "num" or op == "dec":
        return node[1]  # type: ignore[no-any-return]
    if op == "sym" or op == "const":
        value = env.get(node[1])
        if value is None:
            raise NotExact
        return value
    if op == "add":
        total = evaluate(node[1][0], env)
        for part in node[1][1:]:
            total = add(total, evaluate(part, env))
        return total
    if op == "neg":
        return mul(-1, evaluate(node[1], env))
    if op == "mul":
        total = evaluate(node[1][0], env)
        for part in node[1][1:]:
            total = mul(total, evaluate(part, env))
        return total
    if op == "div":
        top, bottom = evaluate(node[1], env), evaluate(node[2], env)
        if isinstance(top, int) and isinstance(bottom, int):
            if bottom == 0:
                raise Undefined
            return top // bottom if top % bottom == 0 else Fraction(top, bottom)
        return mul(top, inverse(bottom))
    if op == "pow":
        return power(evaluate(node[1], env), evaluate(node[2], env))
    if op == "fn":
        if node[1] == "root":
            index = evaluate(node[2][1], env)
            if not isinstance(index, int) or not 1 < index < 60:
                raise NotExact
            return root(evaluate(node[2][0], env), index)
        function = _FUNCTIONS.get(node[1])
        if function is None:
            raise NotExact
        try:
            return function(*(evaluate(part, env) for part in node[2]))
        except TypeError:  # a wrong number of arguments
            raise NotExact from None
    if op == "based":
        return int(node[1])
    if op == "percent":
        return mul(Fraction(1, 100), evaluate(node[1], env))
    if op == "degree":
        pi = env.get("pi")
        if pi is None:
            raise NotExact
        return mul(mul(Fraction(1, 180), pi), evaluate(node[1], env))
    if op == "call":
        value = env.get(repr(node))
        if value is not None:
            return value
    raise NotExact


def approximation(value: Value, digits: int) -> Fraction:
    """A rational within about ``10**-digits`` (relative to the largest term) of ``value``."""
    if not isinstance(value, Surd):
        return Fraction(value)
    scale = 10 ** (2 * digits)
    total = Fraction(0)
    for key, coefficient in value.terms.items():
        total += coefficient * Fraction(isqrt(key * scale), 10**digits)
    return total


def symbols(node: Node, into: set[str] | None = None) -> set[str]:
    """Names of variables, and of the constants pi, e, i, inf as ``"const:pi"`` and so on."""
    found: set[str] = set() if into is None else into
    op = node[0]
    if op == "sym":
        found.add(node[1])
    elif op == "const":
        found.add("const:" + node[1])
    elif op == "call":
        found.add(repr(node))
    elif op == "degree":
        found.add("const:pi")
        symbols(node[1], found)
    elif op not in ("num", "dec", "word", "domain", "based"):
        for part in node[1:]:
            if isinstance(part, tuple) and part:
                if isinstance(part[0], str):
                    symbols(part, found)
                else:
                    for inner in part:
                        if isinstance(inner, tuple) and inner and isinstance(inner[0], str):
                            symbols(inner, found)
                        elif isinstance(inner, tuple):
                            for deep in inner:
                                symbols(deep, found)
    return found


_DISCRETE = frozenset(("floor", "ceil", "factorial", "factorial2", "binom", "gcd", "lcm"))


def needs_integers(node: Node) -> bool:
    """Does ``node`` only make sense, or only have exact values, at integers (floor, factorial, 2^n)?"""
    op = node[0]
    if op == "fn" and node[1] in _DISCRETE:
        return True
    if op == "pow" and symbols(node[2]) - _CONSTANTS:
        return True
    for part in node[1:]:
        if isinstance(part, tuple) and part:
            if isinstance(part[0], str):
                if op != "rel" and needs_integers(part):
                    return True
            elif any(isinstance(inner, tuple) and inner and needs_integers(inner) for inner in part):
                return True
    return False


_CONSTANTS = frozenset(("const:pi", "const:e", "const:i", "const:inf"))
