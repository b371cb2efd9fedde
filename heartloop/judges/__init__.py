"""Judges: who looks at attempts. One file each."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from heartloop.errors import UnknownName
from heartloop.judges.base import Judge

__all__ = ["Judge", "judge_from_name", "known_judges"]

_GROUP = "heartloop.judges"
_OWN = {"oracle": "Oracle", "majority": "Majority", "synthesis": "Synthesis"}


def known_judges() -> list[str]:
    """Names of our own judges and of those that installed distributions register."""
    return sorted({*_OWN, *(point.name for point in entry_points(group=_GROUP))})


def judge_from_name(name: str) -> Judge:
    """The judge called ``name``: ours, or a callable in the entry point group ``heartloop.judges``.

    Raises:
        UnknownName: with the known ones.
    """
    if name in _OWN:
        judge: Judge = getattr(import_module(f"heartloop.judges.{name}"), _OWN[name])()
        return judge
    for point in entry_points(group=_GROUP, name=name):
        registered: Judge = point.load()()
        return registered
    raise UnknownName("judge", name, known_judges())
