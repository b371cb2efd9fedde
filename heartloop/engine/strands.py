"""Who can still go on by itself: what a wave must know before it leaves.

A wave is worth waiting for as long as some strategy may add a call to it without an answer from it. Each
solve has *strands*: one, or as many as it gathered branches. A strand that waits for a call in a wave, for
room in the ledger or for another arm's shared attempt is blocked; one that waits for anything else (a
verifier, a call to another model, the journal) is not. :class:`Strands` counts both for one solve,
:class:`Activity` the solves that are not blocked.

Code below a solve finds its strands in a context variable, so nothing else need be told. Without waves there
are none, and nothing is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from typing import Any

__all__ = ["Activity", "Strands", "blocked", "spread"]

LINGER = 0.05
"""Seconds of nothing but waiting before a wave leaves: between two steps a strategy looks blocked."""

_current: ContextVar[Strands | None] = ContextVar("heartloop_strands", default=None)
_NOT_COUNTED: AbstractContextManager[Any] = nullcontext()


class Strands:
    """The strands of one solve; as a context manager, a strand that is blocked meanwhile."""

    __slots__ = ("_activity", "_running", "_token", "_waiting")

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._running = 1
        self._waiting = 0
        self._token: Token[Strands | None] | None = None

    def begin(self) -> None:
        """The solve begins, in this task."""
        self._token = _current.set(self)
        self._activity.changed(+1)

    def end(self) -> None:
        """It has ended."""
        if self._token is not None:
            _current.reset(self._token)
        self._activity.changed(0 if self._blocked else -1)
        self._running = 0

    def __enter__(self) -> None:
        self._change(waiting=1)

    def __exit__(self, *exc: object) -> None:
        self._change(waiting=-1)

    def spread(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """This strand waits for ``tasks``, each a strand of its own until it is done; the last one's is then
        this one again."""
        left = list(tasks)
        if not left:
            return

        def done(task: asyncio.Task[Any]) -> None:
            left.remove(task)
            if left:
                self._change(running=-1)

        self._change(running=len(left) - 1)
        for task in list(left):
            task.add_done_callback(done)

    @property
    def _blocked(self) -> bool:
        return self._waiting >= self._running

    def _change(self, *, running: int = 0, waiting: int = 0) -> None:
        before = self._blocked
        self._running += running
        self._waiting += waiting
        self._activity.changed(before - self._blocked)


class Activity:
    """The solves that are not blocked, of one engine.

    Args:
        on_quiet: called when there was none for :data:`LINGER` seconds.
    """

    def __init__(self, on_quiet: Callable[[], None]) -> None:
        self._on_quiet = on_quiet
        self._busy = 0
        self._changes = self._seen = 0
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, busy: int) -> None:
        """So many more solves are busy."""
        self._busy += busy
        self._changes += 1
        if self._busy <= 0:
            self.look()

    def look(self) -> None:
        """Have a look soon: something waits for quiet."""
        if self._timer is None and self._busy <= 0:
            self._seen = self._changes
            self._timer = asyncio.get_running_loop().call_later(LINGER, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._busy <= 0 and self._changes == self._seen:
            self._on_quiet()
        else:
            self.look()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def blocked() -> AbstractContextManager[Any]:
    """For the length of a ``with``: the strand that runs here can't go on by itself."""
    return _current.get() or _NOT_COUNTED


def spread(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """The strand that runs here waits for ``tasks``; see :meth:`Strands.spread`."""
    if (strands := _current.get()) is not None:
        strands.spread(tasks)
