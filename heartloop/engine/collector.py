"""Python's cyclic garbage collector, asked less often while problems are in work.

Every problem in work holds hundreds of objects that the collector looks at, and none of them is garbage:
reference counts free what is done with. With 512 problems in work it took a tenth of the CPU. What is raised
is the number of new objects after which the youngest generation is collected. Where somebody has set more, or
has switched the collector off, nothing is touched, and once nothing is in work it is as it was.
"""

from __future__ import annotations

import gc
from threading import Lock

__all__ = ["RELAXED", "relax", "restore"]

RELAXED = 10_000
"""New objects between two collections of the youngest generation, while problems are in work."""

_lock = Lock()  # engines may work in several threads
_users = 0
_before: int | None = None


def relax() -> None:
    """Somebody begins to work; each call is followed by one of :func:`restore`."""
    global _users, _before
    with _lock:
        _users += 1
        young, *older = gc.get_threshold()
        if _users == 1 and 0 < young < RELAXED:
            _before = young
            gc.set_threshold(RELAXED, *older)


def restore() -> None:
    """Somebody has ended; after the last one the threshold is what it was, unless it was set meanwhile."""
    global _users, _before
    with _lock:
        _users -= 1
        young, *older = gc.get_threshold()
        if _users == 0 and _before is not None:
            if young == RELAXED:
                gc.set_threshold(_before, *older)
            _before = None
