"""What ``heartloop bench`` prints: the known benchmarks, the plan of a run, its dry run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table

from heartloop.runs.dry_run import DryRun, dry_run
from heartloop.runs.show import clean, counted, excerpt
from heartloop.types import Budget
from heartloop_benchmarks.base import benchmark_from_name, known_benchmarks, options_to_dict

if TYPE_CHECKING:
    from heartloop_benchmarks.bench import Prepared

__all__ = ["list_benchmarks", "show_dry_run", "show_plan"]


def list_benchmarks(console: Console | None) -> None:
    """The known benchmarks, with their options; as JSON where ``console`` is None."""
    from heartloop.commands.output import print_json

    found = [benchmark_from_name(name) for name in known_benchmarks()]
    if console is None:
        print_json(
            {
                "benchmarks": [
                    {
                        "name": one.name,
                        "title": one.title,
                        "source": one.source,
                        "hub": None if one.hub is None else one.hub.repository,
                        "gated": one.hub is not None and one.hub.gated,
                        "options": options_to_dict(one.options()),
                    }
                    for one in found
                ]
            }
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("benchmark", no_wrap=True)
    table.add_column("from")
    table.add_column("options (default)")
    for one in found:
        options = options_to_dict(one.options())
        shown = ", ".join(f"{name}={options[name]}" for name in (f.name for f in fields(one.options)))
        hub = "--data FILE" if one.hub is None else one.hub.repository + (" (gated)" if one.hub.gated else "")
        table.add_row(one.name, clean(hub), clean(shown))
    console.print(table)
    console.print("\nheartloop bench NAME --model MODEL [--data FILE] ...; see `heartloop bench --help`.")


# --- the plan ----------------------------------------------------------------------------------------


def show_plan(ready: Prepared, console: Console) -> None:
    """What is about to be run, in a small table."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for head, text in _plan(ready):
        table.add_row(head, clean(text))
    console.print(table)


def _plan(ready: Prepared) -> Iterator[tuple[str, str]]:
    kept, grid, survey = ready.manifest, ready.grid, ready.survey
    options = ", ".join(f"{name}={value}" for name, value in kept["options"].items())
    yield "benchmark", kept["title"] + (f" ({options})" if options else "")
    yield "data", f"{kept['data']['source']} (sha256 {kept['data']['sha256'][:12]})"
    yield "problems", _problems(ready)
    yield "arms", ", ".join(_arm(label, grid.attempts[label]) for label in grid.labels)
    if len(grid.judges) > 1 or grid.judges[0].setting != "S2":
        yield "judges", ", ".join(f"{judge.name} ({judge.setting})" for judge in grid.judges)
    else:
        yield "judge", f"{grid.judges[0].name} (S2)"
    yield "scored by", grid.arms[0].grader
    cells, seeds = counted(len(grid.arms), "cell"), ", ".join(map(str, grid.seeds))
    shared = ", first attempts shared" if ready.file.share_first and len(grid.labels) > 1 else ""
    yield "grid", f"{cells} (seed{'s' if len(grid.seeds) > 1 else ''} {seeds}){shared}"
    if ready.file.order == "seed":
        yield "order", "of the problems: each seed's own (the same for all its cells)"
    else:
        yield "order", "of the problems: the data's, for all seeds"
    caps = [f"at most {counted(grid.most_attempts, 'attempt')}", *_budget(grid.problem_budget)]
    yield "caps", f"each problem in each cell: {', '.join(caps)}"
    if not grid.arm_budget.unlimited or not grid.budget.unlimited:
        share = "; each cell: " + ", ".join(_budget(grid.arm_budget)) if not grid.arm_budget.unlimited else ""
        yield "limits", f"the run: {', '.join(_budget(grid.budget))}{share}"
    if grid.primary is not None:
        one = grid.primary
        margin = "" if ready.file.margin is None else f", margin ±{100 * ready.file.margin:g} points"
        yield "primary", f"{one['a']} - {one['b']} under {one['judge']} ({one['setting']}){margin}"
        yield "detectable", detectable_text(kept["detectable"])
    for family in grid.families:
        contrasts = ", ".join(f"{c['a']} - {c['b']} ({c['judge']})" for c in family["contrasts"])
        yield "family", f"{family['name']} (Holm): {contrasts}"
    for note in grid.notes:
        yield "note", note
    if survey.unjudged:
        yield "note", f"{counted(survey.unjudged, 'problem')} that nothing can judge: run, but not scored"
    yield "folder", str(ready.out)


