r"""Cleaned LaTeX or plain mathematics to tokens.

A token is ``(kind, text)``: ``n`` numeral, ``c`` command without its backslash, ``s`` one-letter symbol,
``w`` word of
plain letters, ``t`` content of ``\text{}``, ``o`` operator or bracket.
"""

from __future__ import annotations

import re

__all__ = ["ParseError", "Token", "tokens"]

Token = tuple[str, str]


class ParseError(ValueError):
    """The text is not an answer this parser knows."""


_SPACED = r"(?:\{,\}|,?\\[,;:! ]|\\thinspace\s?|[ ~])"
_TOKEN = re.compile(
    r"(?P<space>(?:\s|\\[,;:!> ]|~|\\\n)+)"
    rf"|(?P<group>\d{{1,3}}(?:{_SPACED}\d{{3}})+(?![\d])(?:\.\d+)?)"
    r"|(?P<comma>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?)"
    r"|(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<exp>[eE][-+]?\d{1,6}(?![\d.a-zA-Z]))?"
    r"|\\(?P<text>text|textbf|textit|textrm|textsf|mbox|hbox|textnormal|texttt|emph)\s*\{(?P<content>[^{}]*)\}"
    r"|\\(?P<roman>mathrm|operatorname\*?|mathbf|mathit|boldsymbol|bm|mathsf|rm|bf|it|mathbb|mathcal|mathscr|vec|overrightarrow)\s*(?:\{\s*(?P<rcontent>[a-zA-Z ~.\\,%]*)\s*\}|(?P<rletter>[a-zA-Z]))"  # noqa: E501
    r"|\\(?P<command>[a-zA-Z]+)"
    r"|\\(?P<escaped>[^a-zA-Z])"
    r"|(?P<word>[a-zA-Z]+)"
    r"|(?P<op>\*\*|<=|>=|!=|=>|:=|==|->|[-+*/^_=<>()\[\]{}|,;:!%&'\".?])"
    r"|(?P<other>.)",
    re.DOTALL,
)

_NUMERAL = re.compile(r"\d+(?:\.\d+)?")
_IGNORED = frozenset(
    [
        "left",
        "right",
        "big",
        "Big",
        "bigg",
        "Bigg",
        "bigl",
        "bigr",
        "Bigl",
        "Bigr",
        "biggl",
        "biggr",
        "Biggl",
        "Biggr",
        "bigm",
        "middle",
        "displaystyle",
        "textstyle",
        "scriptstyle",
        "limits",
        "nolimits",
        "quad",
        "qquad",
        "thinspace",
        "enspace",
        "space",
        "phantom",
        "hfill",
        "strut",
        "nonumber",
        "boxed",
        "hspace",
        "vspace",
        "dots",
        "mathopen",
        "mathclose",
        "mathrm",
        "mathbf",
        "rm",
        "bf",
        "mathit",
        "text",
        "operatorname",
        "boldsymbol",
    ]
)
_SAME = {
    "dfrac": "frac", "nicefrac": "frac", "sfrac": "frac", "tfrac": "frac", "cfrac": "frac",
    "dbinom": "binom", "tbinom": "binom", "leq": "le",
    "leqslant": "le",
    "geq": "ge", "geqslant": "ge", "neq": "ne", "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]",
    "lvert": "|",
    "rvert": "|", "vert": "|", "mid": "mid", "varnothing": "emptyset", "degree": "circdeg",
    "deg": "circdeg", "cdotp": "cdot",
    "ast": "cdot", "star": "cdot", "bullet": "cdot", "simeq": "approx", "cong": "approx",
    "thickapprox": "approx",
    "varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta", "lg": "lg", "vee": "lor",
    "wedge": "land", "or": "lor",
    "tg": "tan", "ctg": "cot", "arctg": "arctan", "imath": "i", "bigcup": "cup", "bigcap": "cap",
    "lor": "lor", "iff": "to",
    "Rightarrow": "to", "rightarrow": "to", "Leftrightarrow": "to", "implies": "to",
    "smallsetminus": "setminus",
    "backslash": "setminus", "textdegree": "circdeg", "percent": "%", "lt": "<", "gt": ">", "colon": ":",
    "ldots": "dots",
    "cdots": "dots", "dotsc": "dots", "And": "land", "euro": "euro", "Complex": "C", "infin": "infty",
}  # fmt: skip
_OPERATORS = frozenset("{}[]|%<>:")


def tokens(text: str, *, merge_commas: bool) -> list[Token]:
    """Tokens of ``text``; ``merge_commas`` reads "1,938" as one number. Raises :class:`ParseError`."""
    found: list[Token] = []
    add = found.append
    skip_delimiter = False
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind == "space":
            continue
        value = match.group()
        if skip_delimiter:
            skip_delimiter = False
            if value == ".":
                continue
        if kind in ("number", "exp"):
            add(("n", value))
        elif kind == "word":
            add(("s", value) if len(value) == 1 else ("w", value))
        elif kind == "op":
            add(("o", "^") if value == "**" else ("o", value))
        elif kind == "command":
            name = _SAME.get(match["command"], match["command"])
            if name == "dots":
                add(("c", "dots"))
            elif name in _OPERATORS:
                add(("o", name))
            elif name in _IGNORED:
                skip_delimiter = name in ("left", "right")
            else:
                add(("c", name))
        elif kind == "group":
            add(("n", re.sub(r"[^\d.]", "", value)))
        elif kind == "comma":
            if merge_commas:
                add(("n", value.replace(",", "")))
            else:
                for index, part in enumerate(value.split(",")):
                    if index:
                        add(("o", ","))
                    add(("n", part))
        elif kind == "content":
            content = match["content"].strip()
            if content:
                add(("n" if _NUMERAL.fullmatch(content) else "t", content))
        elif kind in ("rcontent", "rletter"):
            _roman(match, add)
        elif kind == "escaped":
            char = match["escaped"]
            if char in "{}":
                add(("o", "\\" + char))
            elif char == "|":
                add(("o", "|"))
            elif char in "%":
                add(("o", "%"))
            elif char == "\\":
                add(("c", "newline"))
            elif char in "/":
                continue
            elif char in "&#_$":
                add(("o", char))
            else:
                raise ParseError(f"unknown escape \\{char}")
        else:
            raise ParseError(f"unknown character {value!r}")
    return found


def _roman(match: re.Match[str], add: object) -> None:
    r"""``\mathrm{...}`` is a function name, a unit, a word, or just an upright letter."""
    assert callable(add)
    content = (
        (match["rcontent"] if match["rcontent"] is not None else match["rletter"])
        .replace("~", " ")
        .replace("\\,", " ")
        .replace("\\", "")
        .strip()
    )
    style = match["roman"]
    if not content:
        return
    if style == "mathbb":
        add(("c", "mathbb" + content))
    elif content in ("e", "i", "d") or len(content) == 1:
        if style in ("mathrm", "rm", "operatorname") and content in "mshgLNJWVAK":
            add(("t", content))
        else:
            add(("s", content))
    elif style in ("mathrm", "rm", "operatorname", "operatorname*", "mathit", "mathbf", "mathsf"):
        add(("t" if " " in content or "." in content else "w", content))
    else:
        add(("w", content))
