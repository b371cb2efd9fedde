"""A run on a person's screen: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

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
    parts = [f"{live.calls:,} calls ({live.in_flight} in flight)", f"{live.tokens:,} tokens"]
    if live.usd:
        parts.append(f"${live.usd:,.4f}")
    if live.scored:
        parts.append(f"{live.right / live.scored:.1%} right")
    if live.failed:
        parts.append(f"{live.failed} failed")
    if live.draining:
        parts.append("draining")
    return ", ".join(parts)


async def _watch(run: Run, console: Console) -> None:
    if not console.is_terminal:
        await _lines(run, console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=1 / _FRAME_SECONDS) as progress:
        task = progress.add_task("problems", total=None, figures="")
        try:
            while True:
                live = run.refresh()
                progress.update(task, total=live.total or None, completed=live.done, figures=_figures(live))
                await asyncio.sleep(_FRAME_SECONDS)
        finally:
            live = run.refresh()
            progress.update(task, total=live.total or None, completed=live.done, figures=_figures(live))


async def _lines(run: Run, console: Console) -> None:
    start = time.monotonic()
    while True:
        await asyncio.sleep(_LINE_SECONDS)
        live = run.refresh()
        elapsed = time.monotonic() - start
        left = ""
        if live.done_here and live.total > live.done:
            left = f", {elapsed / live.done_here * (live.total - live.done):.0f} s left"
        console.print(f"{live.done}/{live.total} problems, {_figures(live)}, {elapsed:.0f} s{left}")
        sys.stderr.flush()
