"""``heartloop calibrate``: which judge, stop rule and width to use, and what it is worth."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartloop.commands import options as opt
from heartloop.commands.output import console, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from heartloop.reports.judging import Figure
    from heartloop.runs.calibrate import Calibration

__all__ = ["calibrate"]


def calibrate(
    folder: Annotated[Path, typer.Argument(help="Folder of a labelled run that no oracle stopped.")],
    arm: Annotated[str | None, typer.Option(help="Arm of the run, where it has several.")] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option("--judge", "-j", help="A judge that calls no model; several may be given."),
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A stop rule; several may be given.")] = None,
    judgements: Annotated[
        Path | None, typer.Option(help="Folder of `heartloop judge` on this run: its judges are tried too.")
    ] = None,
    most_tokens: Annotated[
        float | None, typer.Option(min=1, help="Most tokens that a problem may cost on average.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    json: opt.Json = False,
) -> None:
    """Which judge, stop rule and size to use for a model and task, what it costs, and what it gains."""
    from heartloop.runs.calibrate import calibrate as make

    made = make(
        folder,
        arm=arm,
        judges=judge or (),
        stops=stop or (),
        judgements=judgements,
        most_tokens=most_tokens,
        seed=seed,
    )
    if json:
        print_json(made.to_dict())
    else:
        _show(made, console())


def _show(made: Calibration, screen: Console) -> None:
    from rich.table import Table

    figures, chosen = made.figures, made.setting
    table = Table(
        title=f"{len(made.settings)} settings tried on {made.problems} labelled problems",
        caption="Accuracy on the problems that chose: of the best of many it is too high.",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("judge", overflow="fold")
    for head in ("stop", "width", "rounds", "accuracy", "tokens"):
        table.add_column(head, justify="right")
    order = sorted(
        range(len(made.settings)), key=lambda place: (figures.apparent[place], -figures.mean_tokens[place])
    )
    best_by_judge = {made.settings[place].judge: place for place in order}
    for place in dict.fromkeys([figures.chosen, figures.best, *reversed(best_by_judge.values())]):
        setting = made.settings[place]
        table.add_row(
            setting.judge,
            setting.stop or "-",
            str(setting.width),
            str(setting.rounds),
            f"{figures.apparent[place]:.1%}",
            f"{figures.mean_tokens[place]:,.0f}",
            style="bold" if place == figures.chosen else None,
        )
    screen.print(table)
    screen.print(f"\nOn problems that it was not chosen by ({made.model}, 95% intervals):")
    screen.print(f"  accuracy   {_percent(figures.accuracy)}; first attempts {made.first:.1%}")
    screen.print(f"  gain       {_percent(figures.gain)}")
    screen.print(f"  tokens     {_count(figures.tokens)} a problem")
    screen.print(f"  calls      {_count(figures.calls)} a problem")
    often = figures.picked[figures.chosen]
    screen.print(f"  the same setting was chosen in {often} of {figures.splits} splits")
    if made.left_out:
        screen.print(f"  left out: {made.left_out} problems, unfinished or not labelled")
    lines = ["[arm]", f'strategy = "{made.arm.strategy}"', f'judge = "{chosen.judge}"']
    lines += [f"max_rounds = {chosen.rounds}", f"width = {chosen.width}"]
    lines += [] if chosen.stop is None else [f'stop = "{chosen.stop}"']
    screen.print("\n" + "\n".join(lines), markup=False)
    screen.print("\nheartloop run " + shlex.join(made.flags()) + " ...", markup=False, soft_wrap=True)


def _percent(figure: Figure) -> str:
    return f"{figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%})"


def _count(figure: Figure) -> str:
    return f"{figure.value:,.1f} ({figure.low:,.1f} to {figure.high:,.1f})"
