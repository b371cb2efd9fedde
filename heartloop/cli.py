"""The command line: its commands are in ``heartloop/commands``, and the work is elsewhere.

Exit codes: 0 done, 1 failed (or some problem did), 2 bad usage, 3 the budget ended first, 130 interrupted.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated

import typer

from heartloop import __version__
from heartloop.commands.budget import budget
from heartloop.commands.calibrate import calibrate
from heartloop.commands.compare import compare
from heartloop.commands.demo import demo
from heartloop.commands.judge import judge
from heartloop.commands.output import FAILED, INTERRUPTED, USAGE, complain
from heartloop.commands.recorded import export, plan, show
from heartloop.commands.report import report
from heartloop.commands.run import resume, run
from heartloop.commands.serve import serve
from heartloop.commands.solve import solve
from heartloop.commands.view import view
from heartloop.errors import HeartLoopError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="heartloop",
    help="Test-time scaling of language models with HEART loops: answer, judge, and try again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"heartloop {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in (
    *(solve, run, resume, budget, show, view, plan, export),
    *(demo, judge, calibrate, compare, serve, report),
):
    app.command()(command)


@cache
def _add_commands() -> None:
    """Commands of other packages join by entry point; one that is broken does not take the rest along."""
    for point in entry_points(group="heartloop.commands"):
        try:
            point.load()(app)
        except Exception as error:
            print(f"heartloop: the command {point.name!r} can't be loaded: {error}", file=sys.stderr)


def main() -> None:
    """Entry point of the command ``heartloop``."""
    try:
        _add_commands()
        app(prog_name="heartloop")
    except UsageError as error:
        complain(error)
        sys.exit(USAGE)
    except HeartLoopError as error:
        complain(error)
        sys.exit(FAILED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILED)
    except OSError as error:
        complain(HeartLoopError(f"can't write the output: {error.strerror or error}"))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
