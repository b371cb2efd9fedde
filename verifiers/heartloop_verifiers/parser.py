r"""A recursive-descent parser for answers: LaTeX as models and data sets write it, and plain text.

Nodes are tuples whose first item names them:

======================================  ====================================================================
``("num", value)``                      an exact rational (int or Fraction)
``("dec", value, ulp, digits)``         a decimal numeral: value, size of its last place, significant digits
``("sym", name)`` ``("const", name)``   a variable; pi, e, i, inf
``("add", (..))`` ``("mul", (..))``     sums and products; ``("div", a, b)`` ``("pow", a, b)`` ``("neg", a)``
``("pm", a)`` ``("mp", a)``             plus-minus and minus-plus
``("fn", name, (..))``                  a known function; ``("call", name, (..))`` an unknown one
``("seq", open, close, (..))``          tuple or interval with its brackets; ``("set", (..))``; ``("list",
(..))``
``("matrix", (rows))``
``("union", (..))`` ``("inter", ..)``   of sets; ``("minus", a, b)`` set difference
``("rel", (ops), (operands))``          a chain of relations; ``("or", (..))`` alternatives
``("quantity", a, unit)``               a number with a unit; ``("percent", a)``; ``("degree", a)``
``("word", text)``                      words with a meaning of their own ("none", a name)
======================================  ====================================================================

Depth and length are bounded; everything else raises :class:`ParseError`.
"""

from __future__ import annotations

from collections.abc import Callable

from .arithmetic import Arithmetic
from .cursor import END, RELATIONS
from .lexer import ParseError, tokens
from .nodes import Node, common_logs, is_domain, is_region, loose, only_region

__all__ = ["Node", "ParseError", "common_logs", "loose", "parse"]


def parse(text: str, *, merge_commas: bool = True) -> Node:
    """The node that ``text`` (see :func:`.clean.clean`) stands for; raises :class:`ParseError`."""
    parser = _Parser(tokens(text, merge_commas=merge_commas))
    node = parser.answer()
    if parser.token != END:
        raise ParseError(f"unexpected {parser.token[1]!r}")
    return node


_SEPARATORS = frozenset(("newline", "lor", "land", "to"))
_CONDITIONS = (
    *("where", "with", "for", "such that", "for all", "for every", "for any", "for each", "for some", "when"),
    *("for all real", "for all real numbers", "for real", "for integer", "for integers"),
)


class _Parser(Arithmetic):
    """The top layer: relations, lists of answers, unions."""

    def reparsed(self, text: str) -> Node:
        """A subscript's text as a node of its own."""
        return parse(text)

    def answer(self) -> Node:
        items, alternatives = self.sequence(lambda: self.token == END)
        items = [item for item in items if not is_domain(item)] or items
        if len(items) == 1:
            return items[0]
        if alternatives and all(map(is_region, items)) and any(map(only_region, items)):
            return ("or", tuple(items))
        return ("list", tuple(items))

    def sequence(self, ended: Callable[[], bool]) -> tuple[list[Node], bool]:
        """Items up to where ``ended``; and whether "or" stood between them."""
        items: list[Node] = []
        alternatives = False
        while not ended():
            if self.separator():
                continue
            if self.word_is("or") or self.token == ("c", "lor"):
                self.advance()
                alternatives = True
                continue
            if self.token == END:
                raise ParseError("unbalanced bracket")
            items.append(self.relation())
            if not (ended() or self.at_separator()):
                raise ParseError(f"unexpected {self.token[1]!r}")
        if not items:
            raise ParseError("nothing there")
        return items, alternatives

    def at_separator(self) -> bool:
        kind, text = self.token
        if kind == "o":
            return text in (",", ";")
        return (kind == "c" and text in _SEPARATORS) or self.word_is("and", "or") or self.at_condition()

    def at_condition(self) -> bool:
        return self.word_is(*_CONDITIONS) or self.token == ("c", "forall")

    def separator(self) -> bool:
        kind, text = self.token
        if (
            (kind == "o" and text in (",", ";"))
            or (kind == "c" and text in ("newline", "land"))
            or self.word_is("and")
        ):
            self.advance()
            return True
        if self.at_condition():
            # a trailing condition: "for n >= 1", "where k is an integer"
            rest = " ".join(t[1] for t in self.items[self.at + 1 : -1])
            if len(rest) > 80 or not self.at:
                raise ParseError("a condition in words")
            while self.token != END:
                if self.token[0] == "o" and self.token[1] in ")]}":
                    raise ParseError("a condition inside brackets")
                self.advance()
            return True
        return False

    def relation(self) -> Node:
        self.enter()
        operands = [self.union()]
        ops: list[str] = []
        while True:
            kind, text = self.token
            name = RELATIONS.get(text) if kind in ("o", "c") else None
            if name is None and self.word_is("in") and kind == "t":
                name = "in"
            if name is None and kind == "o" and text == ":" and self.peek()[0] in ("n", "c", "s") and not ops:
                self.advance()  # a ratio, or "x: 5"
                right = self.union()
                operands[-1] = (
                    ("div", operands[-1], right) if operands[-1][0] in ("num", "dec") else operands[-1]
                )
                if operands[-1][0] != "div":
                    ops.append("=")
                    operands.append(right)
                continue
            if name is None:
                break
            self.advance()
            if name == "notin" or (self.token == ("o", "=") and name in "<>"):
                if name == "notin":
                    raise ParseError("not in")
                self.advance()
                name += "="
            ops.append(name)
            if self.token == END or self.at_separator():
                raise ParseError("a relation without a right side")
            operands.append(self.union())
        self.depth -= 1
        if not ops:
            return operands[0]
        return ("rel", tuple(ops), tuple(operands))

    def union(self) -> Node:
        node = self.expression()
        if self.token == ("c", "choose"):
            self.advance()
            return ("fn", "binom", (node, self.expression()))
        if self.token == ("c", "over"):
            self.advance()
            return ("div", node, self.expression())
        while (self.token[0] == "c" and self.token[1] in ("cup", "cap", "setminus")) or (
            self.token == ("s", "U")
            and node[0] in ("seq", "set")
            and self.peek()[1] in ("(", "[", "{", "\\{")
        ):
            op = self.advance()[1]
            right = self.set_braces() if self.token == ("o", "{") else self.expression()
            if op in ("cup", "U"):
                node = ("union", (*(node[1] if node[0] == "union" else (node,)), right))
            else:
                node = ("inter", (node, right)) if op == "cap" else ("minus", node, right)
        return node
