"""Intervals, their unions, and inequalities in one variable, as subsets of the real line."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from .leaves import Context, approximate, same_value
from .parser import Node

__all__ = ["NotRegion", "Piece", "looks_like_region", "region", "same_region"]

_INF: Node = ("const", "inf")
_MINUS_INF: Node = ("neg", _INF)
_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


class NotRegion(Exception):
    """Not a set of reals that this module reads."""


class Piece(NamedTuple):
    """From ``low`` to ``high``; a point where they are the same node."""

    low: Node
    low_open: bool
    high: Node
    high_open: bool


def looks_like_region(node: Node) -> bool:
    """Can only be read as a set of reals (a plain pair in round brackets may also be a point)."""
    op = node[0]
    if op in ("union", "inter", "minus", "or", "domain"):
        return True
    if op == "rel":
        return any(o in ("<", ">", "<=", ">=", "in", "!=") for o in node[1])
    return (op == "seq" and len(node[3]) == 2 and (node[1], node[2]) != ("(", ")")) or _infinite(node)


def _infinite(node: Node) -> bool:
    return node[0] == "seq" and len(node[3]) == 2 and any(end in (_INF, _MINUS_INF) for end in node[3])


def region(node: Node, name: list[str]) -> list[Piece]:
    """The pieces of ``node``; appends the variable it speaks of, if any, to ``name``."""
    op = node[0]
    if op == "seq" and len(node[3]) == 2:
        low, high = node[3]
        return [Piece(_signed(low), node[1] == "(", _signed(high), node[2] == ")")]
    if op in ("set", "list") and node[1]:
        return [Piece(item, False, item, False) for item in node[1]]
    if op == "set":
        return []
    if op in ("union", "or"):
        return [piece for part in node[1] for piece in region(part, name)]
    if (op == "domain" and node[1] == "R") or node == ("word", "all reals"):
        return [Piece(_MINUS_INF, True, _INF, True)]
    if op == "minus" and node[2][0] in ("set", "num", "neg", "dec", "div"):
        return _without(region(node[1], name), node[2][1] if node[2][0] == "set" else (node[2],))
    if op == "rel":
        return _relation(node, name)
    raise NotRegion


def _signed(node: Node) -> Node:
    return node


def _relation(node: Node, name: list[str]) -> list[Piece]:
    ops, operands = node[1], node[2]
    if ops == ("in",) and operands[0][0] == "sym":
        name.append(operands[0][1])
        return region(operands[1], name)
    if len(ops) == 1:
        left, right, op = operands[0], operands[1], ops[0]
        if right[0] == "sym" and left[0] != "sym":
            left, right, op = right, left, _FLIP.get(op, "")
        if left[0] != "sym":
            raise NotRegion
        name.append(left[1])
        if op in ("<", "<="):
            return [Piece(_MINUS_INF, True, right, op == "<")]
        if op in (">", ">="):
            return [Piece(right, op == ">", _INF, True)]
        if op == "=":
            return [Piece(right, False, right, False)]
        if op == "!=":
            return [Piece(_MINUS_INF, True, right, True), Piece(right, True, _INF, True)]
    if len(ops) == 2 and operands[1][0] == "sym":
        name.append(operands[1][1])
        if all(op in ("<", "<=") for op in ops):
            return [Piece(operands[0], ops[0] == "<", operands[2], ops[1] == "<")]
        if all(op in (">", ">=") for op in ops):
            return [Piece(operands[2], ops[1] == ">", operands[0], ops[0] == ">")]
    raise NotRegion


def _without(pieces: list[Piece], points: tuple[Node, ...]) -> list[Piece]:
    if len(pieces) != 1:
        raise NotRegion  # only one interval less some points within it
    low, low_open, high, high_open = pieces[0]
    try:
        ordered = sorted(points, key=_plain_number)
        inside = (low == _MINUS_INF or _plain_number(low) < _plain_number(ordered[0])) and (
            high == _INF or _plain_number(ordered[-1]) < _plain_number(high)
        )
    except TypeError:
        raise NotRegion from None
    if not inside:
        raise NotRegion
    ends = [low, *ordered, high]
    last = len(ends) - 2
    return [
        Piece(ends[i], low_open if i == 0 else True, ends[i + 1], high_open if i == last else True)
        for i in range(last + 1)
    ]


def _plain_number(node: Node) -> Fraction:
    from .exact import approximation
    from .leaves import exact_constant

    value = exact_constant(node)
    if value is None:
        raise TypeError
    return approximation(value, 60)


def same_region(a: Node, b: Node, ctx: Context) -> bool:
    """Raises :class:`NotRegion` where one is no region."""
    names_a: list[str] = []
    names_b: list[str] = []
    first, second = _merged(region(a, names_a), ctx), _merged(region(b, names_b), ctx)
    if len(set(names_a)) > 1 or len(set(names_b)) > 1:
        raise NotRegion
    if names_a and names_b and names_a[0] != names_b[0]:
        return False
    if len(first) != len(second):
        return False
    left = list(second)
    for piece in first:
        for other in left:
            if (
                piece.low_open == other.low_open
                and piece.high_open == other.high_open
                and same_value(piece.low, other.low, ctx)
                and same_value(piece.high, other.high, ctx)
            ):
                left.remove(other)
                break
        else:
            return False
    return True


def _merged(pieces: list[Piece], ctx: Context) -> list[Piece]:
    """Sorted, with pieces that touch or overlap made one, where every end is a known number."""
    if len(pieces) < 2:
        return pieces
    ends: dict[int, tuple[float, Fraction]] = {}
    for index, piece in enumerate(pieces):
        for side, end in enumerate((piece.low, piece.high)):
            if end in (_INF, _MINUS_INF):
                ends[2 * index + side] = (1.0 if end == _INF else -1.0, Fraction(0))
            else:
                from .exact import symbols

                if any(not n.startswith("const:") for n in symbols(end)):
                    return pieces
                value = approximate(end, ctx)
                if value is None:
                    return pieces
                ends[2 * index + side] = (0.0, value)
    order = sorted(range(len(pieces)), key=lambda index: ends[2 * index])
    result: list[tuple[Piece, tuple[float, Fraction]]] = []
    for index in order:
        piece, low, high = pieces[index], ends[2 * index], ends[2 * index + 1]
        if result:
            last, last_high = result[-1]
            near = abs(low[1] - last_high[1]) < Fraction(1, 10**30) and low[0] == last_high[0]
            touching = near and not (piece.low_open and last.high_open)
            if touching or (low < last_high and not near):
                if high > last_high:
                    result[-1] = (Piece(last.low, last.low_open, piece.high, piece.high_open), high)
                elif high == last_high:
                    result[-1] = (last._replace(high_open=last.high_open and piece.high_open), last_high)
                continue
        result.append((piece, high))
    return [piece for piece, _ in result]
