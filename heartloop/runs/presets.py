"""Arms that belong together, by name: comparisons that are easily made unfair by hand.

All arms of a preset have the same judge, gating, stop rule and cap of attempts, and share their first
attempts (paid once, counted for each).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from heartloop.errors import UnknownName, UsageError
from heartloop.runs.config import ArmConfig

__all__ = ["PRESETS", "preset_arms"]


def _affect(base: ArmConfig) -> list[ArmConfig]:
    """Five arms that tell affect from all that comes with it, each with one thing more than the one before:
    asking again; a phrase; varied phrases; emotional words beside the point; affect."""
    rotation = base.rotation
    intensity = rotation[rotation.rindex("@") :] if "@" in rotation else ""
    return [
        replace(base, name="bare_retry", strategy="bare_retry"),
        replace(base, name="phrase", rotation=f"phrase{intensity}"),
        replace(base, name="twins", rotation=f"neutral:{rotation}"),
        replace(base, name="irrelevant", rotation=f"irrelevant:{rotation}"),
        replace(base, name="heart"),
    ]


def _baselines(base: ArmConfig) -> list[ArmConfig]:
    """HEART beside what it has to beat, with no more attempts than HEART."""
    n = 1 + (base.max_rounds - 1) * base.width
    one_line = replace(base, max_rounds=n, width=1)
    arms = [replace(base, name="chain_of_thought", strategy="chain_of_thought")]
    for name in ("resample", "self_consistency", "best_of_n", "bare_retry", "self_reflection"):
        arms.append(replace(one_line, name=name, strategy=name))
    for name in ("self_refine", "reflexion"):
        arms.append(replace(one_line, name=name, strategy=name))
    if n >= 4:
        arms.append(replace(base, name="rsa", strategy="rsa", max_rounds=2, width=n // 2))
    if n >= 2:
        arms.append(replace(base, name="pdr", strategy="pdr", max_rounds=2, width=n - 1))
    return [*arms, replace(base, name="heart")]


PRESETS: Mapping[str, Callable[[ArmConfig], list[ArmConfig]]] = MappingProxyType(
    {"affect": _affect, "baselines": _baselines}
)


def preset_arms(name: str, base: ArmConfig) -> tuple[ArmConfig, ...]:
    """The arms of the preset called ``name``; judge, caps, rotation, deck and stop rule are those of
    ``base``.

    Raises:
        UnknownName: with the known ones.
        UsageError: ``base`` names a strategy other than HEART, which the preset would not use.
    """
    if name not in PRESETS:
        raise UnknownName("set of arms", name, PRESETS)
    if base.strategy != "heart":
        raise UsageError(f"the arms {name!r} bring their strategies: leave --strategy {base.strategy} out")
    return tuple(PRESETS[name](base))
