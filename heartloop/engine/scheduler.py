"""Who goes next: policies over waiting calls.

A policy gives each waiting call a number; the lowest goes first. Numbers grow with arrival, so whoever
has waited long enough is ahead of every newcomer: nothing starves. Policies are functions of what they
were told, and never look at a clock.

Most policies know a call when it arrives, and its number stays. A :class:`Learning` one is also told what
came of earlier calls; when it has learned enough to change its mind it raises ``revision``, and the lane
asks again for every waiting call. Such policies raise it ever more rarely, so that asking stays cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from heartloop.errors import UnknownName

__all__ = [
    "SCHEDULERS",
    "Answered",
    "BreadthFirst",
    "Deadline",
    "DepthFirst",
    "Ended",
    "Judged",
    "Learning",
    "Made",
    "Observation",
    "Scheduler",
    "Waiting",
    "active_problems",
    "scheduler_from_name",
]

HEADSTART = 1_000.0
"""How many later arrivals one round of precedence (or one second of a deadline) is worth."""

WIDE = 4_000
"""Problems side by side under ``adaptive``; some kilobytes of memory each, and their texts."""


@dataclass(slots=True, unsafe_hash=True)
class Waiting:
    """What a policy may know of a waiting call.

    Attributes:
        problem: the problem's id.
        round: round of the attempt the call belongs to, from 1.
        role: ``"generator"``, ``"judge"`` or ``"synthesiser"``.
        arrival: how many calls arrived before it.
        arm: the arm it is made for.
        at: seconds since the run began, when the policy is asked.
        deadline: in seconds since the run began; infinite where there is none.
    """

    problem: str
    round: int
    role: str
    arrival: int
    arm: str = ""
    at: float = 0.0
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class Answered:
    """A call was answered, after so many seconds."""

    role: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Made:
    """An attempt was made, or seen again in a replay. ``tokens`` are those of its calls."""

    arm: str
    problem: str
    branch: str
    round: int
    tokens: int
    answer: str | None


@dataclass(frozen=True, slots=True)
class Judged:
    """A judge looked at an attempt that was made. ``correct`` is None where it could not tell."""

    arm: str
    problem: str
    branch: str
    round: int
    answer: str | None
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Ended:
    """A problem ended, for whatever reason: no more will be heard of it."""

    arm: str
    problem: str


Observation: TypeAlias = Answered | Made | Judged | Ended


class Scheduler(Protocol):
    """A policy. ``priority`` must grow without bound in ``arrival``."""

    @property
    def name(self) -> str: ...

    def priority(self, waiting: Waiting) -> float:
        """The number of a waiting call; the lowest goes first. It grows with ``waiting.arrival``."""
        ...


@runtime_checkable
class Learning(Scheduler, Protocol):
    """A policy that learns from what came of earlier calls.

    The same observations in the same order give the same priorities. An observation that comes twice
    (a replay) counts once, as long as its problem has not ended.
    """

    @property
    def revision(self) -> int:
        """Grows whenever waiting calls should be asked for again."""
        ...

    def observe(self, observation: Observation) -> None: ...


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


class Deadline:
    """Earliest deadline first, but calls that can no longer be answered in time go behind all that can.

    How long a call takes is the mean of those seen so far with its role. A deadline beyond
    :attr:`HORIZON` seconds, or none, counts as being there.
    """

    HORIZON = 1e6
    name = "deadline"
    _ASK_AGAIN_AFTER = 32

    def __init__(self) -> None:
        self.revision = 0
        self._answers = 0
        self._seconds: dict[str, tuple[int, float]] = {}

    def priority(self, waiting: Waiting) -> float:
        due = min(waiting.deadline, self.HORIZON)
        if waiting.at + self._expected(waiting.role) > waiting.deadline:
            due += self.HORIZON
        return waiting.arrival + HEADSTART * due

    def observe(self, observation: Observation) -> None:
        if not isinstance(observation, Answered):
            return
        count, total = self._seconds.get(observation.role, (0, 0.0))
        self._seconds[observation.role] = count + 1, total + observation.seconds
        self._answers += 1
        # Time passes for those who wait: now and then they are looked at again.
        if self._answers % self._ASK_AGAIN_AFTER == 0:
            self.revision += 1

    def _expected(self, role: str) -> float:
        count, total = self._seconds.get(role, (0, 0.0))
        return total / count if count else 0.0


def _adaptive() -> Scheduler:
    from heartloop.engine.adaptive import Adaptive

    return Adaptive()


SCHEDULERS: Mapping[str, Callable[[], Scheduler]] = {
    "adaptive": _adaptive,
    "breadth_first": BreadthFirst,
    "deadline": Deadline,
    "depth_first": DepthFirst,
}


def active_problems(name: str, concurrency: int) -> int:
    """How many problems a run under the policy of that name should have in work at once.

    Twice the calls it can have in flight keep a backend busy. A policy that chooses among problems needs to
    have met them, so ``adaptive`` begins up to :data:`WIDE` before it goes deep into any.
    """
    return max(2 * concurrency, WIDE if name == "adaptive" else 0)


def scheduler_from_name(name: str) -> Scheduler:
    """A new policy of that name.

    Raises:
        UnknownName: with the known ones.
    """
    try:
        return SCHEDULERS[name]()
    except KeyError:
        raise UnknownName("scheduler", name, SCHEDULERS) from None
