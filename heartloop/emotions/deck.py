"""The deck: every cue's wording, with the affect-free twin that controls for it.

A deck is a file of JSON lines. One entry::

    {"id": "anger-mild-assert_wrong-1", "emotion": "anger", "intensity": "mild",
     "speech_act": "assert_wrong", "directive": "check", "cue": "...", "twin": "..."}

Blank lines and lines that start with ``#`` are skipped. All seven fields are needed, no others are known.
The deck that comes with HeartLoop (:meth:`Deck.default`) keeps the stricter laws of
:mod:`heartloop.emotions.quality`; a user's deck only has to be well formed, and may be smaller: a
rotation that asks for a cell it lacks gets a :class:`~heartloop.errors.DataError` then.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from heartloop.errors import DataError
from heartloop.types import Cue, Directive, Emotion, Intensity, SpeechAct

__all__ = ["WRONGNESS", "Cell", "Deck", "Entry", "asserted_wrongness"]

Cell: TypeAlias = tuple[Emotion, Intensity, SpeechAct]
"""What a rotation draws from: the entries of one emotion, intensity and speech act."""

_FIELDS = ("id", "emotion", "intensity", "speech_act", "directive", "cue", "twin")

WRONGNESS: tuple[str, ...] = (
    r"wrong(?:ly)?",
    r"incorrect(?:ly)?",
    r"mistaken(?:ly)?",
    r"inaccurate",
    r"erroneous",
    r"faulty",
    r"flawed",
    r"false",
    r"botched",
    r"(?:not|never|isn't|wasn't|hardly) (?:right|correct|true|it)",
    r"(?:your|an|the|this|that) (?:error|mistake|slip|fault) (?:in|of|here|is|was|has)",
    r"your (?:error|mistake|slip|fault|failure)s?",
    r"you (?:missed|failed|erred|slipped|were off|got it)",
    r"(?:has|have|had|did|does) (?:failed|not hold|not work|not match|not stand|missed)",
    r"missed the (?:mark|target)",
    r"off the mark",
)
"""Words that claim the last answer to be wrong, as regular expressions between word boundaries. An entry
that invites a recheck is refused if one of them is in its cue or twin, because in that setting nobody
knows. Asking to look *for* errors or mistakes claims nothing and is allowed."""

_WRONGNESS = re.compile(r"(?<![\w'])(?:" + "|".join(WRONGNESS) + r")(?![\w'])", re.IGNORECASE)


def asserted_wrongness(text: str) -> str | None:
    """The first words in ``text`` that claim an answer to be wrong (by :data:`WRONGNESS`), or None."""
    found = _WRONGNESS.search(text.replace("’", "'"))
    return None if found is None else found.group(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A cue and its twin: same id, cell and directive; only the affect differs."""

    cue: Cue
    twin: Cue

    @property
    def id(self) -> str:
        return self.cue.id

    @property
    def cell(self) -> Cell:
        emotion, intensity = self.cue.emotion, self.cue.intensity
        assert emotion is not None
        assert intensity is not None
        return emotion, intensity, self.cue.speech_act


