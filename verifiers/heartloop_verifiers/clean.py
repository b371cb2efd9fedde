r"""Text made uniform before it is compared or parsed: unicode to LaTeX, delimiters and ornaments gone.

Everything here is a fixed number of passes over the text.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["clean", "plain_text", "squeeze"]

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵏᵐˣʸᵃᵇᶜᵈᵉ", "0123456789+-=()nikmxyabcde", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₖₘᵢⱼₓₐ", "0123456789+-=()nkmijxa", strict=True))
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5",
    "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8", "⅐": "1/7", "⅑": "1/9",
    "⅒": "1/10",
}  # fmt: skip
_GREEK = dict(
    zip("αβγδεζηθικλμνξρστυφχψω", ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta",
    "iota", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi",
    "omega"], strict=True)
)  # fmt: skip
_CHARACTERS: dict[str, str] = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "×": r"\times ", "✕": r"\times ",
    "⨯": r"\times ",
    "÷": "/", "∕": "/", "⁄": "/", "／": "/", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ",
    "∗": "*",
    "±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ", "∞": r"\infty ",
    "π": r"\pi ", "𝜋": r"\pi ",
    "≤": r"\le ", "⩽": r"\le ", "≦": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≧": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ",
    "≃": r"\approx ", "≅": r"\approx ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
    "∖": r"\setminus ",
    "°": r"^\circ ", "º": r"^\circ ", "′": "'", "’": "'", "‘": "'", "″": "''", "“": '"', "”": '"',
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∣": "|", "∥": "|", "｜": "|", "，": ",", "、": ",", "；": ";",
    "：": ":", "．": ".",
    "。": ".", "％": "%", "（": "(", "）": ")", "［": "[", "］": "]", "｛": "{", "｝": "}", "＝": "=",
    "＋": "+",
    "＜": "<",
    "＞": ">", "…": r"\ldots ", "⟨": r"\langle ", "⟩": r"\rangle ", "∧": r"\land ", "∨": r"\lor ",
    "→": r"\to ",
    "⇒": r"\to ", "ℓ": "l", "µ": r"\mu ", "ϕ": r"\phi ", "ϵ": r"\epsilon ", "∠": r"\angle ",
    "△": r"\triangle ",
    "Δ": r"\Delta ", "Γ": r"\Gamma ", "Ω": r"\Omega ", "Σ": r"\Sigma ", "Φ": r"\Phi ", "Π": r"\Pi ",
    "Θ": r"\Theta ", "€": r"\euro ", "£": r"\pounds ", "¢": r"\cents ",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "\u3000": " ", "\u2003": " ", "\u2002": " ",
    "\u2061": "",
    "\u2062": "*", "\u2063": ",", "\u200b": "", "\u200c": "", "\u200d": "", "\ufeff": "", "\u00ad": "",
    "\u2060": "",
} | {letter: f"\\{name} " for letter, name in _GREEK.items()}  # fmt: skip

_UNUSUAL = re.compile(r"[^\x00-\x7f]")
_SUPER_RUN = re.compile(f"[{''.join(map(re.escape, _SUPERSCRIPTS))}]+")
_SUB_RUN = re.compile(f"[{''.join(map(re.escape, _SUBSCRIPTS))}]+")
_VULGAR_RUN = re.compile(f"(\\d?)\\s?([{''.join(_VULGAR)}])")
_DELIMITERS = re.compile(r"\\?\$|(?<!\\)\\[()\[\]]")
_MARKDOWN = re.compile(r"\*\*|__|`")
_OUTER_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|boldsymbol|bm|rm|bf|boxed|fbox|mbox|hbox|underline|displaystyle)\s*\{"
)
_LEADING = re.compile(
    r"\A(?:(?:=>|->|=|:|\\approx(?![a-zA-Z])|\\to(?![a-zA-Z])|\\Rightarrow|\\therefore|(?:about|approximately|roughly|exactly)\b)\s*)+",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"(?<=[^\s(])[\s~]*(?:\\text\s*\{)?[\s~]*(?:[(\[,][\s~]*)?(?:or |which is )?(?:(?<![\\a-zA-Z])(?:approximately|approx\.?|about)|\(\s*\\approx)(?:\s|[}{~=:]){1,6}[\d.,]+[^()=]{0,20}\)?\s*\Z"  # noqa: E501
)
_UNIT_FRACTION = re.compile(r"\\frac\{\\(?:text|mathrm)\s*\{(\w+)\}\}\{\\(?:text|mathrm)\s*\{(\w+)\}\}")
_GLOSS = re.compile(r"(?<=[\d}])\s{0,3}\((?!mod)[a-zA-Z]{3,}[a-zA-Z -]{0,60}\)\Z")
_SPACES = re.compile(
    r"(?<=\d)(?:\s|\\[,;:! ])+(?=\d)|\s+|\\[,;:! ]|\\(?:quad|qquad|displaystyle|left|right|limits)(?![a-zA-Z])|~|\{\}"  # noqa: E501
)


def clean(text: str) -> str:
    r"""``text`` in ASCII LaTeX: no ``$``, no markdown, no enclosing ``\text{}``, no trailing full stop."""
    if _UNUSUAL.search(text):
        text = _SUPER_RUN.sub(_superscript, text)
        text = _SUB_RUN.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m.group()) + "}", text)
        text = _VULGAR_RUN.sub(lambda m: f"({m[1]}+{_VULGAR[m[2]]})" if m[1] else f"({_VULGAR[m[2]]})", text)
        text = "".join([_CHARACTERS.get(c, c) for c in text])
        if _UNUSUAL.search(text):
            text = unicodedata.normalize("NFKC", text)
    if "$" in text or "\\(" in text or "\\[" in text or "\\)" in text or "\\]" in text:
        text = _DELIMITERS.sub(lambda m: "" if m.group() == "\\$" else " ", text)
    if "**" in text or "`" in text or "__" in text:
        text = (
            _MARKDOWN.sub("", text) if not re.search(r"\w\*\*[\w(]|\)\*\*", text) else text.replace("`", "")
        )
    if len(text) < 4000 and ("pprox" in text or "about" in text):
        text = _ASIDE.sub("", text)
    if text.endswith(")") and len(text) < 4000:
        text = _GLOSS.sub("", text)
    if r"\frac{\text" in text or r"\frac{\mathrm" in text:
        text = _UNIT_FRACTION.sub(r"\\text{\1/\2}", text)
    if len(text) < 4000:
        text = _rarely(text)
    text = _LEADING.sub("", text.strip())
    for _ in range(4):
        before = text
        if len(text) > 2 and text[0] == text[-1] == '"':
            text = text[1:-1].strip()
        match = _OUTER_TEXT.match(text)
        if match and text.endswith("}") and _closes_at_end(text, match.end() - 1):
            text = text[match.end() : -1].strip()
        if text and text[-1] in ".,;: !":
            text = _strip_trailing(text)
        if text == before:
            break
    return text


def _rarely(text: str) -> str:
    """Notations that few answers use; each is looked for by a word of its own first."""
    if "10" in text and ("x" in text or "X" in text):
        text = _LETTER_TIMES.sub(r"\\times ", text)
    if "color" in text:
        text = _COLOR.sub(" ", text)
    if "log" in text:
        text = _LOG_BASE.sub(r"\\log_{\1}(", text)
    if "mapsto" in text or ":" in text:
        text = _MAPS_TO.sub(r"\1(\2)=", text)
    if "<su" in text:
        text = _SUP.sub(r"^{\1}", _SUB.sub(r"_{\1}", text))
    if "&" in text and _ENTITY.search(text):
        import html

        text = "".join([_CHARACTERS.get(c, c) for c in html.unescape(text)])
    return _MINUS_WORD.sub("-", text)


_LETTER_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")
_COLOR = re.compile(r"\\(?:text)?color\s*\{[a-zA-Z]{1,20}\}")
_LOG_BASE = re.compile(r"(?<![a-zA-Z])\\?log_?(2|10)\(")
_MAPS_TO = re.compile(r"\A\s*([a-zA-Z])\s*:\s*([a-z])\s*\\(?:mapsto|to)(?![a-zA-Z])\s*")
_SUP, _SUB = re.compile(r"<sup>([^<]*)</sup>"), re.compile(r"<sub>([^<]*)</sub>")
_ENTITY = re.compile(r"&[a-zA-Z]{2,10};")
_MINUS_WORD = re.compile(r"\A\s*(?:minus|negative)\s+(?=[a-z\d\\])", re.IGNORECASE)


def _strip_trailing(text: str) -> str:
    end = len(text)
    while end and text[end - 1] in ".,;: \t\n":
        end -= 1
    stripped = text[:end]
    if stripped.endswith("\\"):  # "\," or "\ " at the end
        stripped = stripped[:-1]
    elif end >= 2 and text[end - 1] == "!" and text[end - 2] == "\\":
        stripped = text[: end - 2]
    return stripped


def _superscript(match: re.Match[str]) -> str:
    return "^{" + "".join(_SUPERSCRIPTS[c] for c in match.group()) + "}"


def _closes_at_end(text: str, opening: int) -> bool:
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, opening):
        token = match.group()
        depth += token == "{"
        depth -= token == "}"
        if depth == 0:
            return match.end() == len(text)
    return False


def squeeze(text: str) -> str:
    """``text`` (cleaned) without anything that only spaces: equal results mean equal answers."""
    return _SPACES.sub(_space, text)


def _space(match: re.Match[str]) -> str:
    # a space between digits may separate numbers: it stays
    start, end = match.span()
    text = match.string
    return " " if start and end < len(text) and text[start - 1].isdigit() and text[end].isdigit() else ""


_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NOT_WORD = re.compile(r"[^\w\s]|_")
_COMMANDS = re.compile(r"\\[a-zA-Z]+")


def plain_text(text: str) -> str:
    """Words for comparison as short text: folded case, no accents, punctuation or articles."""
    text = _COMMANDS.sub(" ", text) if "\\" in text else text
    text = unicodedata.normalize("NFKD", text).casefold()
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = _NOT_WORD.sub(" ", text.replace("'", "").replace("’", ""))
    without = _ARTICLES.sub(" ", text)
    return " ".join((without if without.strip() else text).split())
