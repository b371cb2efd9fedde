"""What the parser makes: nodes (see :mod:`.parser`), and small questions about them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from .lexer import ParseError
from .units import find_unit, is_loose_unit
from .words import STOP_WORDS

__all__ = [
    "Node", "based",
    "big_int", "common_logs", "decimal", "is_domain", "is_noun", "is_region", "is_value", "loose",
    "only_region", "product",
]  # fmt: skip

Node = tuple[Any, ...]


def product(factors: list[Node]) -> Node:
    if len(factors) == 1:
        return factors[0]
    if (
        len(factors) == 2
        and factors[0][0] == "sym"
        and factors[1][0] == "seq"
        and factors[1][1:3] in (("(", "]"), ("[", ")"))
    ):
        return ("rel", ("in",), (factors[0], factors[1]))  # "t(0,4]" is "t in (0,4]" with the sign lost
    if any(factor[0] in ("seq", "set", "list", "rel", "matrix", "union") for factor in factors):
        raise ParseError("a product of things that are not numbers")
    return ("mul", tuple(factors))


def decimal(text: str) -> tuple[Fraction | int, Fraction, int]:
    """(value, size of the last place, significant digits) of "1.50", ".5", "1.6e-19", "2e5"."""
    mantissa, _, exponent = text.lower().partition("e")
    power = int(exponent or 0)
    if abs(power) > 20_000:
        raise ParseError("an exponent out of reach")
    whole, _, places = mantissa.partition(".")
    digits = (whole + places).lstrip("0")
    scale = Fraction(10) ** (power - len(places))
    return big_int(whole + places or "0") * scale, scale, max(1, len(digits))


def big_int(digits: str) -> int:
    """``int(digits)`` without the interpreter's limit on the number of digits, in parts."""
    if len(digits) <= 4000:
        return int(digits)
    if len(digits) > 100_000:
        raise ParseError("a number out of reach")
    half = len(digits) // 2
    scale: int = 10**half
    return big_int(digits[:-half]) * scale + big_int(digits[-half:])


def based(digits: str, base: str) -> Node:
    """``1010_2``: ("based", value, the numeral as it stands)."""
    try:
        return ("based", int(digits, int(base.removeprefix("\\text"))), int(digits))
    except ValueError:
        raise ParseError("a numeral in a strange base") from None


def is_value(node: Node) -> bool:
    """Whether it stands for one number."""
    return node[0] in ("num", "dec", "div", "neg", "mul", "pow", "fn", "add", "const", "percent")


def is_noun(phrase: str) -> bool:
    """Plain words that may follow a count: "apples", "square units", "ways to choose"; no negations."""
    words = phrase.lower().split()
    return len(words) <= 6 and not any(
        w in STOP_WORDS or w in ("not", "no", "mod", "if", "is", "but", "times") for w in words
    )


def is_region(node: Node) -> bool:
    """Whether it stands for a set of numbers, or a condition on one."""
    if node[0] == "rel":
        return all(op in ("<", ">", "<=", ">=", "in", "!=", "=") for op in node[1])
    return node[0] in ("seq", "union", "set", "or", "minus", "inter")


def common_logs(node: Any) -> Any:
    """``node`` with base ten for every logarithm that names none."""
    if not isinstance(node, tuple):
        return node
    if len(node) == 3 and node[0] == "fn" and node[1] == "log" and len(node[2]) == 1:
        return ("fn", "log", (common_logs(node[2][0]), ("num", 10)))
    return tuple(common_logs(part) if isinstance(part, tuple) else part for part in node)


def only_region(node: Node) -> bool:
    """A relation other than ``=``, a union, or brackets that no tuple has."""
    if node[0] == "rel":
        return bool(node[1] != ("=",))
    if node[0] == "seq":
        return len(node[3]) == 2 and ((node[1], node[2]) != ("(", ")") or ("const", "inf") in node[3])
    return node[0] in ("union", "minus", "inter", "or")


def is_domain(node: Node) -> bool:
    r"""``k \in \mathbb{Z}``: says what a letter ranges over."""
    return (
        node[0] == "rel"
        and node[1] == ("in",)
        and node[2][1][0] == "domain"
        and node[2][0][0] in ("sym", "const")
    )


def loose(node: Node) -> Node | None:
    """``5 m`` read as five metres instead of 5·m, and ``10 m/s`` likewise; or None."""
    factors: list[Node] = []
    names: list[str] = []
    divided = node[0] == "div"
    top = node[1] if divided else node
    for factor in top[1] if top[0] == "mul" else (top,):
        name = _unit_name(factor)
        if name is None:
            if names:
                return None
            factors.append(factor)
        else:
            names.append(name)
    if divided:
        bottom = _unit_name(node[2])
        if bottom is None or not names:
            return None
        names.append("/" + bottom)
    if not names or not factors:
        return None
    unit = find_unit(" ".join(names).replace(" /", "/"))
    return None if unit is None else ("quantity", product(factors), unit)


def _unit_name(node: Node) -> str | None:
    if node[0] == "sym" and is_loose_unit(node[1]):
        return str(node[1])
    if (
        node[0] == "pow"
        and node[1][0] == "sym"
        and is_loose_unit(node[1][1])
        and node[2] in (("num", 2), ("num", 3))
    ):
        return f"{node[1][1]}^{node[2][1]}"
    return None
