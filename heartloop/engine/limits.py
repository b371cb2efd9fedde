"""Time limits of many calls at once, under one timer.

``asyncio.timeout`` makes a timer for each call, and almost all of them are cancelled again. Here one timer
stands at the earliest end of all limits; a call that ends in time takes only itself off the list.

A limit may also end with a budget of seconds, wherever that is moved meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

__all__ = ["Limit", "Limits"]


class Limits:
    """The limits that are running, for calls of one event loop."""

    def __init__(self) -> None:
        self._running: dict[Limit, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float, left: Callable[[], float | None] | None = None) -> Limit:
        """For the length of a ``with``: the task that enters it is cut after ``seconds``.

        Args:
            left: seconds left to a budget, at whose end it is cut too; None from it is no such end.
        """
        return Limit(self, seconds, left)

    def look_again(self) -> None:
        """Budgets of seconds were changed: those who are within one end with it."""
        if not self._running:
            return
        loop = asyncio.get_running_loop()
        for limit in self._running:
            limit.reckon(loop.time())
        if self._timer is not None:
            self._timer.cancel()
        self._look(loop)

    def begin(self, limit: Limit, loop: asyncio.AbstractEventLoop) -> None:
        """``limit`` is running: look at it when it is due, or earlier."""
        self._running[limit] = None
        timer = self._timer
        if timer is None or limit.due < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = loop.call_at(limit.due, self._look, loop)

    def end(self, limit: Limit) -> None:
        """``limit`` is not running any more."""
        del self._running[limit]
        if self._timer is not None and not self._running:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        # As asyncio does: what is due within the clock's resolution is due.
        now = loop.time() + 1e-6
        for limit in list(self._running):
            if limit.due <= now:
                limit.cut()
        if left := [limit.due for limit in self._running if not limit.passed]:
            self._timer = loop.call_at(min(left), self._look, loop)


class Limit:
    """One call's limit, as a context manager: TimeoutError once it has passed.

    Attributes:
        due: on the loop's clock.
        passed: the task was cut.
    """

    __slots__ = ("_cancelling", "_latest", "_left", "_limits", "_seconds", "_task", "due", "passed")

    def __init__(self, limits: Limits, seconds: float, left: Callable[[], float | None] | None) -> None:
        self._limits = limits
        self._seconds = seconds
        self._left = left
        self.passed = False

    def reckon(self, now: float) -> None:
        """Set :attr:`due` by what is left of the budget now."""
        left = None if self._left is None else self._left()
        self.due = self._latest if left is None else min(self._latest, now + max(0.0, left))

    def cut(self) -> None:
        """End it now. Called by anybody in the loop but the task itself."""
        if not self.passed:
            self.passed = True
            self._task.cancel()

    def __enter__(self) -> Limit:
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._task = task
        self._cancelling = task.cancelling()
        now = loop.time()
        self._latest = now + self._seconds
        self.reckon(now)
        self._limits.begin(self, loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._limits.end(self)
        # Somebody else may have cancelled the task as well: then that is what it ends with.
        if self.passed and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
