"""``heartloop demo``: real loops in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heartloop.commands import options as opt
from heartloop.commands.output import console, log_to_stderr, print_json

__all__ = ["demo"]


def demo(
    out: Annotated[Path | None, typer.Option(help="Keep the run in this folder.")] = None,
    seed: opt.Seed = 0,
    problems: Annotated[int, typer.Option(min=1, help="Problems of the demo's set to use.")] = 10,
    json: opt.Json = False,
) -> None:
    """Real loops on the embedded model: what they cost, gain and lose, with intervals."""
    from heartloop.runs.demo import run_demo

    log_to_stderr(False)
    summary = run_demo(out, seed=seed, problems=problems, console=console(stderr=json))
    if json:
        print_json(summary)
