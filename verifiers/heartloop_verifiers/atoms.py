"""The parser's lowest layer: numerals, symbols, commands, brackets, words, matrices."""

from __future__ import annotations

from fractions import Fraction

from .cursor import END, FUNCTIONS, Cursor
from .lexer import ParseError
from .nodes import Node, based, big_int, decimal, is_domain, is_region, product
from .words import GREEK, NUMBER_WORDS, SPECIAL_WORDS

__all__ = ["Atoms"]

_STYLE_ARGS = frozenset(
    ("overline", "bar", "hat", "tilde", "overrightarrow", "vec", "underline", "widehat", "widetilde", "dot")
)
_MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "vmatrix", "Bmatrix", "array", "smallmatrix"))
_ROWS = frozenset(("cases", "aligned", "align", "gathered", "split", "dcases"))
_CALLED = frozenset("fghFGH")


class Atoms(Cursor):
    """One operand at a time."""

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
            if self.token == ("o", "_"):
                self.advance()
                return based(text, self.raw_group())
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
                lower = self.reparsed(subscript)
                return ("fn", "binom", (lower, self.argument()))
        while self.token == ("o", "'"):
            self.advance()
            name += "'"
        if name == "C" and self.token == ("o", "("):  # C(n, k); with one argument, a product
            pair = self.brackets("(")
            if pair[0] == "seq" and pair[1:3] == ("(", ")") and len(pair[3]) == 2:
                return ("fn", "binom", pair[3])
            return product([("sym", name), pair])
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
                if token == END:
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
                return items[0]
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
        ) and len({len(i[3]) for i in items}) == 1:
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
            items = [item for item in items if not is_domain(item)] or items
            if len(items) != 1 or not is_region(items[0]):
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
        if name in FUNCTIONS:
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
            # "log" without a base: natural at first, ten as a second reading (see `common_logs`)
            bare = name == "log" and len(arguments) == 1
            node: Node = ("fn", "log" if bare or len(arguments) > 1 else "ln", arguments)
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
            if (kind == "c" and text in FUNCTIONS) or (kind == "w") or (kind == "o" and text in ("(", "[")):
                break
            factors.append(self.power())
        if self.token == ("o", "/") and self.peek()[0] == "n" and len(factors) == 1:
            self.advance()
            return ("div", factors[0], self.power())
        return product(factors)

    def environment(self) -> Node:
        self.expect("{")
        name = self.advance()[1]
        self.accept("*")
        self.expect("}")
        if name in _ROWS:
            items, _ = self.sequence(lambda: self.token == ("c", "end"))
            self.advance()
            self.raw_group()
            return ("list", tuple(items))
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
            elif self.token == END:
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
