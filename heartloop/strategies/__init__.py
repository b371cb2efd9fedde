"""Strategies: when to try again, with which cue, when to stop. One file each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from heartloop.errors import UnknownName, UsageError
from heartloop.strategies.base import Strategy, accepted

__all__ = ["Strategy", "accepted", "known_strategies", "options_of", "strategy_from_name"]

_GROUP = "heartloop.strategies"


def _heart(**options: Any) -> Strategy:
    from heartloop.emotions import rotation_from_spec
    from heartloop.strategies.heart import Heart

    if "rotation" in options:
        options["rotation"] = rotation_from_spec(options["rotation"])
    return Heart(**options)


def _resample(max_rounds: int = 6, width: int = 1) -> Strategy:
    from heartloop.strategies.resample import Resample

    return Resample(max_rounds, width)


def _self_reflection(max_rounds: int = 6, stable_rounds: int | None = None) -> Strategy:
    from heartloop.strategies.self_reflection import SelfReflection

    return SelfReflection(max_rounds, stable_rounds)


def _single_pass() -> Strategy:
    from heartloop.strategies.single_pass import SinglePass

    return SinglePass()


def _chain_of_thought() -> Strategy:
    from heartloop.strategies.chain_of_thought import chain_of_thought

    return chain_of_thought()


_OWN: Mapping[str, tuple[Callable[..., Strategy], frozenset[str]]] = {
    "single_pass": (_single_pass, frozenset()),
    "chain_of_thought": (_chain_of_thought, frozenset()),
    "resample": (_resample, frozenset({"max_rounds", "width"})),
    "self_reflection": (_self_reflection, frozenset({"max_rounds", "stable_rounds"})),
    "heart": (_heart, frozenset({"max_rounds", "width", "rotation", "deck", "stable_rounds"})),
}
_COUNTS = ("max_rounds", "width", "stable_rounds")


def known_strategies() -> list[str]:
    """Names of our own strategies and of those that installed distributions register."""
    return sorted({*_OWN, *(point.name for point in entry_points(group=_GROUP))})


def options_of(name: str) -> frozenset[str] | None:
    """The options that our own strategy called ``name`` has a use for; None for other names."""
    return _OWN[name][1] if name in _OWN else None


def strategy_from_name(name: str, **options: Any) -> Strategy:
    """The strategy called ``name``. Options that are None, or that it has no use for, are left out.

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
    if name in _OWN:
        make, takes = _OWN[name]
        return make(**{option: value for option, value in given.items() if option in takes})
    for point in entry_points(group=_GROUP, name=name):
        registered = point.load()
        names = inspect.signature(registered).parameters
        strategy: Strategy = registered(**{o: v for o, v in given.items() if o in names})
        return strategy
    raise UnknownName("strategy", name, known_strategies())
