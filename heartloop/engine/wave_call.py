"""One call on its way in a wave."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from heartloop.backends.waves import WaveLine
from heartloop.engine.ledger import Reservation
from heartloop.journal.records import Reserve
from heartloop.types import Completion

__all__ = ["Member"]


@dataclass(slots=True, eq=False)
class Member:
    """One call of a wave.

    Attributes:
        answer: its completion, or the error that it ended with; None: there is a new one to wait for.
        waiters: how many wait for that.
        sent: it is no longer being collected.
        number: of its line in the wave, from 0.
        watched: what whoever watches from outside (:mod:`heartloop.engine.watch`) keeps of it.
    """

    fingerprint: str
    role: str
    reservation: Reservation
    reserve: Reserve
    line: WaveLine
    answer: asyncio.Future[Completion | BaseException | None]
    waiters: int = 0
    sent: bool = False
    number: int = 0
    watched: object = None

    def fail_for_now(self, error: Exception) -> None:
        """Tell who waits that there is no answer yet and why; it may still come."""
        self._replace(error)

    def wake(self) -> None:
        """Have who waits look at the limits again."""
        self._replace(None)

    def _replace(self, told: Exception | None) -> None:
        waited_for, self.answer = self.answer, self.answer.get_loop().create_future()
        waited_for.set_result(told)
