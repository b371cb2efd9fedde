"""Rotations by name, as the command line writes them.

``alternating`` · ``alternating:positive`` · ``alternating:random`` · ``round_robin`` ·
``pair:anger,happiness`` · ``fixed:fear`` · ``random`` · ``randomised`` · ``adaptive`` · ``adaptive:ucb`` ·
``personality:calm`` · ``memory`` · ``memory:FOLDER`` · ``phrase`` · ``neutral`` · ``neutral:round_robin`` ·
``irrelevant`` · ``irrelevant:random``, each with ``@mild``, ``@moderate`` (what is meant without) or
``@strong`` behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeVar

from heartloop.emotions.adaptive import Adaptive
from heartloop.emotions.choosing import Randomised
from heartloop.emotions.controls import Irrelevant, Neutral, Phrase
from heartloop.emotions.memory import Memory
from heartloop.emotions.personality import Personality
from heartloop.emotions.rotations import (
    AlternatingValence,
    Fixed,
    Pair,
    Rotation,
    RoundRobin,
    SeededRandom,
)
from heartloop.errors import UnknownName, UsageError
from heartloop.types import Emotion, Intensity, Valence

__all__ = ["ROTATIONS", "rotation_from_spec"]

_Make: TypeAlias = Callable[[str, Intensity], Rotation]
"""(what follows the colon, or "", and the intensity) to a rotation."""


def rotation_from_spec(spec: str) -> Rotation:
    """The rotation that ``spec`` names.

    Raises:
        UnknownName: no such rotation, emotion, valence or intensity; the known ones are listed.
        UsageError: an argument is missing or superfluous.
    """
    head, at, intensity = spec.strip().rpartition("@") if "@" in spec else (spec.strip(), "", "")
    strength = _member(Intensity, intensity, "intensity") if at else Intensity.MODERATE
    name, colon, argument = head.partition(":")
    if name not in ROTATIONS:
        raise UnknownName("rotation", name, ROTATIONS)
    if colon and not argument.strip():
        raise UsageError(f"rotation {spec!r}: nothing follows the colon")
    return ROTATIONS[name](argument.strip(), strength)


_E = TypeVar("_E", bound=Enum)


def _member(kind: type[_E], value: str, what: str) -> _E:
    try:
        return kind(value.strip())
    except ValueError:
        raise UnknownName(what, value.strip(), [str(member.value) for member in kind]) from None


def _alternating(argument: str, intensity: Intensity) -> Rotation:
    first: Valence | Literal["random"] = Valence.NEGATIVE
    if argument == "random":
        first = "random"
    elif argument:
        known = [*(valence.value for valence in Valence), "random"]
        if argument not in known:
            raise UnknownName("starting valence", argument, known)
        first = Valence(argument)
    return AlternatingValence(first, intensity)


def _pair(argument: str, intensity: Intensity) -> Rotation:
    names = argument.split(",")
    if len(names) != 2:
        raise UsageError(f"rotation 'pair' takes two emotions ('pair:anger,happiness'), not {argument!r}")
    a, b = (_member(Emotion, name, "emotion") for name in names)
    return Pair(a, b, intensity)


def _fixed(argument: str, intensity: Intensity) -> Rotation:
    if not argument:
        raise UsageError("rotation 'fixed' takes an emotion, as in 'fixed:fear'")
    return Fixed(_member(Emotion, argument, "emotion"), intensity)


def _wrapped(name: str, make: Callable[[Rotation], Rotation]) -> _Make:
    def build(argument: str, intensity: Intensity) -> Rotation:
        of = rotation_from_spec(f"{argument or 'alternating'}@{intensity.value}")
        if isinstance(of, Neutral | Irrelevant | Phrase):
            raise UsageError(
                f"rotation '{name}:{argument}': {argument!r} is itself a control, so its cues have no affect "
                f"of their own and no twins; name the rotation that sends affect, as in '{name}:round_robin'"
            )
        return make(of)

    return build


def _adaptive(argument: str, intensity: Intensity) -> Rotation:
    if argument == "ucb":
        return Adaptive("ucb", intensity)
    if argument in ("", "thompson"):
        return Adaptive("thompson", intensity)
    raise UnknownName("bandit", argument, ["thompson", "ucb"])


def _personality(argument: str, intensity: Intensity) -> Rotation:
    return Personality(argument or "balanced", intensity)


def _memory(argument: str, intensity: Intensity) -> Rotation:
    return Memory(argument, intensity)


def _plain(name: str, make: Callable[[Intensity], Rotation]) -> _Make:
    def build(argument: str, intensity: Intensity) -> Rotation:
        if argument:
            raise UsageError(f"rotation {name!r} takes no argument, not {argument!r}")
        return make(intensity)

    return build


ROTATIONS: Mapping[str, _Make] = MappingProxyType(
    {
        "alternating": _alternating,
        "round_robin": _plain("round_robin", RoundRobin),
        "pair": _pair,
        "fixed": _fixed,
        "random": _plain("random", SeededRandom),
        "randomised": _plain("randomised", Randomised),
        "adaptive": _adaptive,
        "personality": _personality,
        "memory": _memory,
        "phrase": _plain("phrase", Phrase),
        "neutral": _wrapped("neutral", Neutral),
        "irrelevant": _wrapped("irrelevant", Irrelevant),
    }
)
"""What each name makes, given what follows the colon (or "") and the intensity."""
