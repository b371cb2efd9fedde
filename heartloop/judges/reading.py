"""Reading what a judge's model answered: a choice, a rating, two ratings.

Small models answer in many ways, and quote the candidates while they do. What stands last counts: judges are
asked to give their reasons first. What can be read in two ways is not read at all; then the majority decides.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from heartloop.answers import strip_reasoning

__all__ = ["BEST", "figure", "number_named", "ratings"]

BEST = 9
"""Ratings go from 0 to this: a single digit is a single token in nearly all vocabularies."""

_TAIL = 20_000
_JSON_STARTS = 64
_SCALES = (BEST, 10, 100)

_NUMBER = r"(?<![-−.\d])(\d{1,4}(?:\.\d{1,20})?)(?![\d.]*\d)(?!\s{0,2}(?:-|–|to)\s{0,2}\d)"
"""Neither negative nor the beginning of a range such as "0-9"."""
_RANGE = r"(?:\W{0,3}(?:(?:from|on a scale of|on a scale from)\s)?0\s{0,2}(?:-|–|to)\s{0,2}\d{1,3}(?!\d))?"
_OF = re.compile(r"\s{0,3}(?:/|out of)\s{0,3}(\d{1,4})")
_BOXED = re.compile(r"\\boxed\{\s*([^{}]{1,40}?)\s*\}")
_BARE = re.compile(r"\W{0,8}" + _NUMBER + r"(?:\s{0,3}(?:/|out of)\s{0,3}\d{1,4})?\W{0,8}")
_CHOICE = re.compile(
    r"(?:choice|choose|pick)\W{0,12}?(?:is)?\W{0,6}?"
    r"(?:number|no\.?|solution|response|attempt|candidate|option)?\W{0,6}?(\d{1,4})(?!\d)",
    re.I,
)
_BOXED_CHOICE = re.compile(r"\\boxed\{\W{0,6}(?:\\text\{)?[a-z]{0,12}\W{0,6}(\d{1,4})\W{0,6}\}", re.I)
_MENTIONED = re.compile(r"(?:solution|response|attempt|candidate|option|number)\W{0,6}(\d{1,4})(?!\d)", re.I)
_DENIED = re.compile(r"\b(?:no|none|not|neither|nor|cannot|can't)\b", re.I)
_DIGITS = re.compile(r"(?<![-−\d.])(\d{1,6}(?:\.\d{1,6})?)(?![\d.]*\d)")


@dataclass(frozen=True, slots=True)
class _Rating:
    """A number as it was written, and what it is out of, where that was said."""

    value: float
    of: float | None = None

    def share(self, scale: float | None = None) -> float | None:
        """In [0, 1]; None for a number outside its scale."""
        of = self.of if self.of is not None else scale if scale is not None else _scale(self.value)
        return self.value / of if of > 0 and 0 <= self.value <= of else None


def figure(text: str, field: str) -> float | None:
    """The rating called ``field`` in ``text`` as a share of the best one, in [0, 1]; None if there is none.

    Looked for: a JSON object that has it, and "Score: 7" ("score A - 7", "7/10", "Score (0-9): 7", ...),
    whichever is last; and for a single score a box or a last line that is a bare number.
    """
    found = _rating(strip_reasoning(text).strip(), field)
    return None if found is None else found.share()


def ratings(text: str) -> tuple[float, float] | None:
    """The ratings of A and B in ``text``, each in [0, 1]; None unless both can be read.

    Both are on one scale: where one of them needs a hundred, the other was out of a hundred as well.
    """
    text = strip_reasoning(text).strip()
    a, b = _rating(text, "score_a"), _rating(text, "score_b")
    if a is None or b is None:
        return None
    scale = _scale(max(a.value, b.value)) if a.of is None and b.of is None else None
    first, second = a.share(scale), b.share(scale)
    return None if first is None or second is None else (first, second)


def number_named(text: str, count: int, *, cut: bool = False) -> int | None:
    """Which of ``count`` candidates ``text`` chooses, from 1; None where it says nothing that can be one.

    Looked for, in this order: a JSON object or "Choice: 3", whichever is last; the last box; the only
    candidate that is mentioned ("solution 3 is best"); the only number of a few words.

    Args:
        cut: the text ended before it was finished, so that a mention is no conclusion.
    """
    text = strip_reasoning(text).strip()
    tail = text[-_TAIL:]
    value, end = _from_json(tail, "choice")
    chosen = _fitting(_CHOICE, tail[end:], count)
    if chosen:
        return chosen[-1]
    if value is not None:
        return int(value) if value == int(value) and 1 <= value <= count else None
    if boxed := _fitting(_BOXED_CHOICE, tail, count):
        return boxed[-1]
    if cut:
        return None
    if mentioned := set(_fitting(_MENTIONED, tail, count)):
        return mentioned.pop() if len(mentioned) == 1 else None
    only = {float(one) for one in _DIGITS.findall(tail)} if len(tail) <= 40 else set()
    if len(only) != 1 or _DENIED.search(tail):
        return None
    number = only.pop()
    return int(number) if number == int(number) and 1 <= number <= count else None


def _fitting(pattern: re.Pattern[str], text: str, count: int) -> list[int]:
    return [number for one in pattern.findall(text) if 1 <= (number := int(one)) <= count]


def _rating(text: str, field: str) -> _Rating | None:
    tail = text[-_TAIL:]
    value, end = _from_json(tail, field)
    label = re.escape(field).replace("_", r"[\s_*]{0,3}")
    pattern = re.compile(rf"(?<![a-z]){label}{_RANGE}\W{{0,12}}?(?:is|of)?\W{{0,6}}?{_NUMBER}", re.I)
    named = list(pattern.finditer(tail, end))
    if named:
        return _written(named[-1], 1)
    if value is not None:
        return _Rating(value)
    if field != "score" or not text:
        return None
    boxes = _BOXED.findall(tail)
    bare = _BARE.fullmatch(boxes[-1] if boxes else tail.rsplit("\n", 1)[-1])
    return None if bare is None else _written(bare, 1)


def _written(match: re.Match[str], group: int) -> _Rating:
    of = _OF.match(match.string, match.end(group))
    return _Rating(float(match.group(group)), None if of is None else float(of.group(1)))


def _scale(value: float) -> float:
    """The smallest of the usual scales that ``value`` is on; the largest if it is on none."""
    return next((scale for scale in _SCALES if value <= scale), _SCALES[-1])


def _from_json(text: str, field: str) -> tuple[float | None, int]:
    """A number called ``field`` in the last JSON object that has one, and where that object ends (or 0)."""
    decoder = json.JSONDecoder()
    start = len(text)
    for _ in range(_JSON_STARTS):
        start = text.rfind("{", 0, start)
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        found = value.get(field) if isinstance(value, dict) else None
        if isinstance(found, str) and re.fullmatch(r"\s*\d{1,6}(\.\d{1,6})?\s*", found):
            found = float(found)
        if isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < 1e6:
            return float(found), end
    return None, 0
