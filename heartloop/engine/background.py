"""An event loop in a thread of its own, so that sync calls work where a loop is running already."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from heartloop.errors import UsageError

__all__ = ["BackgroundLoop"]

T = TypeVar("T")


class BackgroundLoop:
    """Runs coroutines on :attr:`loop` for a caller that waits; :meth:`stop` ends it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="heartloop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns or raises, run on :attr:`loop`. UsageError within that loop."""
        try:
            self.check_thread()
        except UsageError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def is_mine(self) -> bool:
        """Whether this is called within :attr:`loop`."""
        return threading.current_thread() is self._thread

    def check_thread(self) -> None:
        """Raise UsageError within :attr:`loop`: waiting for it there would never end."""
        if self.is_mine():
            raise UsageError("a sync call from inside this loop's own work would wait for itself: await it")

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
