"""Who goes next: policies over waiting calls.

A policy gives each waiting call a fixed number when it arrives; the lowest goes first. Numbers grow with
arrival, so whoever has waited long enough is ahead of every newcomer: nothing starves. Policies are
pure functions and never look at a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from heartloop.errors import UnknownName

__all__ = ["SCHEDULERS", "BreadthFirst", "DepthFirst", "Scheduler", "Waiting", "scheduler_from_name"]

HEADSTART = 1_000.0
"""How many later arrivals one round of precedence is worth."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a policy may know of a waiting call.

    Attributes:
        problem: the problem's id.
        round: round of the attempt the call belongs to, from 1.
        role: ``"generator"``, ``"judge"`` or ``"synthesiser"``.
        arrival: how many calls arrived before it.
    """

    problem: str
    round: int
    role: str
    arrival: int


class Scheduler(Protocol):
    """A policy. ``priority`` must grow without bound in ``arrival``."""

    @property
    def name(self) -> str: ...

    def priority(self, waiting: Waiting) -> float: ...


@dataclass(frozen=True, slots=True)
class BreadthFirst:
    """Early rounds first: every problem gets its first attempt before any gets its sixth."""

    name: str = "breadth_first"

    def priority(self, waiting: Waiting) -> float:
        return waiting.arrival + HEADSTART * (waiting.round - 1)


@dataclass(frozen=True, slots=True)
class DepthFirst:
    """Late rounds first: problems that were begun are finished before others are begun."""

    name: str = "depth_first"

    def priority(self, waiting: Waiting) -> float:
        return waiting.arrival - HEADSTART * (waiting.round - 1)


SCHEDULERS: Mapping[str, Scheduler] = {"breadth_first": BreadthFirst(), "depth_first": DepthFirst()}


def scheduler_from_name(name: str) -> Scheduler:
    """The policy called ``name``.

    Raises:
        UnknownName: with the known ones.
    """
    try:
        return SCHEDULERS[name]
    except KeyError:
        raise UnknownName("scheduler", name, SCHEDULERS) from None
