"""Hedging: a second try of a call that takes far longer than its like, beside the first.

Whichever answers first is the answer; the other is cancelled at the server and charged as assumed. A hedge
has a reservation of its own, and is only sent when nobody else could use its slot.

When a call is a straggler is learned from each lane's own calls: it is one beyond a quantile of their times,
estimated as Kaplan and Meier did (1958), since calls still in flight have not ended yet and must not count
as if they were not there. Otherwise the first few answers of a wave, its quickest, would make stragglers of
all others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from heartloop.engine.limits import Limit
from heartloop.errors import UsageError

__all__ = ["Flight", "HedgePolicy", "Hedger", "Overtaken", "quantile_of"]

REMEMBERED = 512
"""Calls whose times are remembered."""


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """When a call gets a second try beside its first.

    Attributes:
        quantile: of the lane's times, beyond which a call is a straggler.
        share: hedges for each call, at most.
        samples: calls that must have been answered first.
    """

    quantile: float = 0.95
    share: float = 0.1
    samples: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1 or not 0 < self.share <= 1 or self.samples < 1:
            raise UsageError("hedging: quantile and share lie between 0 and 1, samples is at least 1")


class Overtaken(Exception):
    """Inside the gateway: a call was cut because its hedge has answered."""


class Flight:
    """A call in flight, and its hedge if it has one.

    Attributes:
        begun: on the loop's clock.
        cut: the time limit it runs under, while it does.
        overtaken: its hedge has answered.
        task: the hedge.
    """

    __slots__ = ("begun", "cut", "launch", "overtaken", "task")

    def __init__(self, begun: float, launch: Callable[[Flight], Coroutine[Any, Any, None]]) -> None:
        self.begun = begun
        self.launch = launch
        self.cut: Limit | None = None
        self.overtaken = False
        self.task: asyncio.Task[None] | None = None

    def overtake(self) -> None:
        """End the first try: its hedge has answered."""
        self.overtaken = True
        if self.cut is not None:
            self.cut.cut()


class Hedger:
    """Watches a lane's calls in flight, and has stragglers hedged.

    Args:
        may: whether a hedge would be in nobody's way, asked just before each, with how many others
            were launched and have not left yet.
    """

    def __init__(self, policy: HedgePolicy, may: Callable[[int], bool]) -> None:
        self.policy = policy
        self.calls = self.hedges = 0
        self.delay: float | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self._may = may
        self._flights: dict[Flight, None] = {}
        self._unhedged: dict[Flight, None] = {}  # oldest first
        self._launching: set[Flight] = set()
        self._samples: deque[tuple[float, bool]] = deque(maxlen=REMEMBERED)
        self._news = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, launch: Callable[[Flight], Coroutine[Any, Any, None]]) -> Flight:
        """A call leaves. ``launch(flight)`` is awaited in a task of its own if it turns out a straggler."""
        flight = Flight(asyncio.get_running_loop().time(), launch)
        self.calls += 1
        self._flights[flight] = self._unhedged[flight] = None
        self._arm()
        return flight

    def end(self, flight: Flight, *, answered: bool) -> None:
        """A call is over: ``answered`` by itself, or cut, cancelled, failed."""
        del self._flights[flight]
        self._unhedged.pop(flight, None)
        self._launching.discard(flight)
        if flight.task is not None and not flight.task.done():
            flight.task.cancel()
        if not (answered or flight.overtaken):
            return
        self._samples.append((asyncio.get_running_loop().time() - flight.begun, answered))
        self._news += 1
        # Seldom while much is in flight, since it takes sorting; each time towards the end of a wave.
        if self._news >= min(32, len(self._flights) // 2) and len(self._samples) >= self.policy.samples:
            self._news = 0
            self._learn()
        if self.delay is not None:
            self._look()

    def left(self, flight: Flight, *, sent: bool) -> None:
        """A hedge that was launched leaves, or finds that it would be in somebody's way after all: then the
        call is a straggler as before."""
        self._launching.discard(flight)
        if sent or flight not in self._flights:
            return
        self.hedges -= 1
        self._unhedged[flight] = None
        self._unhedged = dict.fromkeys(sorted(self._unhedged, key=lambda each: each.begun))
        self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self.tasks:
            task.cancel()

    def _learn(self) -> None:
        now = asyncio.get_running_loop().time()
        flying = ((now - flight.begun, False) for flight in self._flights)
        self.delay = quantile_of([*self._samples, *flying], self.policy.quantile) or self.delay

    def _look(self) -> None:
        """Hedge the stragglers, the oldest first, as long as that is allowed."""
        assert self.delay is not None
        due = asyncio.get_running_loop().time() - self.delay
        for flight in list(self._stragglers(due)):
            if self.hedges + 1 > self.policy.share * self.calls or not self._may(len(self._launching)):
                break
            self.hedges += 1
            self._launching.add(flight)
            del self._unhedged[flight]
            flight.task = asyncio.get_running_loop().create_task(flight.launch(flight))
            self.tasks.add(flight.task)
            flight.task.add_done_callback(self.tasks.discard)
        self._arm()

    def _stragglers(self, due: float) -> Iterable[Flight]:
        for flight in self._unhedged:
            if flight.begun > due:
                return
            yield flight

    def _arm(self) -> None:
        """Look again when the oldest call becomes a straggler; soon, if it is one that had to wait."""
        if self._timer is not None or self.delay is None or not self._unhedged:
            return
        loop = asyncio.get_running_loop()
        oldest = next(iter(self._unhedged))
        soonest = loop.time() + max(0.005, 0.05 * self.delay)
        self._timer = loop.call_at(max(soonest, oldest.begun + self.delay), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._look()


def quantile_of(times: list[tuple[float, bool]], quantile: float) -> float | None:
    """The product-limit estimate of a quantile of times, some of which only say "longer than this".

    Args:
        times: seconds, and whether the call ended then (False: it was still going on).

    Returns:
        None where too few have ended to tell.
    """
    left, surviving = len(times), 1.0
    for seconds, ended in sorted(times, key=lambda time: (time[0], not time[1])):
        if ended:
            surviving *= 1 - 1 / left
            if surviving <= 1 - quantile + 1e-12:
                return seconds
        left -= 1
    return None
