r"""A recursive-descent parser for answers: LaTeX as models and data sets write it, and plain text.

Nodes are tuples whose first item names them:

======================================  ====================================================================
``("num", value)``                      an exact rational (int or Fraction)
``("dec", value, ulp, digits)``         a decimal numeral: value, size of its last place, significant digits
``("sym", name)`` ``("const", name)``   a variable; pi, e, i, inf
``("add", (..))`` ``("mul", (..))``     sums and products; ``("div", a, b)`` ``("pow", a, b)`` ``("neg", a)``
``("pm", a)`` ``("mp", a)``             plus-minus and minus-plus
``("fn", name, (..))``                  a known function; ``("call", name, (..))`` an unknown one
``("seq", open, close, (..))``          tuple or interval with its brackets; ``("set", (..))``; ``("list", (..))``
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
from fractions import Fraction
from typing import Any

from .lexer import ParseError, Token, tokens
from .units import find_unit, is_loose_unit
from .words import FUNCTION_WORDS, GREEK, NUMBER_WORDS, SPECIAL_WORDS, STOP_WORDS

__all__ = ["Node", "ParseError", "parse"]

Node = tuple[Any, ...]
_END: Token = ("end", "")
_DEPTH = 60

_RELATIONS = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", ":=": "=", "le": "<=", "ge": ">=", "ne": "!=",
    "approx": "~", "equiv": "=", "in": "in", "notin": "notin", "sim": "~", "subset": "in", "subseteq": "in",
}  # fmt: skip
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "arccot",
        "sinh",
        "cosh",
        "tanh",
        "coth",
        "log",
        "ln",
        "lg",
        "exp",
        "min",
        "max",
        "gcd",
        "lcm",
        "det",
        "arg",
        "Re",
        "Im",
        "sgn",
        "sign",
    ]
)
_STYLE_ARGS = frozenset(
    ("overline", "bar", "hat", "tilde", "overrightarrow", "vec", "underline", "widehat", "widetilde", "dot")
)
_MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "vmatrix", "Bmatrix", "array", "smallmatrix"))
_CALLED = frozenset("fghFGH")


def parse(text: str, *, merge_commas: bool = True) -> Node:
    """The node that ``text`` (see :func:`.clean.clean`) stands for; raises :class:`ParseError`."""
    parser = _Parser(tokens(text, merge_commas=merge_commas))
    node = parser.answer()
    if parser.token != _END:
        raise ParseError(f"unexpected {parser.token[1]!r}")
    return node


class _Parser:
    def __init__(self, items: list[Token]) -> None:
        self.items = items
        self.items.append(_END)
        self.at = 0
        self.token = items[0]
        self.depth = 0
        self.bars = 0

    # --- tokens ---

    def advance(self) -> Token:
        token = self.token
        self.at += 1
        self.token = self.items[self.at] if self.at < len(self.items) else _END
        return token

    def peek(self, ahead: int = 1) -> Token:
        index = self.at + ahead
        return self.items[index] if index < len(self.items) else _END

    def accept(self, *texts: str) -> bool:
        if self.token[0] == "o" and self.token[1] in texts:
            self.advance()
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise ParseError(f"expected {text!r}, found {self.token[1]!r}")

    def enter(self) -> None:
        self.depth += 1
        if self.depth > _DEPTH:
            raise ParseError("nested too deeply")

    # --- lists and relations ---

    def answer(self) -> Node:
        items, alternatives = self.sequence(lambda: self.token == _END)
        items = [item for item in items if not _is_domain(item)] or items
        if len(items) == 1:
            return items[0]
        if alternatives and all(
            item[0] in ("rel", "seq", "union", "or") and _is_region(item) for item in items
        ):
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
            if self.token == _END:
                raise ParseError("unbalanced bracket")
            items.append(self.relation())
            if not (ended() or self.at_separator()):
                raise ParseError(f"unexpected {self.token[1]!r}")
        if not items:
            raise ParseError("nothing there")
        return items, alternatives

    def word_is(self, *words: str) -> bool:
        return self.token[0] in ("w", "t") and self.token[1].strip(" ,").lower() in words

    def at_separator(self) -> bool:
        kind, text = self.token
        return (
            (kind == "o" and text in (",", ";"))
            or (kind == "c" and text in ("newline", "lor", "land", "newline", "to"))
            or self.word_is("and", "or", "where", "with", "for", "such that")
        )

    def separator(self) -> bool:
        kind, text = self.token
        if (
            (kind == "o" and text in (",", ";"))
            or (kind == "c" and text in ("newline", "land"))
            or self.word_is("and")
        ):
            self.advance()
            return True
        if self.word_is("where", "with", "for"):
            # a trailing condition: "for n >= 1", "where k is an integer"
            rest = " ".join(t[1] for t in self.items[self.at + 1 : -1])
            if len(rest) > 80 or not self.at:
                raise ParseError("a condition in words")
            while self.token != _END:
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
            name = _RELATIONS.get(text) if kind in ("o", "c") else None
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
            if self.token == _END or self.at_separator():
                raise ParseError("a relation without a right side")
            operands.append(self.union())
        self.depth -= 1
        if not ops:
            return operands[0]
        return ("rel", tuple(ops), tuple(operands))

    def union(self) -> Node:
        node = self.expression()
        while (self.token[0] == "c" and self.token[1] in ("cup", "cap", "setminus")) or (
            self.token == ("s", "U")
            and node[0] in ("seq", "set")
            and self.peek()[1] in ("(", "[", "{", "\\{")
        ):
            op = self.advance()[1]
            right = self.expression()
            if op in ("cup", "U"):
                node = ("union", (*(node[1] if node[0] == "union" else (node,)), right))
            else:
                node = ("inter", (node, right)) if op == "cap" else ("minus", node, right)
        return node

    # --- arithmetic ---

    def expression(self) -> Node:
        self.enter()
        kind, text = self.token
        terms: list[Node] = [self.term()]
        while True:
            kind, text = self.token
            if kind == "o" and text in "+-":
                self.advance()
                term = self.term()
                terms.append(("neg", term) if text == "-" else term)
            elif kind == "c" and text in ("pm", "mp"):
                self.advance()
                terms.append((text, self.term()))
            else:
                break
        self.depth -= 1
        node = terms[0] if len(terms) == 1 else ("add", tuple(terms))
        return self.suffix(node)

    def suffix(self, node: Node) -> Node:
        """Words after a number: a unit, or a noun that says what was counted."""
        kind, _text = self.token
        if kind not in ("w", "t") or self.at_separator() or self.word_is("in"):
            return node
        words: list[str] = []
        start = self.at
        while (
            self.token[0] in ("w", "t", "n", "s")
            or (self.token[0] == "o" and self.token[1] in "/^{}")
            or self.token[1] in ("cdot",)
        ):
            if self.token != ("o", "^") and self.at_separator():
                break
            if self.token[1] in ("{", "}") and "^" not in words:
                break
            words.append(self.advance()[1])
        phrase = " ".join(words).replace(" ^ ", "^").replace("{ ", "").replace(" }", "")
        unit = find_unit(phrase)
        if unit is None and "cdot" not in words and "^" not in words and "/" not in words and _is_value(node):
            if all(w.replace(" ", "").isalpha() for w in words) and len(phrase) <= 60 and _is_noun(phrase):
                return ("quantity", node, (phrase.lower(), Fraction(1)))
        if unit is None:
            self.at = start
            self.token = self.items[start]
            return node
        if unit[0] == "degree":
            return ("degree", node)
        return ("quantity", node, unit)

    def term(self) -> Node:
        node = self.unary()
        factors = [node]
        while True:
            kind, text = self.token
            if kind == "o" and text in "*/":
                self.advance()
                right = self.unary()
                if text == "*":
                    factors.append(right)
                else:
                    factors = [("div", _product(factors), right)]
            elif kind == "c" and text in ("cdot", "times", "div"):
                self.advance()
                right = self.unary()
                if text == "div":
                    factors = [("div", _product(factors), right)]
                else:
                    factors.append(right)
            elif self.starts_factor():
                right = self.power()
                previous = factors[-1]
                if (
                    len(factors) == 1
                    and previous[0] == "num"
                    and isinstance(previous[1], int)
                    and (mixed := self.mixed(right)) is not None
                ):
                    factors = [("num", previous[1] + mixed)]
                else:
                    factors.append(right)
            else:
                break
        return _product(factors)

    def mixed(self, right: Node) -> Fraction | None:
        r"""The fraction of a mixed numeral: ``3\frac{1}{2}``, "3 1/2"."""
        if right[0] == "div" and right[1][0] == right[2][0] == "num" and right[2][1] != 0:
            value = (
                Fraction(right[1][1], right[2][1])
                if isinstance(right[1][1], int) and isinstance(right[2][1], int)
                else None
            )
            return value if value is not None and 0 < value < 1 else None
        if (
            right[0] == "num"
            and self.token == ("o", "/")
            and self.peek()[0] == "n"
            and self.peek()[1].isdigit()
        ):
            denominator = int(self.peek()[1]) if len(self.peek()[1]) < 50 else 0
            if isinstance(right[1], int) and 0 < right[1] < denominator:
                self.advance()
                self.advance()
                return Fraction(right[1], denominator)
        return None

    def starts_factor(self) -> bool:
        kind, text = self.token
        if kind in ("n", "s"):
            return not (kind == "s" and text == "U" and self.peek()[1] in ("(", "[", "{", "\\{"))
        if kind == "o":
            return text in ("(", "[", "{", "\\{") or (text == "|" and not self.bars)
        if kind == "c":
            return text not in _NO_FACTOR and text not in _RELATIONS and text not in STOP_WORDS
        if kind == "w":
            return not self.at_separator() and self.resolve_word(text) is not None
        return False

    def resolve_word(self, word: str) -> list[Token] | None:
        """The tokens a run of letters stands for in mathematics; None where it is a word."""
        if word in FUNCTION_WORDS:
            return [("c", FUNCTION_WORDS[word])]
        if word in GREEK:
            return [("c", word)]
        lower = word.lower()
        if (
            lower in NUMBER_WORDS
            or lower in SPECIAL_WORDS
            or lower in STOP_WORDS
            or find_unit(word) is not None
        ):
            return None
        for name, command in _PREFIXES:
            if word.startswith(name) and len(word) <= len(name) + 2:
                return [("c", command), *(("s", c) for c in word[len(name) :])]
            if word.endswith(name) and len(word) <= len(name) + 2:
                return [*(("s", c) for c in word[: -len(name)]), ("c", command)]
        if len(word) <= 3:
            return [("s", c) for c in word]
        return None

    def unary(self) -> Node:
        self.enter()
        kind, text = self.token
        if kind == "o" and text in "+-":
            self.advance()
            inner = self.unary()
            node: Node = ("neg", inner) if text == "-" else inner
            # -2 \frac{1}{2}: the mixed numeral binds first
            if inner[0] == "num" and isinstance(inner[1], int) and self.starts_factor():
                saved = self.at
                right = self.power()
                mixed = self.mixed(right)
                if mixed is not None:
                    value = inner[1] + mixed
                    node = ("num", -value if text == "-" else value)
                else:
                    self.at, self.token = saved, self.items[saved]
        elif kind == "c" and text in ("pm", "mp"):
            self.advance()
            node = (text, self.unary())
        else:
            node = self.power()
        self.depth -= 1
        return node

    def power(self) -> Node:
        base = self.postfix(self.atom())
        if self.token != ("o", "^"):
            return base
        self.advance()
        exponent = self.exponent()
        if exponent is None:
            return self.power_again(self.postfix(("degree", base)))
        if exponent[0] == "primed":
            return self.power_again(
                self.postfix(base if base[0] != "sym" else ("sym", base[1] + "'" * exponent[1]))
            )
        return self.power_again(self.postfix(("pow", base, exponent)))

    def power_again(self, node: Node) -> Node:
        if self.token == ("o", "^"):
            self.advance()
            exponent = self.exponent()
            if exponent is None:
                return ("degree", node)
            node = (
                ("pow", node[1], ("pow", node[2], exponent)) if node[0] == "pow" else ("pow", node, exponent)
            )
            return self.postfix(node)
        return node

    def exponent(self) -> Node | None:
        """What stands after ^; None for a degree sign."""
        kind, text = self.token
        if kind == "c" and text in ("circ", "circdeg"):
            self.advance()
            return None
        if kind == "c" and text == "prime":
            self.advance()
            return ("primed", 1)
        if kind == "o" and text == "{":
            if self.peek() in (("c", "circ"), ("c", "circdeg")) and self.peek(2) == ("o", "}"):
                for _ in range(3):
                    self.advance()
                return None
            if self.peek() == ("c", "prime"):
                count = 0
                self.advance()
                while self.token == ("c", "prime"):
                    self.advance()
                    count += 1
                self.expect("}")
                return ("primed", count)
            return self.braces()
        if kind == "o" and text in "+-":
            self.advance()
            inner = self.exponent()
            if inner is None:
                raise ParseError("a signed degree")
            return ("neg", inner) if text == "-" else inner
        return self.atom()

    def postfix(self, node: Node) -> Node:
        while True:
            kind, text = self.token
            if kind == "o" and text == "!":
                self.advance()
                if self.token == ("o", "!"):
                    self.advance()
                    node = ("fn", "factorial2", (node,))
                else:
                    node = ("fn", "factorial", (node,))
            elif kind == "o" and text == "%":
                self.advance()
                node = ("percent", node)
            elif kind == "c" and text in ("circdeg", "circ"):
                self.advance()
                node = ("degree", node)
            elif kind == "o" and text == "'" and node[0] == "sym":
                self.advance()
                node = ("sym", node[1] + "'")
            elif self.word_is("percent", "per cent"):
                self.advance()
                node = ("percent", node)
            else:
                return node

    # --- atoms ---

    def argument(self) -> Node:
        r"""One argument of a LaTeX command: braces, or the next single thing."""
        kind, text = self.token
        if kind == "o" and text == "{":
            return self.braces()
        if kind == "n" and len(text) > 1 and text.isdigit():
            # \frac12: one digit each
            self.items[self.at] = self.token = ("n", text[1:])
            return ("num", int(text[0]))
        if kind == "o" and text in "+-":
            self.advance()
            inner = self.argument()
            return ("neg", inner) if text == "-" else inner
        return self.atom()

    def braces(self) -> Node:
        self.expect("{")
        bars, self.bars = self.bars, 0
        items, _ = self.sequence(lambda: self.token == ("o", "}"))
        self.bars = bars
        self.expect("}")
        return items[0] if len(items) == 1 else ("set", tuple(items))

    def atom(self) -> Node:
        self.enter()
        node = self._atom()
        self.depth -= 1
        return node

    def _atom(self) -> Node:
        kind, text = self.token
        if kind == "n":
            self.advance()
            return self.numeral(text)
        if kind == "s":
            self.advance()
            return self.symbol(text)
        if kind == "c":
            self.advance()
            return self.command(text)
        if kind == "o":
            if text in ("(", "["):
                return self.brackets(text)
            if text == "{":
                return self.braces()
            if text == "\\{":
                return self.set_braces()
            if text == "|":
                return self.bar_group()
            if text == "]":  # French open interval ]a, b[
                return self.reversed_interval()
            if text == "." and self.at == 0:
                self.advance()
                return self._atom()
        if kind == "w":
            expanded = self.resolve_word(text)
            if expanded is not None:
                self.items[self.at : self.at + 1] = expanded
                self.token = self.items[self.at]
                return self._atom()
            return self.words()
        if kind == "t":
            return self.words()
        raise ParseError(f"unexpected {text!r}")

    def numeral(self, text: str) -> Node:
        if text.isdigit():
            return ("num", int(text)) if len(text) < 4000 else ("num", big_int(text))
        value, ulp, digits = decimal(text)
        if self.token == ("c", "overline") or (self.token == ("c", "dot") and self.peek()[0] in "on"):
            self.advance()
            repeated = self.items[self.at : self.at + 3]
            if repeated[0] == ("o", "{") and repeated[1][0] == "n" and repeated[2] == ("o", "}"):
                for _ in range(3):
                    self.advance()
                places = len(repeated[1][1])
                if places < 50:
                    return ("num", value + ulp * Fraction(int(repeated[1][1]), 10**places - 1))
            raise ParseError("a repeating decimal")
        if (
            self.token == ("o", "(")
            and self.peek()[0] == "n"
            and self.peek(2) == ("o", ")")
            and value < 1
            and "." in text
        ):
            repeated_digits = self.peek()[1]
            if repeated_digits.isdigit() and len(repeated_digits) <= 12 and self.peek(3)[1] in ("", ",", ")"):
                for _ in range(3):
                    self.advance()
                return ("num", value + ulp * Fraction(int(repeated_digits), 10 ** len(repeated_digits) - 1))
        return ("dec", value, ulp, digits)

    def symbol(self, name: str) -> Node:
        if name == "e" and self.token != ("o", "_"):
            return ("const", "e")
        if name == "i" and self.token != ("o", "_"):
            return ("const", "i")
        if self.token == ("o", "_"):
            self.advance()
            subscript = self.raw_group()
            name = f"{name}_{subscript}"
            if name.startswith("C_") and self.token == ("o", "^") and self.peek() != ("c", "circ"):
                self.advance()
                lower = parse(subscript)
                return ("fn", "binom", (lower, self.argument()))
        while self.token == ("o", "'"):
            self.advance()
            name += "'"
        if self.token == ("o", "(") and (
            name.rstrip("'") in _CALLED or name[:2] in ("f_", "g_") or self.is_definition()
        ):
            call = self.brackets("(")
            arguments = call[3] if call[0] == "seq" else (call,)
            return ("call", name, arguments)
        return ("sym", name)

    def is_definition(self) -> bool:
        """At ``(``: is this ``N(n) = ...`` rather than a product?"""
        index = self.at + 1
        while index < len(self.items) and (self.items[index][0] == "s" or self.items[index] == ("o", ",")):
            index += 1
        if index == self.at + 1 or self.items[index] != ("o", ")") or self.items[index + 1] != ("o", "="):
            return False
        return (
            self.at == 1
            or self.items[self.at - 2][1] in (",", "and", ";")
            or self.items[self.at - 2][0] == "end"
        )

    def raw_group(self) -> str:
        """The text of a subscript, as a name."""
        if self.token == ("o", "{"):
            depth = 0
            parts: list[str] = []
            while True:
                token = self.advance()
                if token == _END:
                    raise ParseError("unbalanced subscript")
                depth += token == ("o", "{")
                depth -= token == ("o", "}")
                if depth == 0:
                    return "".join(parts[1:]).strip()
                parts.append(token[1])
        if self.token[0] in ("n", "s", "c", "w", "t"):
            if self.token[0] == "n" and len(self.token[1]) > 1 and self.token[1].isdigit():
                digit = self.token[1][0]
                self.items[self.at] = self.token = ("n", self.token[1][1:])
                return digit
            return self.advance()[1].strip()
        raise ParseError("a strange subscript")

    def brackets(self, opening: str) -> Node:
        self.advance()
        bars, self.bars = self.bars, 0
        if self.accept(")", "]"):
            return ("set", ()) if opening == "(" else ("seq", "[", "]", ())
        items, alternatives = self.sequence(self.at_closing)
        self.bars = bars
        closing = self.advance()[1]
        if closing == "[":  # [a, b[
            if len(items) != 2:
                raise ParseError("unbalanced bracket")
            closing = ")"
        if len(items) == 1 and not alternatives:
            if opening == "(" and closing == ")":
                return items[0] if items[0][0] != "quantity" else items[0]
            if opening == "[" and closing == "]":
                return ("seq", "[", "]", tuple(items)) if items[0][0] == "seq" else items[0]
            raise ParseError("unbalanced bracket")
        if alternatives:
            return ("list", tuple(items))
        if (
            opening == "["
            and closing == "]"
            and all(i[0] == "seq" and i[1] == "[" for i in items)
            and len(items) > 1
        ):
            if len({len(i[3]) for i in items}) == 1:
                return ("matrix", tuple(i[3] for i in items))
        return ("seq", opening, closing, tuple(items))

    def at_closing(self) -> bool:
        """At ``)`` or ``]``, or at the ``[`` that closes the half-open ``[a, b[``."""
        if self.token[0] != "o" or self.token[1] not in (")", "]", "["):
            return False
        return self.token[1] != "[" or self.items[self.at - 1][1] not in (",", ";", "(", "[")

    def reversed_interval(self) -> Node:
        self.advance()
        items, _ = self.sequence(lambda: self.token[0] == "o" and self.token[1] in ("[", "]"))
        if len(items) != 2:
            raise ParseError("unbalanced bracket")
        return ("seq", "(", ")" if self.advance()[1] == "[" else "]", tuple(items))

    def set_braces(self) -> Node:
        self.advance()
        bars, self.bars = self.bars, 0
        if self.accept("\\}", "}"):
            self.bars = bars
            return ("set", ())
        first = self.at
        items, _ = self.sequence(
            lambda: (
                (self.token[0] == "o" and self.token[1] in ("\\}", "}", "|", ":"))
                or self.token == ("c", "mid")
                or self.word_is("such that")
            )
        )
        if self.token == ("c", "mid") or self.token[1] in ("|", ":") or self.token[0] in "wt":
            # {x | condition}: the condition is the set
            if len(items) != 1 or self.at - first > 12:
                raise ParseError("a set by description")
            self.advance()
            items, _ = self.sequence(lambda: self.token[0] == "o" and self.token[1] in ("\\}", "}"))
            self.advance()
            self.bars = bars
            items = [item for item in items if not _is_domain(item)] or items
            if len(items) != 1 or not _is_region(items[0]):
                raise ParseError("a set by description")
            return items[0]
        self.advance()
        self.bars = bars
        return ("set", tuple(items))

    def bar_group(self) -> Node:
        self.advance()
        self.bars += 1
        inner = self.expression()
        self.bars -= 1
        if not self.accept("|"):
            raise ParseError("unbalanced |")
        return ("fn", "abs", (inner,))

    def words(self) -> Node:
        """A run of words that are an answer of their own: a number's name, "no solution", a name."""
        parts: list[str] = []
        start = self.at
        while self.token[0] in ("w", "t") or (parts and self.token[0] == "s"):
            parts.append(self.advance()[1])
        phrase = " ".join(" ".join(parts).lower().replace("-", " ").split()).strip(" .")
        if phrase in SPECIAL_WORDS:
            return SPECIAL_WORDS[phrase]
        value = NUMBER_WORDS.get(phrase)
        if value is not None:
            return ("num", value)
        first = parts[0].lower()
        if first in NUMBER_WORDS and len(parts) > 1 and self.items[start][0] == "w":
            self.at = start + 1
            self.token = self.items[self.at]
            if self.token[0] == "w" and self.token[1].lower() in NUMBER_WORDS:
                raise ParseError("a number in words")
            return ("num", NUMBER_WORDS[first])
        if (start == 0 and self.token == ("o", "=")) or self.token == ("o", ":"):
            return ("sym", phrase)
        raise ParseError(f"words: {phrase[:40]!r}")

    def command(self, name: str) -> Node:
        if name == "frac":
            top = self.argument()
            return ("div", top, self.argument())
        if name == "sqrt":
            if self.token == ("o", "["):
                self.advance()
                index = self.expression()
                self.expect("]")
                return ("fn", "root", (self.root_argument(), index))
            return ("fn", "sqrt", (self.root_argument(),))
        if name == "binom":
            top = self.argument()
            return ("fn", "binom", (top, self.argument()))
        if name == "pi":
            return ("const", "pi")
        if name == "infty":
            return ("const", "inf")
        if name in ("lfloor", "lceil"):
            inner = self.expression()
            if self.token != ("c", "r" + name[1:]):
                raise ParseError(f"\\{name} without its partner")
            self.advance()
            return ("fn", name[1:], (inner,))
        if name in _FUNCTIONS:
            return self.function(name)
        if name in ("floor", "ceil", "abs", "factorial", "choose2", "gcd", "lcm"):
            inner = self.brackets("(") if self.token == ("o", "(") else self.argument()
            if name == "choose2":
                return ("fn", "binom", inner[3] if inner[0] == "seq" else (inner,))
            return ("fn", name, inner[3] if inner[0] == "seq" else (inner,))
        if name == "emptyset":
            return ("set", ())
        if name == "begin":
            return self.environment()
        if name in _STYLE_ARGS:
            inner = self.argument()
            if inner[0] in ("num", "sym", "mul"):
                return inner if inner[0] != "mul" else ("word", f"{name}{inner}")
            raise ParseError(f"\\{name}")
        if name.startswith("mathbb"):
            return ("domain", name[6:])
        if name == "langle":
            items, _ = self.sequence(lambda: self.token == ("c", "rangle"))
            self.advance()
            return ("seq", "(", ")", tuple(items))
        if name == "i":
            return ("const", "i")
        if name in GREEK:
            return self.symbol("\\" + name)
        if name in ("dots", "prime", "cdot"):
            raise ParseError(f"\\{name}")
        if name in ("angle", "triangle"):
            points = []
            while self.token[0] in ("s", "w"):
                _kind, text = self.advance()
                if self.token == ("o", "_"):
                    self.advance()
                    text += "_" + self.raw_group()
                points.append(text)
            return ("sym", f"\\{name} {''.join(points)}")
        if name in ("pmod", "bmod", "mod"):
            raise ParseError("a congruence")
        raise ParseError(f"unknown command \\{name}")

    def root_argument(self) -> Node:
        if self.token[0] == "n":
            self.advance()
            return self.numeral(self.items[self.at - 1][1])
        if self.token == ("o", "("):
            return self.brackets("(")
        return self.argument()

    def function(self, name: str) -> Node:
        base: Node | None = None
        exponent: Node | None = None
        for _ in range(2):
            if self.token == ("o", "_"):
                self.advance()
                base = self.argument_or_number()
            elif self.token == ("o", "^"):
                self.advance()
                exponent = self.exponent()
        if self.token == ("o", "(") or self.token == ("o", "["):
            inner = self.brackets(self.token[1])
            arguments = inner[3] if inner[0] == "seq" else (inner,)
        else:
            arguments = (self.function_argument(),)
        if name in ("log", "lg", "ln"):
            if len(arguments) > 2 or (len(arguments) == 2 and base is not None):
                raise ParseError("log of several")
            if base is not None:
                arguments = (arguments[0], base)
            elif name == "lg":
                arguments = (arguments[0], ("num", 10))
            node: Node = ("fn", "log", arguments)
        elif exponent == ("neg", ("num", 1)) and name in ("sin", "cos", "tan"):
            return ("fn", "arc" + name, arguments)
        else:
            node = ("fn", name, arguments)
        return node if exponent is None else ("pow", node, exponent)

    def argument_or_number(self) -> Node:
        if self.token[0] == "n":
            self.advance()
            return self.numeral(self.items[self.at - 1][1])
        return self.argument()

    def function_argument(self) -> Node:
        """``\\sin 2x``: the factors up to the next operator or function."""
        if self.token == ("o", "-"):
            self.advance()
            return ("neg", self.function_argument())
        factors = [self.power()]
        while self.starts_factor():
            kind, text = self.token
            if (kind == "c" and text in _FUNCTIONS) or (kind == "w") or (kind == "o" and text in ("(", "[")):
                break
            factors.append(self.power())
        if self.token == ("o", "/") and self.peek()[0] == "n" and len(factors) == 1:
            self.advance()
            return ("div", factors[0], self.power())
        return _product(factors)

    def environment(self) -> Node:
        self.expect("{")
        name = self.advance()[1]
        self.accept("*")
        self.expect("}")
        if name not in _MATRICES:
            raise ParseError(f"environment {name}")
        if name == "array":
            self.raw_group()
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while True:
            if self.token == ("c", "end"):
                break
            if self.token == ("o", "&"):
                self.advance()
            elif self.token == ("c", "newline"):
                self.advance()
                if row:
                    rows.append(tuple(row))
                row = []
            elif self.token == _END:
                raise ParseError("unbalanced environment")
            else:
                row.append(self.relation())
        if row:
            rows.append(tuple(row))
        self.advance()
        self.raw_group()
        if not rows or len({len(r) for r in rows}) != 1:
            raise ParseError("a ragged matrix")
        node: Node = ("matrix", tuple(rows))
        return ("fn", "det", (node,)) if name == "vmatrix" else node


_NO_FACTOR = frozenset(
    [
        "cdot",
        "times",
        "div",
        "pm",
        "mp",
        "cup",
        "cap",
        "setminus",
        "rfloor",
        "rceil",
        "newline",
        "end",
        "to",
        "lor",
        "land",
        "mid",
        "dots",
        "rangle",
        "circ",
        "circdeg",
        "prime",
        "in",
        "notin",
        "bmod",
        "pmod",
        "mod",
        "quad",
    ]
)
_PREFIXES = (
    ("sqrt", "sqrt"),
    ("pi", "pi"),
    ("sin", "sin"),
    ("cos", "cos"),
    ("tan", "tan"),
    ("log", "log"),
    ("ln", "ln"),
)


def _product(factors: list[Node]) -> Node:
    if len(factors) == 1:
        return factors[0]
    if len(factors) == 2 and factors[0][0] == "sym" and factors[1][0] == "seq" and factors[1][1:3] in (("(", "]"), ("[", ")")):
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
    return big_int(digits[:-half]) * 10**half + big_int(digits[-half:])


def _is_value(node: Node) -> bool:
    return node[0] in ("num", "dec", "div", "neg", "mul", "pow", "fn", "add", "const", "percent")


def _is_noun(phrase: str) -> bool:
    """Plain words that may follow a count: "apples", "square units", "ways to choose"; no negations."""
    words = phrase.lower().split()
    return len(words) <= 6 and not any(
        w in STOP_WORDS or w in ("not", "no", "mod", "if", "is", "but", "times") for w in words
    )


def _is_region(node: Node) -> bool:
    if node[0] == "rel":
        return all(op in ("<", ">", "<=", ">=", "in", "!=", "=") for op in node[1])
    return node[0] in ("seq", "union", "set", "or", "minus", "inter")


def _only_region(node: Node) -> bool:
    """A relation other than ``=``, a union, or brackets that no tuple has."""
    if node[0] == "rel":
        return node[1] != ("=",)
    if node[0] == "seq":
        return len(node[3]) == 2 and ((node[1], node[2]) != ("(", ")") or ("const", "inf") in node[3])
    return node[0] in ("union", "minus", "inter", "or")


def _is_domain(node: Node) -> bool:
    r"""``k \in \mathbb{Z}``: says what a letter ranges over."""
    return (
        node[0] == "rel"
        and node[1] == ("in",)
        and node[2][1][0] == "domain"
        and node[2][0][0] in ("sym", "const")
    )


def loose(node: Node) -> Node | None:
    """``5 m`` read as five metres instead of 5·m, or None."""
    if node[0] == "mul" and len(node[1]) >= 2 and node[1][-1][0] == "sym" and is_loose_unit(node[1][-1][1]):
        unit = find_unit(node[1][-1][1])
        if unit is not None:
            return ("quantity", _product(list(node[1][:-1])), unit)
    return None
