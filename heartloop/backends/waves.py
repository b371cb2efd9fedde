"""What a backend offers that takes calls by the batch: a *wave* goes there as a whole, and is asked after.

The engine (:mod:`heartloop.engine.waves`) collects the calls, owns the journal and the money, and survives
being killed between any two of these methods. A backend only talks to its server, one attempt a method, and
translates what goes wrong as in :meth:`Backend.complete <heartloop.backends.base.Backend.complete>`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from heartloop.backends.base import Backend
from heartloop.errors import BackendError, BadResponse, HeartLoopError
from heartloop.types import Completion, Request

__all__ = ["Note", "Outcome", "TakesWaves", "WaveLine", "WaveLook", "complete_alone"]

Note: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Commits what a wave can be found by, before the server is told to begin."""

Outcome: TypeAlias = Completion | BackendError


@dataclass(frozen=True, slots=True)
class WaveLine:
    """One call of a wave: ``id`` is unique in it, ``line`` is how it is sent."""

    id: str
    request: Request
    line: bytes


@dataclass(frozen=True, slots=True)
class WaveLook:
    """How a wave is getting on.

    Attributes:
        ended: nothing more will come of it; its results are complete.
        done: calls that have been run so far.
        cut: it ended before all of it was run (expired, cancelled): what has no result was never run.
        refused: why the server would not begin with it at all. Nothing of it was run or billed.
        refused_lines: the same for single lines, by number from 0; without these the rest may be taken.
        too_much: it was refused for its size only: less of it, or later, may be taken.
    """

    ended: bool
    done: int = 0
    cut: bool = False
    refused: BackendError | None = None
    refused_lines: Mapping[int, BackendError] = field(default_factory=dict)
    too_much: bool = False


@runtime_checkable
class TakesWaves(Backend, Protocol):
    """A backend whose calls go in waves. Everything else of :class:`Backend` holds as well."""

    @property
    def wave_calls(self) -> int:
        """The most calls in one wave."""
        ...

    @property
    def wave_bytes(self) -> int:
        """The most bytes in one wave."""
        ...

    @property
    def poll_seconds(self) -> tuple[float, float]:
        """The shortest and the longest wait between two looks at a wave."""
        ...

    def wave_line(self, id: str, request: Request) -> bytes:
        """``request`` as a line. Raises BadRequest for one that can't be sent."""
        ...

    async def submit(self, wave: str, lines: Sequence[WaveLine], note: Note) -> str:
        """Send a wave; returns the server's name for it.

        Until ``note`` was called, failing means that nothing was begun. It is awaited with what
        :meth:`find` will want, right before the request that begins the wave. One that can't be begun twice
        under the same ``wave`` need not call it.
        """
        ...

    async def find(self, wave: str, noted: Mapping[str, Any]) -> str | None:
        """The server's name of a wave that may have been begun, or None if it was not."""
        ...

    async def look(self, ref: str) -> WaveLook:
        """How the wave is getting on."""
        ...

    def results(self, ref: str) -> AsyncIterator[tuple[str, Outcome]]:
        """The outcomes of a wave that has ended, by the line's id, in any order. May be read again."""
        ...

    async def cancel(self, ref: str) -> None:
        """Have the rest of a wave not run. What was run keeps its results."""
        ...


async def complete_alone(
    backend: TakesWaves, request: Request, leaving: set[asyncio.Task[None]]
) -> Completion:
    """``Backend.complete`` of a backend that takes waves: a wave of one.

    Args:
        leaving: holds the task that cancels the wave at the server, if the call is cancelled.
    """
    line = WaveLine("call-0", request, backend.wave_line("call-0", request))

    async def noted(data: Mapping[str, Any]) -> None:
        return None

    sending = asyncio.ensure_future(backend.submit(uuid.uuid4().hex, [line], noted))
    try:
        ref = await asyncio.shield(sending)
        wait, longest = backend.poll_seconds
        while not (look := await backend.look(ref)).ended:
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)
    except asyncio.CancelledError:
        task = asyncio.ensure_future(_cancel(backend, sending))
        leaving.add(task)
        task.add_done_callback(leaving.discard)
        raise
    failure = look.refused or next(iter(look.refused_lines.values()), None)
    if failure is None:
        async for _, outcome in backend.results(ref):
            if isinstance(outcome, Completion):
                return outcome
            failure = outcome
    raise failure or BadResponse(f"{backend.name!r} ran the batch {ref} and gave no answer")


async def _cancel(backend: TakesWaves, sending: asyncio.Future[str]) -> None:
    with suppress(HeartLoopError):
        await backend.cancel(await sending)
