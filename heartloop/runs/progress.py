"""A run on a person's screen: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from heartloop.engine.waves import WavesOut
from heartloop.runs.run import Live, Run
from heartloop.runs.summary import Summary

__all__ = ["execute_watched"]

_FRAME_SECONDS = 0.25
_LINE_SECONDS = 10.0


async def execute_watched(run: Run, console: Console) -> Summary:
    """``run.execute()`` with its progress shown on ``console``.

    Ctrl-C (or SIGTERM) once drains: calls in flight are answered and recorded, no more are sent. Twice
    cancels. Both leave a journal that can be resumed.
    """
    with _signals(run, console):
        watching = asyncio.create_task(_watch(run, console))
        try:
            return await run.execute()
        finally:
            watching.cancel()
            await asyncio.wait([watching])


@contextmanager
def _signals(run: Run, console: Console) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    seen = 0

    def on_signal() -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            console.print("Draining: waiting for the calls in flight. Press Ctrl-C again to cancel them.")
            if run.refresh().waves.calls:
                console.print("Batches are not waited for: they go on, and resuming picks up their results.")
            run.drain()
        else:
            console.print("Cancelling the calls in flight.")
            run.cancel()

    caught = []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, on_signal)
            caught.append(number)
        except (NotImplementedError, ValueError, RuntimeError):  # not the main thread, or not Unix
            continue
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


def _figures(live: Live) -> str:
    parts = ["draining"] if live.draining else []
    parts.append(f"{live.calls:,} calls ({live.in_flight} in flight)")
    if live.waves != WavesOut():
        parts.append(_waves(live.waves))
    parts.append(f"{live.tokens:,} tokens")
    if live.usd:
        parts.append(f"${live.usd:,.4f}")
    if live.scored:
        parts.append(f"{live.right / live.scored:.1%} right")
    if live.failed:
        parts.append(f"{live.failed} failed")
    return ", ".join(parts)


def _waves(out: WavesOut) -> str:
    text = f"{out.calls:,} in {out.waves} {'batch' if out.waves == 1 else 'batches'} ({out.done:,} run)"
    return text + (f", {out.collected:,} waiting for one" if out.collected else "")


class _Clock:
    """Time spent in this process, and how long the rest will take at its pace.

    Problems that earlier processes finished say nothing of the pace, so rich's own estimate won't do.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, live: Live) -> str:
        elapsed = time.monotonic() - self._start
        text = _duration(elapsed)
        if live.done_here and live.total > live.done and not live.draining:
            text += f", {_duration(elapsed / live.done_here * (live.total - live.done))} left"
        return text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class _Bar(Progress):
    """The bar on one line and the figures below it: one line of both does not fit 80 columns."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(f"  {self.figures}", style="dim", no_wrap=True, overflow="ellipsis")


async def _watch(run: Run, console: Console) -> None:
    if not console.is_terminal:
        await _lines(run, console)
        return
    clock = _Clock()
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]problems"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[time]}"),
    )
    with _Bar(*columns, console=console, refresh_per_second=1 / _FRAME_SECONDS) as bar:
        task = bar.add_task("problems", total=None, time="")

        def draw() -> None:
            live = run.refresh()
            bar.figures = _figures(live)
            bar.update(task, total=live.total or None, completed=live.done, time=clock(live))

        try:
            while True:
                draw()
                await asyncio.sleep(_FRAME_SECONDS)
        finally:
            draw()


async def _lines(run: Run, console: Console) -> None:
    clock = _Clock()
    while True:
        await asyncio.sleep(_LINE_SECONDS)
        live = run.refresh()
        line = f"{live.done}/{live.total} problems, {_figures(live)}, {clock(live)}"
        console.print(line, soft_wrap=True)
        sys.stderr.flush()
