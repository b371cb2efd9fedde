"""How many calls a model may have at once, and how many a minute.

The lane (see :mod:`heartloop.engine.dispatch`) asks at send time, so the order of waiting calls stays
the scheduler's business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from asyncio_throttle import Throttler

from heartloop.errors import UsageError

__all__ = ["ConcurrencyLimiter", "request_rate"]


class ConcurrencyLimiter:
    """At most ``limit`` calls at once, none while paused (a Retry-After that concerns everyone)."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        if limit < 1:
            raise ValueError(f"concurrency must be at least 1, not {limit}")
        self.limit = limit
        self.running = 0
        self._clock = clock
        self._paused_until = 0.0

    def has_room(self) -> bool:
        return self.running < self.limit and self.paused_for() <= 0

    def paused_for(self) -> float:
        """Seconds until calls may leave again; 0 when not paused."""
        return max(0.0, self._paused_until - self._clock())

    def pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def acquire(self) -> None:
        self.running += 1

    def release(self) -> None:
        self.running -= 1


def request_rate(requests_per_minute: float | None) -> Throttler | None:
    """A throttle for requests a minute, spread over windows of at most a second.

    asyncio-throttle releases a whole window at once, so the window is kept short: one request every
    ``60 / rpm`` seconds below 60 a minute, otherwise the largest whole number that fits a second.
    """
    if requests_per_minute is None:
        return None
    if not requests_per_minute > 0 or math.isinf(requests_per_minute):
        raise UsageError(f"requests per minute must be positive, not {requests_per_minute}")
    per_window = max(1, int(requests_per_minute / 60))
    return Throttler(rate_limit=per_window, period=per_window * 60 / requests_per_minute, retry_interval=0.01)
