"""Words that mean something in an answer: numbers, functions, greek letters, "no solution"."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

__all__ = ["FRACTION_WORDS", "FUNCTION_WORDS", "GREEK", "NUMBER_WORDS", "SPECIAL_WORDS", "STOP_WORDS"]

GREEK = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "upsilon",
        "phi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Pi",
        "Sigma",
        "Upsilon",
        "Phi",
        "Psi",
        "Omega",
        "pi",
        "ell",
        "mho",
    ]
)

FUNCTION_WORDS: dict[str, str] = {
    name: name
    for name in ["sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh",
    "cosh", "tanh", "log", "ln", "lg", "exp", "min", "max", "gcd", "lcm", "floor", "ceil", "abs",
    "factorial", "binom", "det"]
} | {
    "Sqrt": "sqrt", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "binomial": "choose2",
    "comb": "choose2",
    "ceiling": "ceil", "infinity": "infty", "inf": "infty", "oo": "infty", "Infinity": "infty", "Pi": "pi",
    "PI": "pi",
    "union": "cup", "infty": "infty", "frac": "frac", "dfrac": "frac", "cup": "cup",
}  # fmt: skip

_UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def _numbers() -> dict[str, int]:
    small = {word: value for value, word in enumerate(_UNITS)}
    for tens, word in enumerate(_TENS, 2):
        small[word] = 10 * tens
        for value, unit in enumerate(_UNITS[1:10], 1):
            small[f"{word} {unit}"] = 10 * tens + value
    numbers = dict(small)
    for value, unit in enumerate(_UNITS[1:10], 1):
        numbers[f"{unit} hundred"] = 100 * value
        for word, rest in small.items():
            if rest:
                numbers[f"{unit} hundred {word}"] = numbers[f"{unit} hundred and {word}"] = 100 * value + rest
    thousands = {f"{word} thousand": 1000 * value for word, value in small.items() if value}
    return (
        numbers
        | thousands
        | {
            "one million": 10**6,
            "a hundred": 100,
            "a thousand": 1000,
            "hundred": 100,
            "dozen": 12,
            "twice": 2,
        }
    )


NUMBER_WORDS = _numbers()

_PARTS = ["half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
FRACTION_WORDS: dict[str, Fraction] = {"half": Fraction(1, 2), "a half": Fraction(1, 2)}
for _size, _part in enumerate(_PARTS, 2):
    for _count, _name in enumerate(_UNITS[1:10], 1):
        for _word in (_part, "fourth") if _part == "quarter" else (_part,):
            _plural = "halves" if _word == "half" else _word + "s"
            FRACTION_WORDS[f"{_name} {_word if _count == 1 else _plural}"] = Fraction(_count, _size)

_EMPTY: tuple[Any, ...] = ("set", ())
SPECIAL_WORDS: dict[str, tuple[Any, ...]] = {
    phrase: node
    for node, phrases in (
        (_EMPTY,
        "none|no solution|no solutions|no real solution|no real solutions|empty set|the empty set|no such number|"  # noqa: E501
         "no such numbers|no answer|no integer solutions|there are no solutions|there is no solution|no integers"),  # noqa: E501
        (("word", "infinitely many"), "infinitely many|infinitely many solutions|infinite|infinite solutions|"
         "infinite number of solutions|infinite number"),
        (("word", "undefined"), "undefined|does not exist|dne|doesnt exist|doesn't exist|not defined"),
        (("word", "all reals"),
        "all real numbers|all reals|real numbers|any real number|every real number|reals"),
        (("word", "yes"), "yes|true"),
        (("word", "no"), "no|false"),
        (("word", "unknown"),
        "unknown|cannot be determined|not enough information|undetermined|indeterminate"),
        (("word", "even"), "even|all even numbers"),
        (("word", "odd"), "odd|all odd numbers"),
        (("word", "all integers"), "all integers|integers|all positive integers"),
    )
    for phrase in phrases.split("|")
}  # fmt: skip
SPECIAL_WORDS["all integers"] = ("word", "all integers")
SPECIAL_WORDS["all positive integers"] = ("word", "all positive integers")

STOP_WORDS = frozenset(
    [
        "and",
        "or",
        "where",
        "with",
        "for",
        "such",
        "that",
        "the",
        "is",
        "are",
        "if",
        "then",
        "when",
        "otherwise",
        "because",
        "since",
        "so",
        "thus",
        "hence",
        "therefore",
        "any",
        "all",
        "arbitrary",
        "integer",
        "integers",
        "positive",
        "negative",
        "real",
        "some",
        "each",
        "every",
        "unless",
        "except",
    ]
)