def _problems(ready: Prepared) -> str:
    survey = ready.survey
    text = f"{survey.problems:,}"
    if survey.problems != survey.questions:
        text = f"{survey.questions:,} questions, asked {survey.problems:,} times"
    if ready.file.limit is not None and survey.questions == ready.file.limit:
        text += " (the first ones)"
    if survey.left_out:
        text += "; left out: " + ", ".join(f"{count:,} {why}" for why, count in survey.left_out.items())
    return text


def _arm(label: str, attempts: int) -> str:
    return f"{label} ({counted(attempts, 'attempt')})"


def _budget(budget: Budget) -> list[str]:
    parts: list[str] = []
    if budget.tokens is not None:
        parts.append(f"{budget.tokens:,} tokens")
    if budget.calls is not None:
        parts.append(counted(budget.calls, "call"))
    if budget.seconds is not None:
        parts.append(f"{budget.seconds:,g} s")
    if budget.usd is not None:
        parts.append(f"${budget.usd:,.4f}")
    return parts


def detectable_text(found: list[dict[str, Any]]) -> str:
    """The detectable differences in a sentence."""
    if not found:
        return "not known: it needs the extra [report]"
    one = found[0]
    parts: list[str] = []
    for entry in found:
        size, share = entry["difference"], f"{100 * entry['discordance']:.3g}%"
        first = "if the arms differ on" if not parts else "on"
        parts.append(f"{'nothing' if size is None else f'{100 * size:.1f} points'} {first} {share}")
    test = f"{one['method']}, {100 * one['power']:g}% power, {100 * one['alpha']:g}% level"
    if all(entry["difference"] is None for entry in found):
        most = max(entry["discordance"] for entry in found)
        parts = [f"nothing, for so few problems, if the arms differ on {100 * most:.3g}% or less"]
    return f"{', '.join(parts)} of the problems ({test})"


# --- the dry run -------------------------------------------------------------------------------------


def show_dry_run(
    ready: Prepared, console: Console | None, print_json: Callable[[dict[str, Any]], None]
) -> None:
    """The plan, the first problem's prompts and the most that the run can cost; as JSON without a console."""
    found = asyncio.run(dry_run(ready.config, ready.source.problems()))
    if console is None:
        print_json(
            {
                "problems": found.problems,
                "cells": [arm.name for arm in ready.config.arms],
                "most_calls": found.calls,
                "most_tokens": found.tokens,
                "most_usd": found.usd,
                "requests": [{"arm": arm, **request.as_dict()} for arm, request in found.requests],
                "out": str(ready.out),
                "benchmark": ready.manifest,
            }
        )
        return
    _show_requests(found, console)
    show_plan(ready, console)
    cost = "price unknown" if found.usd is None else f"${found.usd:,.4f}"
    console.print(
        f"\n{counted(found.problems, 'problem')} x {counted(len(ready.grid.arms), 'cell')}: at most "
        f"{counted(found.calls, 'call')} and {counted(found.tokens, 'token')} ({cost}), retries aside and "
        "before any limit. Nothing was sent."
    )


def _show_requests(found: DryRun, console: Console) -> None:
    """Each different request once: cells have many in common."""
    seen: dict[Any, str] = {}
    numbers: dict[str, int] = {}
    for arm, request in found.requests:
        numbers[arm] = number = numbers.get(arm, 0) + 1
        here = f"{arm}: call {number} of the first problem"
        key = repr([message.as_dict() for message in request.messages])
        if key in seen:
            continue
        seen[key] = here
        console.print(Rule(clean(here)))
        for message in request.messages:
            console.print(Panel(excerpt(message.content), title=message.role, title_align="left"))
