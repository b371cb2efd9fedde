"""An event loop whose clock jumps: hours of sleep are over at once, and always in the same order."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run_virtually"]

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everyone waits, for nothing that will come")
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtually(work: Coroutine[Any, Any, T], *, at_most: float = 1e6) -> T:
    """``asyncio.run`` on virtual time; no I/O, no threads. Fails after ``at_most`` virtual seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(at_most):
            return await work

    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(bounded())
