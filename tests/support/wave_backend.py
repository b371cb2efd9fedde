"""A backend that takes waves, in memory: what becomes of each call is a function of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heartloop.backends.base import bytes_bound
from heartloop.backends.waves import Note, Outcome, WaveLine, WaveLook
from heartloop.types import Completion, Message, Request, Usage

__all__ = ["MemoryWaves", "Sent"]

Answer = Callable[[Request, int], Outcome | None]
"""What becomes of a request, the n-th time it is run (from 0); None: it has no result."""


@dataclass
class Sent:
    """A wave as it arrived."""

    id: str
    lines: list[WaveLine]
    at: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    look: WaveLook | None = None


class MemoryWaves:
    """Attributes:
    waves: all that were submitted, in order.
    seconds: that a wave takes; None: until its ``ended`` is set.
    looks: by number of the wave from 0, what looking at it says at once instead (a refusal).
    submit_errors: raised by the next submissions, one each, before anything is begun.
    """

    real = False
    max_concurrency = None
    context_tokens = None
    poll_seconds = (0.001, 0.01)
    batch_priced = True

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        name: str = "waves",
        seconds: float | None = 0.0,
        wave_calls: int = 50_000,
        wave_bytes: int = 200_000_000,
    ) -> None:
        self.name = name
        self.wave_calls, self.wave_bytes = wave_calls, wave_bytes
        self.seconds = seconds
        self.waves: list[Sent] = []
        self.cancelled: list[str] = []
        self.looks: dict[int, WaveLook] = {}
        self.submit_errors: list[Exception] = []
        self._answer = answer or (lambda request, n: said("\\boxed{1}"))
        self._times: dict[tuple[str, str], int] = {}

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return bytes_bound(messages)

    async def complete(self, request: Request) -> Completion:
        raise AssertionError("not by the wave")

    def wave_line(self, id: str, request: Request) -> bytes:
        return b"%s %s\n" % (id.encode(), str(request.messages[-1].content).encode())

    async def submit(self, wave: str, lines: Sequence[WaveLine], note: Note) -> str:
        if self.submit_errors:
            raise self.submit_errors.pop(0)
        await note({"file": wave})
        sent = Sent(wave, list(lines), asyncio.get_running_loop().time())
        self.waves.append(sent)
        if self.seconds is not None:
            asyncio.get_running_loop().call_later(self.seconds, sent.ended.set)
        return f"w{len(self.waves) - 1}"

    async def find(self, wave: str, noted: Mapping[str, Any]) -> str | None:
        return next((f"w{n}" for n, sent in enumerate(self.waves) if sent.id == wave), None)

    async def look(self, ref: str) -> WaveLook:
        number = int(ref[1:])
        if not self.waves[number].ended.is_set():
            return WaveLook(False)
        return self.looks.get(number, WaveLook(True))

    async def results(self, ref: str) -> AsyncIterator[tuple[str, Outcome]]:
        for line in self.waves[int(ref[1:])].lines:
            n = self._times.get((ref, line.id))
            if n is None:
                n = sum(id == line.id for _, id in self._times)
                self._times[ref, line.id] = n
            outcome = self._answer(line.request, n)
            if outcome is not None:
                yield line.id, outcome

    async def cancel(self, ref: str) -> None:
        self.cancelled.append(ref)

    async def aclose(self) -> None:
        return None

    @property
    def sizes(self) -> list[int]:
        return [len(wave.lines) for wave in self.waves]


def said(text: str, prompt: int = 3, completion: int = 2) -> Completion:
    """An answer with its usage."""
    return Completion(text, usage=Usage(prompt, completion))
