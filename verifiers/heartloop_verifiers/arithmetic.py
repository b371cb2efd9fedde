"""The parser's middle layer: sums, products written and implied, powers, units behind numbers."""

from __future__ import annotations

from fractions import Fraction

from .atoms import Atoms
from .cursor import RELATIONS
from .lexer import ParseError, Token
from .nodes import Node, is_noun, is_value, product
from .units import find_unit
from .words import FUNCTION_WORDS, GREEK, NUMBER_WORDS, SPECIAL_WORDS, STOP_WORDS

__all__ = ["Arithmetic"]

_NO_FACTOR = frozenset(
    [
        "cdot",
        "times",
        "choose",
        "over",
        "forall",
        "mapsto",
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


class Arithmetic(Atoms):
    """Expressions of one value."""

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
        return self.suffix(self.residue(node))

    def residue(self, node: Node) -> Node:
        r"""``\pmod 3`` or "(mod 3)" behind a number."""
        if self.token in (("c", "pmod"), ("c", "mod"), ("c", "bmod"), ("w", "mod")):
            self.advance()
            return ("modulo", node, self.argument_or_number())
        if self.token == ("o", "(") and self.peek() in (
            ("w", "mod"),
            ("c", "mod"),
            ("c", "bmod"),
            ("t", "mod"),
        ):
            self.advance()
            self.advance()
            modulus = self.expression()
            self.expect(")")
            return ("modulo", node, modulus)
        return node

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
        counted = unit is None and is_value(node) and all(w.replace(" ", "").isalpha() for w in words)
        if counted and "cdot" not in words and len(phrase) <= 60 and is_noun(phrase):
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
                    factors = [("div", product(factors), right)]
            elif kind == "c" and text in ("cdot", "times", "div"):
                self.advance()
                right = self.unary()
                if text == "div":
                    factors = [("div", product(factors), right)]
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
                elif (
                    len(factors) == 1
                    and previous[0] == "num"
                    and right[0] in ("percent", "degree")
                    and isinstance(previous[1], int)
                    and (mixed := self.mixed(right[1])) is not None
                ):
                    factors = [(right[0], ("num", previous[1] + mixed))]
                else:
                    factors.append(right)
            else:
                break
        return product(factors)

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

    def looks_mixed(self) -> bool:
        r"""At ``\frac{1}{2}``, ``\frac12`` or "1/2" in plain numerals? Looks ahead, so that nothing is
        parsed twice."""
        if self.token == ("c", "frac"):
            kinds = [self.peek(k)[0 if k in (2, 5) else 1] for k in range(1, 7)]
            return kinds == ["{", "n", "}", "{", "n", "}"] or self.peek()[0] == "n"
        return self.token[0] == "n" and self.peek() == ("o", "/") and self.peek(2)[0] == "n"

    def starts_factor(self) -> bool:
        kind, text = self.token
        if kind in ("n", "s"):
            return not (kind == "s" and text == "U" and self.peek()[1] in ("(", "[", "{", "\\{"))
        if kind == "o" and text == "(" and self.peek()[1] in ("mod", "bmod"):
            return False
        if kind == "o":
            return text in ("(", "[", "{", "\\{") or (text == "|" and not self.bars)
        if kind == "c":
            return text not in _NO_FACTOR and text not in RELATIONS and text not in STOP_WORDS
        if kind == "w":
            return not self.at_separator() and self.resolve_word(text) is not None
        return False

    def resolve_word(self, word: str) -> list[Token] | None:
        """The tokens a run of letters stands for in mathematics; None where it is a word."""
        if word in FUNCTION_WORDS and not (word == "min" and self.peek()[1] not in ("(", "{", "_")):
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
            if inner[0] == "num" and isinstance(inner[1], int) and self.looks_mixed():
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
            if self.token in (("t", "C"), ("s", "C"), ("t", "F"), ("s", "F")):
                return ("quantity", base, ("temperature " + self.advance()[1], Fraction(1)))
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
