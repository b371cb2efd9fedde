"""The strict rules: when two parsed answers are the same answer."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

from .exact import NotExact, Undefined, evaluate, symbols
from .leaves import Context, Unsupported, constant_ratio, same_value
from .parser import Node
from .regions import NotRegion, looks_like_region, same_region

__all__ = ["matched", "same"]


def same(a: Node, b: Node, ctx: Context) -> bool:
    """Is the predicted answer ``a`` the reference ``b``? Raises NeedsWorker or Unsupported."""
    if a == b:
        return True
    a, b = _settle(a), _settle(b)
    if a == b:
        return True
    if looks_like_region(a) or looks_like_region(b):
        try:
            return same_region(a, b, ctx)
        except NotRegion:
            pass
    many_a, many_b = _many(a), _many(b)
    if many_a is not None or many_b is not None:
        if _as_pair(a, b, ctx) or _as_pair(b, a, ctx):
            return True
        if _assigned_tuple(a, b, ctx):
            return True
        return _match(many_a if many_a is not None else [a], many_b if many_b is not None else [b], ctx)
    return _single(a, b, ctx)


def matched(a: Node, b: Node, ctx: Context) -> float:
    """The share of answers that are right: hits over the larger number of answers."""
    if same(a, b, ctx):
        return 1.0
    first, second = _many(_settle(a)), _many(_settle(b))
    if first is None and second is None and a[0] == b[0] == "seq":
        hits = sum(_single(x, y, ctx) for x, y in zip(a[3], b[3], strict=False))
        return min(hits / max(len(a[3]), len(b[3])), 0.99)
    left = list(second if second is not None else [b])
    total = max(len(first or [a]), len(left))
    hits = 0
    for item in first if first is not None else [a]:
        for other in left:
            if same(item, other, ctx):
                left.remove(other)
                hits += 1
                break
    return hits / total


# --- shapes ---


def _settle(node: Node) -> Node:
    """``x = 5`` and the like as an assignment; plus-minus written out; one-element sets and lists opened."""
    if node[0] == "rel":
        node = _assignment(node)
    variants = _plus_minus(node)
    if variants is not None:
        return ("list", tuple(variants))
    if node[0] == "list":
        items: list[Node] = []
        for item in node[1]:
            settled = _settle(item)
            items.extend(settled[1] if settled[0] == "list" else (settled,))
        return ("list", tuple(items))
    if node[0] == "set":
        return ("set", tuple(x for item in node[1] for x in _opened(_settle(item))))
    return node


def _opened(node: Node) -> tuple[Node, ...]:
    return node[1] if node[0] == "list" else (node,)


def _assignment(node: Node) -> Node:
    """``("assign", name, parameters, values)`` for ``x = v``, ``f(x) = v``, ``2 + 3 = 5``, ``x = 1/3 ≈
    0.333``."""
    ops, operands = node[1], node[2]
    if not all(op in ("=", "~") for op in ops):
        return node
    if "~" in ops[1:]:  # "x = 1/3 ≈ 0.333": what stands before the rounding is meant
        cut = ops.index("~", 1)
        ops, operands = ops[:cut], operands[: cut + 1]
    elif ops == ("~",) and not symbols(operands[0]) - _CONSTANTS:
        return cast(Node, operands[0])
    left, right = operands[0], operands[-1]
    if (
        len(ops) == 1
        and right[0] in ("sym", "call")
        and left[0] not in ("sym", "call")
        and not symbols(left) - _CONSTANTS
    ):
        left, operands = right, (right, left)
    if left[0] == "sym" and left[1] not in symbols_of(operands[1:]):
        return ("assign", left[1], (), operands[1:])
    if left[0] == "const" and left[1] in ("e", "i") and len(ops) == 1:
        return ("assign", left[1], (), operands[1:])
    if left[0] == "call" and all(p[0] == "sym" for p in left[2]):
        if any(repr(left) in symbols(v) for v in operands[1:]):
            return node
        return ("assign", left[1], tuple(p[1] for p in left[2]), operands[1:])
    if (
        left[0] == "seq"
        and all(p[0] == "sym" for p in left[3])
        and right[0] in ("seq", "list", "set")
        and len(ops) == 1
    ):
        return cast(Node, right)
    if left[0] in ("seq", "set", "matrix") and len(ops) == 1:
        return node
    if (len(ops) > 1 and left[0] == "call") or (not symbols_of(operands) - _CONSTANTS):
        return ("assign", "", (), operands)
    if len(ops) > 1:
        return ("assign", "", (), operands[1:])
    return node


_CONSTANTS = {"const:pi", "const:e", "const:i", "const:inf"}


def symbols_of(nodes: tuple[Node, ...]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        symbols(node, found)
    return found


def _plus_minus(node: Node) -> list[Node] | None:
    """Every choice of signs in ``node``; plus-minus and minus-plus go together, several plus-minus do not."""
    count = _count_signs(node)
    if not count or node[0] == "list":
        return None
    if count > 6:
        raise Unsupported("too many plus-minus signs")
    linked = _contains(node, "mp")
    variants: list[Node] = []
    for choice in [(s,) * count for s in (1, -1)] if linked else product((1, -1), repeat=count):
        variant = _with_signs(node, iter(choice))
        if variant not in variants:
            variants.append(variant)
    return variants


def _count_signs(node: Any) -> int:
    if not isinstance(node, tuple) or not node:
        return 0
    own = 1 if node[0] in ("pm", "mp") else 0
    return own + sum(_count_signs(part) for part in node if isinstance(part, tuple))


def _contains(node: Any, op: str) -> bool:
    return (
        isinstance(node, tuple)
        and bool(node)
        and (node[0] == op or any(_contains(p, op) for p in node if isinstance(p, tuple)))
    )


def _with_signs(node: Any, signs: Any) -> Any:
    if not isinstance(node, tuple) or not node:
        return node
    if node[0] in ("pm", "mp"):
        sign = next(signs) * (1 if node[0] == "pm" else -1)
        inner = _with_signs(node[1], signs)
        return inner if sign > 0 else ("neg", inner)
    return tuple(_with_signs(part, signs) if isinstance(part, tuple) else part for part in node)


def _many(node: Node) -> list[Node] | None:
    """The answers of a list or set; None where ``node`` is one answer."""
    if node[0] == "list":
        return list(node[1])
    if node[0] == "set":
        return list(node[1])
    if node[0] in ("or", "union") and all(part[0] in ("set", "list", "rel") for part in node[1]):
        items: list[Node] = []
        for part in node[1]:
            items.extend(_many(_settle(part)) or [_settle(part)])
        return items
    return None


def _as_pair(a: Node, b: Node, ctx: Context) -> bool:
    """A bare list against a tuple in round brackets: the same numbers in the same order; a list in brackets
    against one."""
    if a[0] == "list" and b[0] == "seq" and (b[1], b[2]) == ("(", ")") and len(a[1]) == len(b[3]):
        items = list(a[1])
        if any(item[0] == "seq" for item in items):
            return False
        if all(item[0] == "assign" and len(item[1]) == 1 for item in items):  # "y = 2, x = 1" is (1, 2)
            items.sort(key=lambda item: str(item[1]))
        return all(same(_value_of(x), y, ctx) for x, y in zip(items, b[3], strict=True))
    return False


def _assigned_tuple(a: Node, b: Node, ctx: Context) -> bool:
    """Reference "1, 3" and prediction "(3, 1)" or "[1, 2, 3]": brackets around several answers."""
    if a[0] != "seq" or b[0] not in ("list", "set") or any(item[0] == "seq" for item in b[1]):
        return False
    if len(a[3]) != len(b[1]) or (
        (a[1], a[2]) != ("(", ")") and not (len(a[3]) > 2 and (a[1], a[2]) == ("[", "]"))
    ):
        return False
    if b[0] == "set" and (a[1], a[2]) == ("(", ")"):
        return False
    return _match(list(a[3]), list(b[1]), ctx)


def _value_of(node: Node) -> Node:
    return node[3][-1] if node[0] == "assign" else node


# --- several answers ---


def _match(first: list[Node], second: list[Node], ctx: Context) -> bool:
    """A one-to-one pairing of answers that are the same."""
    keys_a, rest_a = _keyed(first)
    keys_b, rest_b = _keyed(second)
    for key in list(keys_a):  # equal exact values pair off at once
        common = min(len(keys_a[key]), len(keys_b.get(key, ())))
        rest_a.extend(keys_a[key][common:])
        keys_a[key] = keys_a[key][:common]
        if key in keys_b:
            keys_b[key] = keys_b[key][common:]
    for nodes in keys_b.values():
        rest_b.extend(nodes)
    if len(first) != len(second):
        return False
    if len(rest_a) > 40:
        ctx.worker()  # quadratic from here on: not in the caller's process
    for item in rest_a:
        for index, other in enumerate(rest_b):
            if same(item, other, ctx):
                del rest_b[index]
                break
        else:
            return False
    return not rest_b


def _keyed(items: list[Node]) -> tuple[dict[Any, list[Node]], list[Node]]:
    keys: dict[Any, list[Node]] = {}
    rest: list[Node] = []
    for item in items:
        key = _key(item)
        if key is None:
            rest.append(item)
        else:
            keys.setdefault(key, []).append(item)
    return keys, rest


def _key(node: Node) -> Any:
    """A hashable exact value of a number or of a tuple of numbers; None where there is none."""
    if node[0] == "seq":
        inner = [_key(item) for item in node[3]]
        return None if any(k is None for k in inner) else ("seq", node[1], node[2], *inner)
    if node[0] in ("num", "dec", "neg", "div", "mul", "add", "pow", "fn"):
        try:
            return evaluate(node, {})
        except (NotExact, Undefined):
            return None
    return None


# --- one answer ---


def _single(a: Node, b: Node, ctx: Context) -> bool:
    if a == b:
        return True
    if a[0] == "assign" or b[0] == "assign":
        return _same_assignment(a, b, ctx)
    if a[0] == "rel" or b[0] == "rel":
        if a[0] == b[0]:
            return _same_relation(a, b, ctx)
        return same(_found(a), _found(b), ctx) if _found(a) is not a or _found(b) is not b else False
    if a[0] == "matrix" or b[0] == "matrix":
        return _same_matrix(a, b, ctx)
    if a[0] == "seq" or b[0] == "seq":
        return _same_sequence(a, b, ctx)
    if a[0] in _SHAPES or b[0] in _SHAPES:
        return False
    return same_value(a, b, ctx)


def _found(node: Node) -> Node:
    """``AB = 7``, ``a + b = 7`` where a bare value is asked for: the value."""
    if (
        node[0] == "rel"
        and node[1] == ("=",)
        and not symbols(node[2][1]) - _CONSTANTS
        and symbols(node[2][0]) - _CONSTANTS
    ):
        return cast(Node, node[2][1])
    return node


_SHAPES = frozenset(("set", "list", "union", "inter", "minus", "or", "word", "domain"))


def _same_sequence(a: Node, b: Node, ctx: Context) -> bool:
    if a[0] != "seq" or b[0] != "seq" or len(a[3]) != len(b[3]):
        return False
    brackets = (a[1], a[2]) == (b[1], b[2])
    square = {(a[1], a[2]), (b[1], b[2])} == {("(", ")"), ("[", "]")}
    if not brackets and not (square and len(a[3]) > 2):  # no interval has three ends
        return False
    return all(same(x, y, ctx) for x, y in zip(a[3], b[3], strict=True))


def _same_matrix(a: Node, b: Node, ctx: Context) -> bool:
    if a[0] == "seq" and b[0] == "matrix":
        a, b = b, a
    if a[0] == "matrix" and b[0] == "seq":  # a vector written as a matrix of one row or column
        rows = a[1]
        if len(rows) == 1 or len(rows[0]) == 1:
            flat = tuple(x for row in rows for x in row)
            return len(flat) == len(b[3]) and all(same(x, y, ctx) for x, y in zip(flat, b[3], strict=True))
        return False
    if a[0] != "matrix" or b[0] != "matrix":
        return False
    if len(a[1]) != len(b[1]) or len(a[1][0]) != len(b[1][0]):
        return False
    return all(same(x, y, ctx) for r, s in zip(a[1], b[1], strict=True) for x, y in zip(r, s, strict=True))


def _same_assignment(a: Node, b: Node, ctx: Context) -> bool:
    name_a, parameters_a, values_a = (a[1], a[2], a[3]) if a[0] == "assign" else ("", (), (a,))
    name_b, parameters_b, values_b = (b[1], b[2], b[3]) if b[0] == "assign" else ("", (), (b,))
    if a[0] == "rel" or b[0] == "rel":
        return _same_relation(_as_relation(a), _as_relation(b), ctx)
    if (
        parameters_a
        and parameters_b
        and len(parameters_a) == len(parameters_b)
        and parameters_a != parameters_b
    ):
        values_a = tuple(_renamed(v, dict(zip(parameters_a, parameters_b, strict=True))) for v in values_a)
    if _same_name(name_a, name_b, bool(parameters_a), bool(parameters_b)) and _same_values(
        values_a, values_b, ctx
    ):
        return True
    if name_a and name_b and not parameters_a and not parameters_b and len(values_a) == len(values_b) == 1:
        return _same_relation(_as_relation(a), _as_relation(b), ctx)
    return False


def _same_values(first: tuple[Node, ...], second: tuple[Node, ...], ctx: Context) -> bool:
    """Chains ``1/3 = 0.333``: a link of each must agree, and no link may contradict the rest."""
    if not (_consistent(first, ctx) and _consistent(second, ctx)):
        first, second = first[-1:], second[-1:]
    return any(same(x, y, ctx) for x in reversed(first) for y in reversed(second))


def _consistent(values: tuple[Node, ...], ctx: Context) -> bool:
    from .leaves import approximate

    if len(values) < 2:
        return True
    numbers = [
        approximate(v, ctx) if v[0] not in _SHAPES and not symbols(v) - _CONSTANTS else None for v in values
    ]
    known = [n for n in numbers if n is not None]
    return len(known) < 2 or all(abs(n - known[0]) * 50 <= abs(known[0]) for n in known)


def _as_relation(node: Node) -> Node:
    if node[0] != "assign":
        return node
    left: Node = ("call", node[1], tuple(("sym", p) for p in node[2])) if node[2] else ("sym", node[1])
    return ("rel", ("=",), (left, node[3][-1]))


def _same_name(a: str, b: str, called_a: bool, called_b: bool) -> bool:
    if not a or not b or a == b:
        return True
    if called_a != called_b:  # y = x^2 and f(x) = x^2
        return (a if not called_a else b) == "y" or a.split("_")[0] == b.split("_")[0]
    base_a, _, index_a = a.partition("_")
    base_b, _, index_b = b.partition("_")
    if base_a.lower() != base_b.lower() and not (len(base_a) > 2 or len(base_b) > 2):
        return False
    words = {"max", "min", "", "\\max", "\\min", "total"}
    if len(base_a) > 2 or len(base_b) > 2:  # "Answer = 5", "area = 5"
        return not (base_a.startswith("\\") and base_b.startswith("\\"))
    return base_a.lower() == base_b.lower() and (index_a in words or index_b in words)


def _renamed(node: Any, names: dict[str, str]) -> Any:
    if not isinstance(node, tuple):
        return node
    if len(node) == 2 and node[0] == "sym":
        return ("sym", names.get(node[1], node[1]))
    return tuple(_renamed(part, names) if isinstance(part, tuple) else part for part in node)


def _same_relation(a: Node, b: Node, ctx: Context) -> bool:
    """Equations up to a nonzero constant factor, inequalities up to a positive one."""
    if a[0] != "rel" or b[0] != "rel":
        return False
    if len(a[1]) != len(b[1]):
        return False
    if len(a[1]) > 1:
        straight = a[1] == b[1] and all(same(x, y, ctx) for x, y in zip(a[2], b[2], strict=True))
        flipped = tuple(_TURNED.get(op, op) for op in reversed(a[1]))
        turned = flipped == b[1] and all(same(x, y, ctx) for x, y in zip(reversed(a[2]), b[2], strict=True))
        return straight or turned
    op_a, op_b = a[1][0], b[1][0]
    if "in" in (op_a, op_b) or any(
        side[0] in _SHAPES or side[0] in ("seq", "matrix") for side in (*a[2], *b[2])
    ):
        return op_a == op_b and all(same(x, y, ctx) for x, y in zip(a[2], b[2], strict=True))
    if op_a == "~" or op_b == "~":
        op_a, op_b = op_a.replace("~", "="), op_b.replace("~", "=")
    if {op_a, op_b} - {"=", "!="} and _STRICTNESS.get(op_a) != _STRICTNESS.get(op_b):
        return False
    if (op_a in ("=", "!=") or op_b in ("=", "!=")) and op_a != op_b:
        return False
    ratio = constant_ratio(_difference(a), _difference(b), ctx)
    if ratio is None or ratio == 0:
        return False
    if op_a in ("=", "!="):
        return True
    positive = bool(ratio > 0)  # type: ignore[operator]
    return positive is bool(op_a == op_b)


_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_STRICTNESS = {"<": "<", ">": "<", "<=": "<=", ">=": "<="}


def _difference(node: Node) -> Node:
    return ("add", (node[2][0], ("neg", node[2][1])))
