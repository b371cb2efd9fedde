"""Rotations: which cue goes into which branch of the next round.

A rotation is a frozen recipe; :meth:`Rotation.start` makes one problem's :class:`CueSequence` of it. What a
sequence gives is a function of (deck, state of the rng at the start, the speech acts asked for so far) and
of nothing else. The rng is drawn from once, for a seed; every later choice derives from that seed, the
round's number and the cell's name. So the emotions don't depend on the speech acts, and the phrases of one
cell don't depend on the traffic in another.

Within a problem no phrase comes twice until its cell (emotion, intensity, speech act) is spent; then the
cell is shuffled anew, and the phrase that was last is not first again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from heartloop.emotions.deck import Deck
from heartloop.emotions.piles import Piles
from heartloop.errors import UsageError
from heartloop.types import Cue, Emotion, Intensity, SpeechAct, Valence

if TYPE_CHECKING:
    from heartloop.emotions.choosing import ChoosingSequence

__all__ = [
    "AlternatingValence",
    "CueSequence",
    "Fixed",
    "Pair",
    "Rotation",
    "RoundRobin",
    "SeededRandom",
]


class CueSequence(Protocol):
    """The cues of one problem, round by round."""

    def next_round(self, width: int, speech_acts: Sequence[SpeechAct]) -> tuple[Cue, ...]:
        """``width`` cues for the next round; branch ``i`` gets cue ``i``, with ``speech_acts[i]``.

        Raises:
            UsageError: width below 1, or not one speech act a branch.
            DataError: the deck lacks a cell that the rotation needs; the message names it.
        """
        ...

    @property
    def state(self) -> dict[str, Any]:
        """What was drawn and how far it got, in JSON's own types; for the log, not for restoring."""
        ...


class Rotation(Protocol):
    """A recipe for sequences. ``name`` is a spec that :func:`rotation_from_spec` turns into an equal one."""

    @property
    def name(self) -> str: ...

    def start(self, deck: Deck, rng: random.Random) -> CueSequence | ChoosingSequence: ...


_Schedule: TypeAlias = Callable[[int, int], Sequence[Emotion]]
"""(round from 0, width) to one emotion a branch. Pure."""


def _suffix(intensity: Intensity) -> str:
    return "" if intensity is Intensity.MODERATE else f"@{intensity.value}"


