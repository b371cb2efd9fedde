"""``budget.json``: how another process asks a working run for other limits.

The run's folder is where they meet: whoever asks leaves a file, the run takes it within a second, sets its
limits as :meth:`heartloop.runs.run.Run.set_budget` does, and leaves an answer. A run that has ended, or was
killed, takes nothing; its limits are set when it is gone on with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from heartloop.errors import HeartLoopError, UsageError
from heartloop.journal.lock import writer_of

__all__ = ["ANSWER_NAME", "ASKED_NAME", "ask", "heeded_while"]

logger = logging.getLogger(__name__)

ASKED_NAME, ANSWER_NAME = "budget.json", "budget-answer.json"
EVERY = 0.5
"""Seconds between two looks of the run."""


def ask(folder: Path, journal: Path, limits: Mapping[str, float], *, patience: float = 15.0) -> None:
    """Have the run that works in ``folder`` change these limits of its budget; returns when it has.

    Args:
        journal: the run's; whoever has it open for writing is the run at work.
        limits: by the names of :class:`heartloop.Budget`; the others stay as they are.

    Raises:
        UsageError: nobody is at work there, or the run refuses (the reason is its own).
        HeartLoopError: it did not answer in time.
    """
    writer = writer_of(journal)
    if writer is None:
        raise UsageError(f"{folder}: nobody is at work there; `heartloop resume` goes on with other limits")
    id = uuid.uuid4().hex
    asked, answer = folder / ASKED_NAME, folder / ANSWER_NAME
    _write(asked, {"id": id, "limits": dict(limits)})
    end = time.monotonic() + patience
    while time.monotonic() < end:
        said = _read(answer)
        if said is not None and said.get("id") == id:
            answer.unlink(missing_ok=True)
            if said.get("error"):
                raise UsageError(str(said["error"]))
            return
        if writer_of(journal) is None:
            break
        time.sleep(0.05)
    asked.unlink(missing_ok=True)
    if writer_of(journal) is None:
        raise UsageError(f"{folder}: the run ended before it took the limits")
    raise HeartLoopError(
        f"{folder}: the process that works there ({writer or 'in another container'}) did not take the "
        f"limits within {patience:g} s; is it a run, and is it stopped?"
    )


@asynccontextmanager
async def heeded_while(folder: Path, heed: Callable[[dict[str, Any]], None]) -> AsyncIterator[None]:
    """In the block, ``heed(limits)`` is called on this loop with whatever is asked for in ``folder``.

    An error that it raises on purpose is the answer.
    """
    for name in (ASKED_NAME, ANSWER_NAME):  # of before: nobody waits for it
        _unlink(folder / name)
    task = asyncio.create_task(_heed(folder, heed))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _heed(folder: Path, heed: Callable[[dict[str, Any]], None]) -> None:
    asked, heeded = folder / ASKED_NAME, ""
    while True:
        await asyncio.sleep(EVERY)
        said = _read(asked)  # mostly not there, which takes microseconds to find out
        if said is None or said.get("id") == heeded:
            continue
        heeded = str(said.get("id"))
        _unlink(asked)
        error: str | None = None
        try:
            heed(said["limits"])
        except HeartLoopError as caught:
            error = str(caught)
        except Exception:  # whatever somebody has put there, the run goes on
            logger.exception("%s asks for what can't be", asked)
            error = "these can't be limits"
        try:
            _write(folder / ANSWER_NAME, {"id": heeded, "error": error})
        except OSError as caught:
            logger.warning("%s can't be answered (%s)", asked, caught)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _write(path: Path, data: dict[str, Any]) -> None:
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_bytes(orjson.dumps(data))
    os.replace(fresh, path)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s can't be removed (%s)", path, error)
