"""Where something outside may watch an engine at work, at no cost while nothing does.

:data:`factory` is asked once, when an engine is made. While it is None, an engine has no watch, its gateway
makes its tries by the plain class, and nothing further is looked at for a call. (:mod:`heartloop.telemetry`
is what sets it.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from heartloop.engine.engine import Engine
    from heartloop.engine.solving import Arm
    from heartloop.engine.tries import Tries
    from heartloop.engine.wave_flight import WaveFlight
    from heartloop.types import Problem

__all__ = ["Watch", "factory"]


class Watch(Protocol):
    """Watches one engine."""

    tries: type[Tries]
    """What the gateway makes a call's attempts with, in place of its own class."""
    flights: type[WaveFlight]
    """What the gateway makes waves with, in place of its own class."""

    def problem(self, problem: Problem, arm: Arm) -> AbstractContextManager[Arm]:
        """Entered while ``problem`` is solved; yields the arm to solve it with."""
        ...

    def request(
        self, method: str, path: str, route: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Entered while a request to ``heartloop serve`` is answered; what it yields is told the status.

        Args:
            route: as the server has it, "" where there is nothing at ``path``.
        """
        ...

    def closed(self) -> None:
        """The engine's gateway has closed."""
        ...


factory: Callable[[Engine], Watch] | None = None
"""Makes the watch of each new engine."""
