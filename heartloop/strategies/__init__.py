"""Strategies: when to try again, with which cue, when to stop. One file each; see docs/strategies.md."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from heartloop.errors import UnknownName, UsageError
from heartloop.specs import plain
from heartloop.strategies.base import Strategy, accepted

__all__ = ["Strategy", "accepted", "known_strategies", "options_of", "strategy_from_name"]

_GROUP = "heartloop.strategies"


@dataclass(frozen=True, slots=True)
class _Own:
    """Where a strategy of ours is, and what it takes.

    Attributes:
        options: settings that it shares with others (the command line's).
        own: options of its own, given behind its name, with their types.
        preset: arguments that go with the name.
    """

    module: str
    make: str
    options: frozenset[str] = frozenset()
    own: Mapping[str, type] = field(default_factory=dict)
    preset: Mapping[str, Any] = field(default_factory=dict)


_LINE = frozenset({"max_rounds", "stop"})
_WIDE = _LINE | {"width"}
_CUED = _WIDE | {"rotation", "deck"}

_OWN: Mapping[str, _Own] = MappingProxyType(
    {
        "single_pass": _Own("single_pass", "SinglePass"),
        "chain_of_thought": _Own("chain_of_thought", "chain_of_thought"),
        "resample": _Own("resample", "Resample", _WIDE),
        "self_consistency": _Own("self_consistency", "SelfConsistency", _WIDE, {"n": int}),
        "best_of_n": _Own("best_of_n", "BestOfN", _WIDE - {"stop"}, {"n": int}),
        "bare_retry": _Own("bare_retry", "bare_retry", _WIDE | {"stable_rounds"}),
        "self_reflection": _Own("self_reflection", "SelfReflection", _WIDE | {"stable_rounds"}),
        "self_refine": _Own("self_refine", "SelfRefine", _LINE),
        "reflexion": _Own("reflexion", "Reflexion", _LINE, {"memory": int}),
        "rsa": _Own("rsa", "RecursiveAggregation", _WIDE, {"k": int}),
        "pdr": _Own("pdr", "ParallelDistillRefine", _WIDE),
        **{
            name: _Own("stimulus", "Stimulus", _WIDE, {"stimulus": str}, {"set": name})
            for name in ("emotion_prompt", "negative_prompt", "stress_prompt", "persona")
        },
        "deepconf": _Own(
            "deepconf",
            "DeepConfOnline",
            own={"attempts": int, "warm_up": int, "keep": float, "agreement": float, "width": int},
        ),
        "parallel_heart": _Own("parallel_heart", "ParallelHeart", _CUED),
        "heart": _Own("heart", "Heart", _CUED | {"stable_rounds"}),
    }
)
_COUNTS = ("max_rounds", "width", "stable_rounds")


def known_strategies() -> list[str]:
    """Names of our own strategies and of those that installed distributions register."""
    return sorted({*_OWN, *(point.name for point in entry_points(group=_GROUP))})


def options_of(name: str) -> frozenset[str] | None:
    """The shared options that our own strategy called ``name`` has a use for; None for other names."""
    name = name.partition(":")[0]
    return _OWN[name].options if name in _OWN else None


def strategy_from_name(name: str, **options: Any) -> Strategy:
    """The strategy called ``name``, which may bring options of its own (``"rsa:k=3"``).

    Options that are None, or that it has no use for, are left out. ``rotation`` and ``stop`` may be specs.
    A strategy registered in the entry point group ``heartloop.strategies`` is a callable that takes the
    options by name.

    Raises:
        UnknownName: with the known ones.
        UsageError: an option's value can't work.
    """
    given = {option: value for option, value in options.items() if value is not None}
    for option in _COUNTS:
        if option in given and given[option] < 1:
            raise UsageError(f"{option} must be at least 1, not {given[option]}")
    head = name.partition(":")[0].strip()
    if head in _OWN:
        head, own = plain("strategy", name, {known: ours.own for known, ours in _OWN.items()})
        return _own_strategy(_OWN[head], {**given, **own})
    for point in entry_points(group=_GROUP, name=name):
        registered = point.load()
        names = inspect.signature(registered).parameters
        strategy: Strategy = registered(**{o: v for o, v in given.items() if o in names})
        return strategy
    raise UnknownName("strategy", name, known_strategies())


def _own_strategy(ours: _Own, given: Mapping[str, Any]) -> Strategy:
    from heartloop.emotions import rotation_from_spec
    from heartloop.strategies.stopping import stop_from_spec

    takes = ours.options | ours.own.keys()
    options = {option: value for option, value in given.items() if option in takes}
    for option, read in (("rotation", rotation_from_spec), ("stop", stop_from_spec)):
        if isinstance(options.get(option), str):
            options[option] = read(options[option])
    make = getattr(import_module(f"heartloop.strategies.{ours.module}"), ours.make)
    strategy: Strategy = make(**ours.preset, **options)
    return strategy
