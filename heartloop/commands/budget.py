"""``heartloop budget``: other limits for a run that is at work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heartloop.commands import options as opt
from heartloop.commands.output import console, print_json
from heartloop.errors import UsageError

__all__ = ["budget"]


def budget(
    folder: Annotated[Path, typer.Argument(help="Folder of a run that is at work.")],
    budget_tokens: opt.BudgetTokens = None,
    budget_calls: opt.BudgetCalls = None,
    budget_seconds: opt.BudgetSeconds = None,
    budget_usd: opt.BudgetUsd = None,
    json: opt.Json = False,
) -> None:
    """Raise or lower the limits of a run while it works; those that are not given stay.

    Limits count from the run's beginning, so the new figure is the new total. Problems that have ended for
    want of budget stay ended until `heartloop resume`.
    """
    from dataclasses import asdict

    from heartloop.journal.reader import JournalReader
    from heartloop.runs.config import RunConfig
    from heartloop.runs.rebudget import ask
    from heartloop.runs.run import journal_in
    from heartloop.types import Budget

    named = {"tokens": budget_tokens, "calls": budget_calls, "seconds": budget_seconds, "usd": budget_usd}
    limits = {name: limit for name, limit in named.items() if limit is not None}
    if not limits:
        raise UsageError("no limit given: --budget-tokens, --budget-calls, --budget-seconds or --budget-usd")
    Budget(**limits)  # type: ignore[arg-type]  # says what can't be one
    journal = journal_in(folder)
    ask(folder, journal, limits)
    with JournalReader(journal) as reader:
        now = asdict(RunConfig.from_dict(reader.meta.get("config", {})).budget)
    if json:
        print_json({"budget": now})
        return
    told = ", ".join(f"{limit:,} {name}" for name, limit in now.items() if limit is not None)
    console().print(f"The run's limits are now: {told}.")
