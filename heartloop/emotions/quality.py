"""The stylistic laws of a deck, so that affect is the one thing in which cue and twin differ.

:func:`check_deck` holds a deck to them and lists what breaks one. The default deck breaks none (a test sees
to it); a user who wants HEART minus twin to speak of affect can hold their own deck to the same laws.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from heartloop.emotions.deck import Deck, Entry, asserted_wrongness
from heartloop.emotions.lexicon import AFFECT_WORDS, DIRECTIVE_WORDS
from heartloop.types import Directive, Emotion, Intensity, SpeechAct

__all__ = ["Finding", "check_deck", "distinct_n", "words"]

MAX_LENGTH_GAP = 2
"""Tokens by which a cue and its twin may differ."""
NO_SHARED_N = 5
"""No run of this many words may stand in two phrases."""
DISTINCT_GAP = 0.10
"""Relative difference allowed between the cues' and the twins' distinct-n."""
PHRASES_PER_CELL = 8
SHARED_RUN = 4
"""Words, one of them asking for the directive, that cue and twin must have in common without a break."""

_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")
_PUNCTUATION = re.compile(r"[^\w\s'-]|(?<!\w)['-]|['-](?!\w)")


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken law: its short name, the entries (or the cell) it is about, and what was seen."""

    law: str
    about: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return f"{self.law}: {', '.join(self.about)}: {self.message}"


def words(text: str) -> list[str]:
    """Lower-case words; an apostrophe or hyphen inside one belongs to it."""
    return _WORD.findall(text.lower().replace("’", "'"))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words over all n-grams of words (Li et al., arXiv 1510.03055); 0 if none."""
    counts = Counter(gram for text in texts for gram in _grams(words(text), n))
    total = counts.total()
    return len(counts) / total if total else 0.0


def check_deck(deck: Deck, count_tokens: Callable[[str], int]) -> list[Finding]:
    """Every law that ``deck`` breaks; empty for a deck fit to separate affect from wording.

    ``count_tokens`` gives a text's length under the tokenizer of the model that will read it.
    """
    findings = [found for entry in deck.entries for found in _pair_laws(entry, count_tokens)]
    findings += _no_templates(deck.entries)
    findings += _as_varied(deck.entries)
    findings += _full_cells(deck.entries)
    return findings


def _pair_laws(entry: Entry, count_tokens: Callable[[str], int]) -> Iterator[Finding]:
    cue, twin, about = entry.cue.text, entry.twin.text, (entry.id,)
    lengths = count_tokens(cue), count_tokens(twin)
    if abs(lengths[0] - lengths[1]) > MAX_LENGTH_GAP:
        yield Finding("length", about, f"cue has {lengths[0]} tokens, twin {lengths[1]}")
    if _PUNCTUATION.findall(cue) != _PUNCTUATION.findall(twin):
        yield Finding("punctuation", about, "cue and twin are punctuated differently")
    affect = [word for word in words(twin) if AFFECT_WORDS.intersection((word, *word.split("-")))]
    if affect:
        yield Finding("affect", about, f"the twin says {affect[0]!r}")
    yield from _speech_act(entry)
    asks = DIRECTIVE_WORDS[entry.cue.directive]
    if not any(asks.search(" ".join(run)) for run in _shared_runs(words(cue), words(twin))):
        wanted = entry.cue.directive.value
        yield Finding("directive", about, f"cue and twin don't share a clause that asks for {wanted}")


def _speech_act(entry: Entry) -> Iterator[Finding]:
    claims = {"cue": asserted_wrongness(entry.cue.text), "twin": asserted_wrongness(entry.twin.text)}
    wanted = entry.cue.speech_act is SpeechAct.ASSERT_WRONG
    for name, claim in claims.items():
        if wanted and claim is None:
            yield Finding("speech act", (entry.id,), f"the {name} does not say that the answer was wrong")
        if not wanted and claim is not None:
            yield Finding("speech act", (entry.id,), f"the {name} says {claim!r}")


def _no_templates(entries: Sequence[Entry]) -> Iterator[Finding]:
    """A run of words may be shared by a cue and its own twin (the directive is), by no other phrases."""
    owners: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for entry in entries:
        for text in (entry.cue.text, entry.twin.text):
            for gram in _grams(words(text), NO_SHARED_N):
                owners[gram].add(entry.id)
    for gram, ids in owners.items():
        if len(ids) > 1:
            yield Finding("template", tuple(sorted(ids)), f"share {' '.join(gram)!r}")


def _as_varied(entries: Sequence[Entry]) -> Iterator[Finding]:
    """Holds for each speech act by itself too, since a run without mixing sees one of them only."""
    groups = {"all": list(entries)}
    for act in SpeechAct:
        groups[act.value] = [entry for entry in entries if entry.cue.speech_act is act]
    for name, members in groups.items():
        for n in (1, 2, 3):
            cues = distinct_n([entry.cue.text for entry in members], n)
            twins = distinct_n([entry.twin.text for entry in members], n)
            if abs(cues - twins) > DISTINCT_GAP * cues:
                yield Finding("variety", (name, f"distinct-{n}"), f"cues {cues:.3f}, twins {twins:.3f}")


def _full_cells(entries: Sequence[Entry]) -> Iterator[Finding]:
    counts = Counter((entry.cell, entry.cue.directive) for entry in entries)
    for emotion in Emotion:
        for intensity in Intensity:
            for act in SpeechAct:
                found = {way: counts[(emotion, intensity, act), way] for way in Directive}
                about = (f"{emotion.value}/{intensity.value}/{act.value}",)
                total = sum(found.values())
                if total < PHRASES_PER_CELL:
                    yield Finding("coverage", about, f"{total} phrases of at least {PHRASES_PER_CELL}")
                for way, number in found.items():
                    if not number:
                        yield Finding("coverage", about, f"no phrase with the directive {way.value}")


def _grams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _shared_runs(a: Sequence[str], b: Sequence[str]) -> Iterator[Sequence[str]]:
    """The runs of at least SHARED_RUN words that stand in both, in the same order."""
    for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        if block.size >= SHARED_RUN:
            yield a[block.a : block.a + block.size]
