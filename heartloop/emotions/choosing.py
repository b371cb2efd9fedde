"""Rotations that draw with known chances, from what happened so far.

A plain sequence is a function of the seed. A *choosing* one looks at the situation, draws an emotion for each
line, and says with what chance (*propensity*) it drew it. The session journals each draw, so that a resumed
run deals the same cues whatever has been learned since, and so that effects of emotions can be estimated:
weighting by inverse propensities needs the chances that were really used (Horvitz and Thompson 1952).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from heartloop.emotions.deck import Deck
from heartloop.emotions.outcomes import Outcomes
from heartloop.emotions.piles import Piles
from heartloop.errors import UsageError
from heartloop.types import Attempt, Cue, Emotion, Intensity, Problem, SpeechAct, Valence

__all__ = ["Choosing", "ChoosingSequence", "Chosen", "Randomised", "Situation", "suffix"]

Chosen: TypeAlias = dict[str, Any]
"""One line's draw, JSON-ready: ``emotion``, ``propensity``, and what else the rotation has to say of it."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a rotation may look at when it draws.

    Attributes:
        problem: without reference.
        lines: the attempts so far, a line for each cue that is asked for.
        round: 0 for the first cues of the problem.
        oracle: whether verdicts come from a judge that knows the reference (S1).
        outcomes: of this arm's problems, as far as they were seen.
    """

    problem: Problem
    lines: Sequence[Sequence[Attempt]]
    round: int = 0
    oracle: bool = False
    outcomes: Outcomes = field(default_factory=Outcomes)


class ChoosingSequence(ABC):
    """The cues of one problem where they depend on what happened."""

    @property
    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What was drawn at the start, in JSON's own types."""

    @abstractmethod
    def choose(self, situation: Situation, rng: random.Random) -> list[Chosen]:
        """A draw for each line."""

    @abstractmethod
    def deal(self, chosen: Sequence[Chosen], speech_acts: Sequence[SpeechAct]) -> tuple[Cue, ...]:
        """The cues that go with draws, new or recorded. The same draws in the same order, the same cues."""


class Choosing(ChoosingSequence):
    """Draws emotions independently for each line by :meth:`chances`; phrases from shuffled cells."""

    def __init__(self, name: str, deck: Deck, intensity: Intensity, seed: int) -> None:
        self.name, self.intensity, self.seed = name, intensity, seed
        self.piles = Piles(deck, seed)

    @abstractmethod
    def chances(self, situation: Situation, line: Sequence[Attempt]) -> Mapping[Emotion, float]:
        """The chance of each emotion; they add up to 1."""

    @property
    def state(self) -> dict[str, Any]:
        return {"rotation": self.name, "intensity": self.intensity.value, "seed": self.seed}

    def choose(self, situation: Situation, rng: random.Random) -> list[Chosen]:
        chosen: list[Chosen] = []
        for line in situation.lines:
            chances = self.chances(situation, line)
            [emotion] = rng.choices(list(chances), list(chances.values()))
            chosen.append({"emotion": emotion.value, "propensity": _rounded(chances[emotion])})
        return chosen

    def deal(self, chosen: Sequence[Chosen], speech_acts: Sequence[SpeechAct]) -> tuple[Cue, ...]:
        if len(chosen) != len(speech_acts):
            raise UsageError(f"{len(chosen)} draws need as many speech acts, not {len(speech_acts)}")
        return self.piles.deal(
            [
                (Emotion(draw["emotion"]), self.intensity, act)
                for draw, act in zip(chosen, speech_acts, strict=True)
            ]
        )


def _rounded(chance: float) -> float:
    """Six figures, not six decimals: what was drawn had a chance, however small, and is weighed by 1 / it."""
    return float(f"{chance:.6g}")


@dataclass(frozen=True, slots=True)
class Randomised:
    """HEART's alternation with the first valence drawn for each problem (1/2), and each line's emotion drawn
    uniformly among the valence's; the propensity of the first cues is that of both draws together."""

    intensity: Intensity = Intensity.MODERATE

    @property
    def name(self) -> str:
        return "randomised" + suffix(self.intensity)

    def start(self, deck: Deck, rng: random.Random) -> ChoosingSequence:
        return _Randomised(self.name, deck, self.intensity, rng.getrandbits(64))


class _Randomised(Choosing):
    def __init__(self, name: str, deck: Deck, intensity: Intensity, seed: int) -> None:
        super().__init__(name, deck, intensity, seed)
        self.first = random.Random(f"{seed}/first").choice((Valence.NEGATIVE, Valence.POSITIVE))

    @property
    def state(self) -> dict[str, Any]:
        return {**super().state, "first": self.first.value, "first_propensity": 0.5}

    def chances(self, situation: Situation, line: Sequence[Attempt]) -> Mapping[Emotion, float]:
        valence = self.first if situation.round % 2 == 0 else self.first.opposite
        among = [emotion for emotion in Emotion if emotion.valence is valence]
        return {emotion: 1 / len(among) for emotion in among}

    def choose(self, situation: Situation, rng: random.Random) -> list[Chosen]:
        chosen = super().choose(situation, rng)
        if situation.round == 0:
            for draw in chosen:
                draw["propensity"] /= 2
        return chosen


def suffix(intensity: Intensity) -> str:
    """How an intensity is written behind a rotation's name."""
    return "" if intensity is Intensity.MODERATE else f"@{intensity.value}"
