"""Answers that are words: choice letters, names, dates, short texts with aliases."""

from __future__ import annotations

import re
from collections.abc import Sequence

from heartloop.answers import extract_choice
from heartloop.types import Verdict

from .clean import clean, plain_text
from .words import NUMBER_WORDS

__all__ = ["choice", "normal_words", "same_words", "short_text"]

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH = "|".join(f"{name}|{name[:3]}|{name[:4]}" for name in _MONTHS)
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?({_MONTH})\b\.?,?\s*(\d{{3,4}})?\b")
_MONTH_FIRST = re.compile(rf"\b({_MONTH})\b\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?\b(?:\s*,?\s+(\d{{3,4}})\b)?")
_ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_FILLER = re.compile(r"^(?:it|that|this|he|she|they)?\s*(?:is|was|are|were|would be)\s+|^in\s+(?=\d{4}$)")
_SYMBOLIC = re.compile(r"[\\^=+<>*()\[\]{}|/_]|(?<![A-Za-z0-9])-")
_LEAD = re.compile(r"^\s*(?:the\s+)?(?:final\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*", re.IGNORECASE)
_OPTION_MARK = re.compile(r"^\s*\(?([A-Za-z])[).:]\s+")


def normal_words(text: str) -> str:
    """Folded case, no accents, articles or punctuation; dates as day, month, year; small numbers as
    digits."""
    lowered = " ".join(text.lower().split())

    def day_first(match: re.Match[str]) -> str:
        return f" {match[3] or ''} {_month(match[2])} {int(match[1]):02d} "

    def month_first(match: re.Match[str]) -> str:
        return f" {match[3] or ''} {_month(match[1])} {int(match[2]):02d} "

    dated = _ISO.sub(lambda m: f" {m[1]} month{int(m[2])} {m[3]} ", lowered)
    dated = _DAY_FIRST.sub(day_first, dated)
    dated = _MONTH_FIRST.sub(month_first, dated)
    dated = re.sub(r"(?<=\d),(?=\d{3}\b)", "", dated)
    words = plain_text(_FILLER.sub("", dated))
    return str(NUMBER_WORDS[words]) if words in NUMBER_WORDS else words


def _month(name: str) -> str:
    return f"month{next(i for i, full in enumerate(_MONTHS, 1) if full.startswith(name[:3]))}"


def same_words(answer: str, reference: str) -> bool:
    """Are both words (not formulas), and the same ones? Used where mathematics does not parse."""
    if len(answer) > 2000 or len(reference) > 2000 or _SYMBOLIC.search(answer) or _SYMBOLIC.search(reference):
        return False
    if not any(c.isalpha() for c in reference):
        return False
    words = normal_words(answer)
    return bool(words) and words == normal_words(reference)


def short_text(answer: str, references: Sequence[str]) -> Verdict:
    """A short text against its aliases: equal when normalised."""
    words = normal_words(clean(_LEAD.sub("", answer)))
    options = [normal_words(clean(reference)) for reference in references]
    signs = "-" in answer or any("-" in r for r in references)
    correct = bool(words) and words in options
    if correct and signs:  # "-5" is not "5": a leading minus is no punctuation
        matching = [r for r, o in zip(references, options, strict=True) if o == words]
        correct = any(_negative(answer) == _negative(r) for r in matching)
    return Verdict(
        correct, "text", "" if correct else "different words", prediction=words, reference=options[0]
    )


def _negative(text: str) -> bool:
    return bool(re.match(r"\s*[-−]\s*\d", text))


def choice(prediction: str, answer: str, references: Sequence[str], choices: Sequence[str] | None) -> Verdict:
    """Multiple choice: the letter, or the text of the option. ``choices`` are the options as the model saw
    them.

    A reference of one letter is a letter; any other reference is the text of an option, found in
    ``choices`` (so a question whose options were shuffled is judged by the text of the right one).
    """
    letters: set[str] = set()
    texts: set[str] = set()
    normal = [normal_words(_OPTION_MARK.sub("", option)) for option in choices or ()]
    for reference in references:
        letter = _letter(reference)
        words = normal_words(_OPTION_MARK.sub("", clean(reference)))
        if letter is not None and not (words in normal and len(words) > 1):
            letters.add(letter)
            if len(normal) > ord(letter) - 65 >= 0:
                texts.add(normal[ord(letter) - 65])
        else:
            texts.add(words)
            letters.update(chr(65 + i) for i, option in enumerate(normal) if option == words)
    given = answer.upper() if re.fullmatch(r"[A-Za-z]", answer.strip()) else extract_choice(answer)
    wanted = ", ".join(sorted(letters)) or ", ".join(sorted(texts))
    if given is not None:
        return Verdict(given in letters, "choice", prediction=given, reference=wanted)
    from heartloop.answers import extract_answer

    said = normal_words(clean(extract_answer(prediction, "text") or answer))
    named = [option for option in normal if len(option) > 1 and f" {option} " in f" {said} "]
    if len(named) == 1:
        said = named[0]
    if said in texts:
        return Verdict(True, "choice:text", prediction=said, reference=wanted)
    return Verdict(False, "choice", "no option was named", prediction=said[:200], reference=wanted)


def _letter(text: str) -> str | None:
    stripped = clean(text).strip(" ().:")
    return stripped.upper() if re.fullmatch(r"[A-Za-z]", stripped) else None