@dataclass(frozen=True, slots=True)
class AlternatingValence:
    """The valence alternates from round to round and is common to a round's branches (HEART's rotation).

    Branches cycle through the valence's emotions, in an order drawn once a problem; each branch moves on
    by one emotion whenever the valence comes again.

    Attributes:
        first: valence of the first round, or ``"random"``: drawn for each problem, and in the state.
        intensity: of all cues.
    """

    first: Valence | Literal["random"] = Valence.NEGATIVE
    intensity: Intensity = Intensity.MODERATE

    @property
    def name(self) -> str:
        if self.first is Valence.NEGATIVE:
            return "alternating" + _suffix(self.intensity)
        first = self.first.value if isinstance(self.first, Valence) else self.first
        return f"alternating:{first}{_suffix(self.intensity)}"

    def start(self, deck: Deck, rng: random.Random) -> CueSequence:
        seed = rng.getrandbits(64)
        draw = random.Random(f"{seed}/emotions")
        # Both draws are always made, so that the orders are the same whichever valence is first.
        drawn = draw.choice((Valence.NEGATIVE, Valence.POSITIVE))
        first = self.first if isinstance(self.first, Valence) else drawn
        orders = {valence: [e for e in Emotion if e.valence is valence] for valence in Valence}
        for order in orders.values():
            draw.shuffle(order)

        def schedule(number: int, width: int) -> Sequence[Emotion]:
            order = orders[first if number % 2 == 0 else first.opposite]
            return [order[(number // 2 + branch) % len(order)] for branch in range(width)]

        drawn_state = {
            "first": first.value,
            "orders": {valence.value: [e.value for e in order] for valence, order in orders.items()},
        }
        return _Scheduled(self.name, deck, self.intensity, seed, schedule, drawn_state)


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Successive emotions: branch ``i`` of round ``k`` (both from 0) gets emotion ``i + k`` of the order.

    The order is that of :class:`~heartloop.types.Emotion`, so every branch walks round the whole ring
    and branches side by side differ.
    """

    intensity: Intensity = Intensity.MODERATE

    @property
    def name(self) -> str:
        return "round_robin" + _suffix(self.intensity)

    def start(self, deck: Deck, rng: random.Random) -> CueSequence:
        order = tuple(Emotion)

        def schedule(number: int, width: int) -> Sequence[Emotion]:
            return [order[(number + branch) % len(order)] for branch in range(width)]

        return _Scheduled(self.name, deck, self.intensity, rng.getrandbits(64), schedule)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two emotions in turn by round; a round's branches share the emotion and differ in the phrase."""

    a: Emotion
    b: Emotion
    intensity: Intensity = Intensity.MODERATE

    @property
    def name(self) -> str:
        return f"pair:{self.a.value},{self.b.value}{_suffix(self.intensity)}"

    def start(self, deck: Deck, rng: random.Random) -> CueSequence:
        def schedule(number: int, width: int) -> Sequence[Emotion]:
            return [self.a if number % 2 == 0 else self.b] * width

        return _Scheduled(self.name, deck, self.intensity, rng.getrandbits(64), schedule)


@dataclass(frozen=True, slots=True)
class Fixed:
    """One emotion throughout; only the phrases change."""

    emotion: Emotion
    intensity: Intensity = Intensity.MODERATE

    @property
    def name(self) -> str:
        return f"fixed:{self.emotion.value}{_suffix(self.intensity)}"

    def start(self, deck: Deck, rng: random.Random) -> CueSequence:
        def schedule(number: int, width: int) -> Sequence[Emotion]:
            return [self.emotion] * width

        return _Scheduled(self.name, deck, self.intensity, rng.getrandbits(64), schedule)


@dataclass(frozen=True, slots=True)
class SeededRandom:
    """Emotions drawn uniformly, each round anew; up to six branches of a round all differ."""

    intensity: Intensity = Intensity.MODERATE

    @property
    def name(self) -> str:
        return "random" + _suffix(self.intensity)

    def start(self, deck: Deck, rng: random.Random) -> CueSequence:
        seed = rng.getrandbits(64)

        def schedule(number: int, width: int) -> Sequence[Emotion]:
            draw = random.Random(f"{seed}/round/{number}")
            emotions: list[Emotion] = []
            while len(emotions) < width:
                emotions += draw.sample(tuple(Emotion), k=len(Emotion))
            return emotions[:width]

        return _Scheduled(self.name, deck, self.intensity, seed, schedule)


class _Scheduled:
    """Emotions by a schedule, phrases by shuffled cells."""

    def __init__(
        self,
        name: str,
        deck: Deck,
        intensity: Intensity,
        seed: int,
        schedule: _Schedule,
        drawn: Mapping[str, Any] | None = None,
    ) -> None:
        self._name, self._intensity = name, intensity
        self._seed, self._schedule, self._drawn = seed, schedule, dict(drawn or {})
        self._rounds = 0
        self._piles = Piles(deck, seed)

    def next_round(self, width: int, speech_acts: Sequence[SpeechAct]) -> tuple[Cue, ...]:
        if width < 1:
            raise UsageError(f"a round needs at least one branch, not {width}")
        if len(speech_acts) != width:
            raise UsageError(f"a round of {width} branches needs as many speech acts, not {len(speech_acts)}")
        emotions = self._schedule(self._rounds, width)
        cells = [(emotion, self._intensity, act) for emotion, act in zip(emotions, speech_acts, strict=True)]
        dealt = self._piles.deal(cells)
        self._rounds += 1
        return dealt

    @property
    def state(self) -> dict[str, Any]:
        rotation = {"rotation": self._name, "intensity": self._intensity.value}
        return {**rotation, "seed": self._seed, "rounds": self._rounds, **self._drawn}
