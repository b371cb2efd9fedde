"""A parser's cursor over tokens, and the rules that its layers owe one another."""

from __future__ import annotations

from collections.abc import Callable

from .lexer import ParseError, Token
from .nodes import Node

__all__ = ["END", "FUNCTIONS", "RELATIONS", "Cursor"]

END: Token = ("end", "")
_DEPTH = 60

RELATIONS = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", ":=": "=", "le": "<=",
    "ge": ">=", "ne": "!=",
    "approx": "~", "equiv": "=", "in": "in", "notin": "notin", "sim": "~", "subset": "in", "subseteq": "in",
}  # fmt: skip
FUNCTIONS = frozenset(
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


class Cursor:
    """The tokens, where the parser is, and how deep."""

    def __init__(self, items: list[Token]) -> None:
        self.items = items
        self.items.append(END)
        self.at = 0
        self.token = items[0]
        self.depth = 0
        self.bars = 0

    # --- tokens ---

    def advance(self) -> Token:
        token = self.token
        self.at += 1
        self.token = self.items[self.at] if self.at < len(self.items) else END
        return token

    def peek(self, ahead: int = 1) -> Token:
        index = self.at + ahead
        return self.items[index] if index < len(self.items) else END

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

    def word_is(self, *words: str) -> bool:
        return self.token[0] in ("w", "t") and self.token[1].strip(" ,").lower() in words

    # what :mod:`.atoms` and :mod:`.arithmetic` need from the layers above them

    def sequence(self, ended: Callable[[], bool]) -> tuple[list[Node], bool]:
        raise NotImplementedError

    def reparsed(self, text: str) -> Node:
        raise NotImplementedError

    def argument_or_number(self) -> Node:
        raise NotImplementedError

    def at_separator(self) -> bool:
        raise NotImplementedError

    def relation(self) -> Node:
        raise NotImplementedError

    def expression(self) -> Node:
        raise NotImplementedError

    def power(self) -> Node:
        raise NotImplementedError

    def exponent(self) -> Node | None:
        raise NotImplementedError

    def starts_factor(self) -> bool:
        raise NotImplementedError

    def resolve_word(self, word: str) -> list[Token] | None:
        raise NotImplementedError
