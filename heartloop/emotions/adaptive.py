"""A bandit over emotions, across the problems of a run.

Thompson sampling (Thompson 1933; Russo et al. 2018, "A tutorial on Thompson sampling") with a Beta(1, 1)
prior on each emotion's chance of a right answer; or UCB1 (Auer, Cesa-Bianchi and Fischer 2002). What is drawn
from is a distribution that is written down: Thompson's chances are integrated, not sampled, and a share of
``explore`` is always uniform, so that every propensity is known and none is 0. The state is a function of the
outcomes seen, and nothing else; each draw goes into the journal, so a replay does not depend on it.

Rewards need verdicts: an oracle's (S1), or a verifier-free judge's scores. Without any, draws stay uniform.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from heartloop.emotions.choosing import Choosing, ChoosingSequence, Situation, suffix
from heartloop.emotions.deck import Deck
from heartloop.emotions.outcomes import Outcomes
from heartloop.types import Attempt, Emotion, Intensity

__all__ = ["EXPLORE", "Adaptive", "Policy", "best_chances"]

Policy = Literal["thompson", "ucb"]

EXPLORE = 0.1
"""Share of the draws that is uniform, whatever was learned."""
_GRID = 400


@dataclass(frozen=True, slots=True)
class Adaptive:
    """The emotions that led to right answers come more often."""

    policy: Policy = "thompson"
    intensity: Intensity = Intensity.MODERATE

    @property
    def name(self) -> str:
        policy = "" if self.policy == "thompson" else f":{self.policy}"
        return f"adaptive{policy}{suffix(self.intensity)}"

    def start(self, deck: Deck, rng: random.Random) -> ChoosingSequence:
        return _Adaptive(self.name, deck, self.intensity, rng.getrandbits(64), self.policy)


class _Adaptive(Choosing):
    def __init__(self, name: str, deck: Deck, intensity: Intensity, seed: int, policy: Policy) -> None:
        super().__init__(name, deck, intensity, seed)
        self.policy = policy

    def chances(self, situation: Situation, line: Sequence[Attempt]) -> Mapping[Emotion, float]:
        greedy = (thompson if self.policy == "thompson" else ucb)(situation.outcomes)
        uniform = EXPLORE / len(greedy)
        return {emotion: uniform + (1 - EXPLORE) * chance for emotion, chance in greedy.items()}


def thompson(outcomes: Outcomes) -> dict[Emotion, float]:
    """Each emotion's posterior probability of being the best."""
    counts = tuple((1 + won, 1 + lost) for won, lost in map(outcomes.counts, Emotion))
    return dict(zip(Emotion, best_chances(counts), strict=True))


def ucb(outcomes: Outcomes) -> dict[Emotion, float]:
    """All on the emotion with the highest upper confidence bound; those never tried share it first."""
    tried = {emotion: sum(outcomes.counts(emotion)) for emotion in Emotion}
    total = sum(tried.values())

    def bound(emotion: Emotion) -> float:
        if tried[emotion] == 0:
            return math.inf
        mean = outcomes.counts(emotion)[0] / tried[emotion]
        return mean + math.sqrt(2 * math.log(total) / tried[emotion]) if total > 1 else math.inf

    bounds = {emotion: bound(emotion) for emotion in Emotion}
    best = [emotion for emotion in Emotion if bounds[emotion] == max(bounds.values())]
    return {emotion: (1 / len(best) if emotion in best else 0.0) for emotion in Emotion}


@lru_cache(maxsize=256)
def best_chances(counts: tuple[tuple[float, float], ...]) -> tuple[float, ...]:
    """Of independent Beta(a, b) variables, the chance of each to be the largest, by the midpoint rule."""
    grid = [(i + 0.5) / _GRID for i in range(_GRID)]
    densities = []
    for a, b in counts:
        logs = [(a - 1) * math.log(x) + (b - 1) * math.log1p(-x) for x in grid]
        top = max(logs)
        raw = [math.exp(value - top) for value in logs]
        whole = sum(raw)
        densities.append([value / whole for value in raw])
    # Within a cell of the grid, half of its mass counts as below: ties share evenly.
    below = [[s - d / 2 for s, d in zip(accumulate(density), density, strict=True)] for density in densities]
    chances = [
        sum(density[x] * math.prod(other[x] for j, other in enumerate(below) if j != i) for x in range(_GRID))
        for i, density in enumerate(densities)
    ]
    whole = sum(chances)
    return tuple(chance / whole for chance in chances)
