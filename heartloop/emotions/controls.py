"""Rotations that are controls: HEART with its affect taken out, or made beside the point."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from heartloop.emotions.choosing import ChoosingSequence, Chosen, Situation, suffix
from heartloop.emotions.deck import Deck
from heartloop.emotions.rotations import AlternatingValence, CueSequence, Rotation
from heartloop.errors import DataError, UsageError
from heartloop.types import Cue, Emotion, Intensity, SpeechAct

__all__ = ["IRRELEVANT", "Irrelevant", "Neutral", "Phrase"]

IRRELEVANT = "irrelevant/"
"""What the ids of cues with irrelevant affect begin with."""


@dataclass(frozen=True, slots=True)
class Neutral:
    """The affect-free twins of exactly the cues that ``of`` gives from the same deck and rng."""

    of: Rotation = AlternatingValence()

    @property
    def name(self) -> str:
        return _wrapping("neutral", self.of)

    def start(self, deck: Deck, rng: random.Random) -> CueSequence | ChoosingSequence:
        twins = {entry.id: entry.twin for entry in deck.entries}
        return _changed(self.name, self.of.start(deck, rng), lambda cue: twins[cue.id])


@dataclass(frozen=True, slots=True)
class Irrelevant:
    """The twins of ``of``'s cues, each behind a sentence of the cue's emotion and intensity that has nothing
    to do with the problem: emotional words without an emotional appeal. It is longer than the twin by that
    sentence."""

    of: Rotation = AlternatingValence()

    @property
    def name(self) -> str:
        return _wrapping("irrelevant", self.of)

    def start(self, deck: Deck, rng: random.Random) -> CueSequence | ChoosingSequence:
        twins = {entry.id: entry.twin for entry in deck.entries}
        of = self.of.start(deck, rng)
        # Drawn after the other sequence's seed, which is thereby the same as without this one.
        seed = rng.getrandbits(64)
        said: dict[tuple[str, str], int] = {}

        def change(cue: Cue) -> Cue:
            assert cue.emotion is not None
            assert cue.intensity is not None
            cell = (cue.emotion.value, cue.intensity.value)
            sentences = _sentences()[cell[0]][cell[1]]
            order = random.Random(f"{seed}/{cell}").sample(sentences, k=len(sentences))
            number = said[cell] = said.get(cell, -1) + 1
            text = f"{order[number % len(order)]} {twins[cue.id].text}"
            return replace(cue, id=f"{IRRELEVANT}{cue.id}", text=text, affective=True)

        return _changed(self.name, of, change)


@dataclass(frozen=True, slots=True)
class Phrase:
    """One fixed neutral phrase throughout: the twin of the deck's first entry with the speech act."""

    intensity: Intensity = Intensity.MODERATE

    @property
    def name(self) -> str:
        return "phrase" + suffix(self.intensity)

    def start(self, deck: Deck, rng: random.Random) -> CueSequence:
        return _Phrase(self.name, deck, self.intensity)


class _Phrase:
    def __init__(self, name: str, deck: Deck, intensity: Intensity) -> None:
        self._name, self._intensity, self._rounds = name, intensity, 0
        self._cues: dict[SpeechAct, Cue] = {}
        for entry in deck.entries:
            if entry.cue.intensity is intensity:
                self._cues.setdefault(entry.cue.speech_act, entry.twin)

    def next_round(self, width: int, speech_acts: Sequence[SpeechAct]) -> tuple[Cue, ...]:
        if len(speech_acts) != width or width < 1:
            raise UsageError(f"a round of {width} branches needs as many speech acts, not {len(speech_acts)}")
        lacking = [act.value for act in speech_acts if act not in self._cues]
        if lacking:
            raise DataError(f"the deck has no {self._intensity.value} entry with speech act {lacking[0]}")
        self._rounds += 1
        return tuple(self._cues[act] for act in speech_acts)

    @property
    def state(self) -> dict[str, Any]:
        return {"rotation": self._name, "rounds": self._rounds}


def _wrapping(name: str, of: Rotation) -> str:
    base, at, intensity = of.name.partition("@")
    return f"{name}{at}{intensity}" if base == "alternating" else f"{name}:{of.name}"


def _changed(
    name: str, of: CueSequence | ChoosingSequence, change: Callable[[Cue], Cue]
) -> CueSequence | ChoosingSequence:
    """``of`` with every cue changed; it goes on drawing as it would have."""
    return (
        _ChangedChoices(name, of, change) if isinstance(of, ChoosingSequence) else _Changed(name, of, change)
    )


class _Changed:
    def __init__(self, name: str, of: CueSequence, change: Callable[[Cue], Cue]) -> None:
        self._name, self._of, self._change = name, of, change

    def next_round(self, width: int, speech_acts: Sequence[SpeechAct]) -> tuple[Cue, ...]:
        return tuple(map(self._change, self._of.next_round(width, speech_acts)))

    @property
    def state(self) -> dict[str, Any]:
        return {**self._of.state, "rotation": self._name}


class _ChangedChoices(ChoosingSequence):
    def __init__(self, name: str, of: ChoosingSequence, change: Callable[[Cue], Cue]) -> None:
        self._name, self._of, self._change = name, of, change

    @property
    def state(self) -> dict[str, Any]:
        return {**self._of.state, "rotation": self._name}

    def choose(self, situation: Situation, rng: random.Random) -> list[Chosen]:
        return self._of.choose(situation, rng)

    def deal(self, chosen: Sequence[Chosen], speech_acts: Sequence[SpeechAct]) -> tuple[Cue, ...]:
        return tuple(map(self._change, self._of.deal(chosen, speech_acts)))


@cache
def _sentences() -> Mapping[str, Mapping[str, list[str]]]:
    text = resources.files("heartloop.emotions").joinpath("irrelevant.toml").read_text(encoding="utf-8")
    found: dict[str, dict[str, list[str]]] = tomllib.loads(text)
    assert set(found) == {emotion.value for emotion in Emotion}
    return found