@dataclass(frozen=True, slots=True)
class Deck:
    """Entries in the file's order, and the cells they fall into.

    Attributes:
        entries: all of them.
        source: where they came from, for messages.
        fingerprint: SHA-256 of all fields of all entries, for the record of a run.
    """

    entries: tuple[Entry, ...]
    source: str = "deck"
    fingerprint: str = field(init=False)
    _cells: Mapping[Cell, tuple[Entry, ...]] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        cells: dict[Cell, list[Entry]] = {}
        digest = hashlib.sha256()
        for entry in self.entries:
            cells.setdefault(entry.cell, []).append(entry)
            fields = [entry.id, *(part.value for part in entry.cell), entry.cue.directive.value]
            digest.update(json.dumps([*fields, entry.cue.text, entry.twin.text]).encode() + b"\n")
        frozen = MappingProxyType({cell: tuple(members) for cell, members in cells.items()})
        object.__setattr__(self, "fingerprint", digest.hexdigest())
        object.__setattr__(self, "_cells", frozen)

    @classmethod
    def load(cls, path: str | Path) -> Deck:
        """Reads a deck of the user's own.

        Raises:
            DataError: unreadable, broken or empty; the message names the file, and the line if there is one.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
        except OSError as error:
            raise DataError(f"{path}: can't be read: {error.strerror or error}") from None
        return cls(_parse(text, str(path)), str(path))

    @classmethod
    def default(cls) -> Deck:
        """The deck that comes with HeartLoop; read once per process."""
        return _default()

    def cell(self, emotion: Emotion, intensity: Intensity, speech_act: SpeechAct) -> tuple[Entry, ...]:
        """The entries of one cell, in the file's order.

        Raises:
            DataError: the deck has none.
        """
        found = self._cells.get((emotion, intensity, speech_act))
        if found is None:
            wanted = f"{emotion.value}/{intensity.value}/{speech_act.value}"
            raise DataError(f"{self.source}: the deck has no entry for the cell {wanted}")
        return found


@cache
def _default() -> Deck:
    text = resources.files("heartloop.emotions").joinpath("deck.jsonl").read_text(encoding="utf-8")
    return Deck(_parse(text, "deck.jsonl"), "the default deck")


def _parse(text: str, source: str) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    lines_by_id: dict[str, int] = {}
    # Not splitlines(): it would also split at U+2028 and the like, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{source}, line {number}"
        entry = _entry(line, where)
        if entry.id in lines_by_id:
            raise DataError(f"{where}: id {entry.id!r} was already used on line {lines_by_id[entry.id]}")
        lines_by_id[entry.id] = number
        entries.append(entry)
    if not entries:
        raise DataError(f"{source}: the deck has no entries")
    return tuple(entries)


def _entry(line: str, where: str) -> Entry:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise DataError(f"{where}: expected a JSON object, not {type(raw).__name__}")
    unknown = [key for key in raw if key not in _FIELDS]
    if unknown:
        raise DataError(f"{where}: unknown field {unknown[0]!r}. Known: {', '.join(_FIELDS)}.")
    texts = {name: _text(raw, name, where) for name in ("id", "cue", "twin")}
    cell: dict[str, Any] = {
        "emotion": _member(Emotion, raw, "emotion", where),
        "intensity": _member(Intensity, raw, "intensity", where),
        "speech_act": _member(SpeechAct, raw, "speech_act", where),
        "directive": _member(Directive, raw, "directive", where),
    }
    if texts["cue"] == texts["twin"]:
        raise DataError(f"{where}: the twin repeats the cue; it must say the same without affect")
    if cell["speech_act"] is SpeechAct.INVITE_RECHECK:
        for name in ("cue", "twin"):
            claim = asserted_wrongness(texts[name])
            if claim is not None:
                raise DataError(
                    f"{where}: {name!r} says {claim!r}, which claims that the answer was wrong; "
                    f"an {SpeechAct.INVITE_RECHECK.value} entry may only invite another look"
                )
    return Entry(
        cue=Cue(id=texts["id"], text=texts["cue"], affective=True, **cell),
        twin=Cue(id=texts["id"], text=texts["twin"], affective=False, **cell),
    )


def _text(raw: Mapping[str, Any], name: str, where: str) -> str:
    if name not in raw:
        why = "; every cue needs its affect-free twin" if name == "twin" else ""
        raise DataError(f"{where}: the field {name!r} is missing{why}")
    value = raw[name]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name!r} must be text, and not empty")
    return value.strip()


_E = TypeVar("_E", bound=Enum)


def _member(kind: type[_E], raw: Mapping[str, Any], name: str, where: str) -> _E:
    value = _text(raw, name, where)
    try:
        return kind(value)
    except ValueError:
        raise DataError(f"{where}: unknown {name} {value!r}. Known: {_listed(kind)}.") from None


def _listed(kind: Iterable[Enum]) -> str:
    return ", ".join(str(member.value) for member in kind)
