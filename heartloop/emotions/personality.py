"""An emotion that moves through pleasure, arousal and dominance, from the last one, by what happened.

A personality has a temperament (a point of rest, from the Big Five). What happens to an answer displaces the
mood; between events it drifts back to the temperament, as in layered models of affect (ALMA: Gebhard 2005).
The next emotion lies near the middle between the mood and the last emotion: it is drawn with chances that
fall with the squared distance. Coordinates, weights and displacements are data with their sources:
``vad.toml``.
"""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

from heartloop.emotions.choosing import Choosing, ChoosingSequence, Situation, suffix
from heartloop.emotions.deck import Deck
from heartloop.errors import UnknownName
from heartloop.types import Attempt, Emotion, Intensity

__all__ = ["PERSONALITIES", "Personality", "Point", "coordinates", "distance", "mood", "temperament"]

Point: TypeAlias = tuple[float, float, float]
"""Pleasure, arousal, dominance, each in [-1, 1]."""

_DRIFT = 0.3
"""Share of the way back to the temperament that the mood goes between two events."""
_WIDTH = 0.25
"""Squared distance over which the chance of an emotion falls by a factor e."""


@cache
def _data() -> dict[str, Any]:
    text = resources.files("heartloop.emotions").joinpath("vad.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def coordinates(emotion: Emotion) -> Point:
    """Where an emotion lies."""
    pleasure, arousal, dominance = _data()["emotions"][emotion.value]
    return pleasure, arousal, dominance


def distance(a: Point, b: Point) -> float:
    """Euclidean distance."""
    return math.dist(a, b)


PERSONALITIES: tuple[str, ...] = tuple(_data()["personalities"])
"""Names that ``personality:NAME`` takes."""


def temperament(name: str) -> Point:
    """The point of rest of a personality.

    Raises:
        UnknownName: with the known ones.
    """
    if name not in PERSONALITIES:
        raise UnknownName("personality", name, PERSONALITIES)
    traits: Mapping[str, float] = _data()["personalities"][name]
    weights = _data()["temperament"]
    return _clipped(
        sum(weight * traits.get(trait, 0.0) for trait, weight in weights[axis].items())
        for axis in ("pleasure", "arousal", "dominance")
    )


def mood(rest: Point, line: Sequence[Attempt]) -> Point:
    """The mood after all that happened on ``line``: a pure function of its answers and verdicts."""
    now = rest
    for before, attempt in zip([None, *line], line, strict=False):
        event = _data()["events"][_event(before, attempt)]
        now = _clipped(m + _DRIFT * (r - m) + e for m, r, e in zip(now, rest, event, strict=True))
    return now


def _event(before: Attempt | None, attempt: Attempt) -> str:
    if attempt.verdict is not None and attempt.verdict.correct is False:
        return "wrong"
    if attempt.answer is None:
        return "missing"
    return "kept" if before is None or before.answer == attempt.answer else "changed"


def _clipped(values: Any) -> Point:
    pleasure, arousal, dominance = (max(-1.0, min(1.0, value)) for value in values)
    return pleasure, arousal, dominance


@dataclass(frozen=True, slots=True)
class Personality:
    """See the module."""

    personality: str = "balanced"
    intensity: Intensity = Intensity.MODERATE

    def __post_init__(self) -> None:
        temperament(self.personality)

    @property
    def name(self) -> str:
        return f"personality:{self.personality}{suffix(self.intensity)}"

    def start(self, deck: Deck, rng: random.Random) -> ChoosingSequence:
        return _Moved(self.name, deck, self.intensity, rng.getrandbits(64), temperament(self.personality))


class _Moved(Choosing):
    def __init__(self, name: str, deck: Deck, intensity: Intensity, seed: int, rest: Point) -> None:
        super().__init__(name, deck, intensity, seed)
        self.rest = rest

    def chances(self, situation: Situation, line: Sequence[Attempt]) -> Mapping[Emotion, float]:
        here = mood(self.rest, line)
        last = line[-1].cue if line else None
        if last is not None and last.emotion is not None:
            here = _clipped((m + e) / 2 for m, e in zip(here, coordinates(last.emotion), strict=True))
        near = {e: math.exp(-(distance(here, coordinates(e)) ** 2) / _WIDTH) for e in Emotion}
        whole = sum(near.values())
        return {emotion: weight / whole for emotion, weight in near.items()}
