"""Recorded attempts under other settings: fewer lines, fewer rounds, a stop rule, another judge.

What a smaller setting would have done is in the record of a larger one, as far as attempts do not depend on
how many there are beside them: independent attempts, and lines that continue one first attempt. (HEART's
lines share one deck without repeats: which cue a line got does depend on its neighbours. That is let pass.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, cast

from heartloop.engine.session import Session
from heartloop.errors import UsageError
from heartloop.judges.base import Judge
from heartloop.judges.majority import groups_by_answer
from heartloop.strategies.stopping import Seen, StopRule, seen_line
from heartloop.types import Attempt, Problem

__all__ = ["Case", "Outcome", "Setting", "outcomes", "shape_of"]

INDEPENDENT = frozenset({"resample", "self_consistency", "best_of_n"})
LINES = frozenset({"heart", "self_reflection", "bare_retry"})


@dataclass(frozen=True, slots=True)
class Setting:
    """How to run: ``judge`` and ``stop`` are specs; ``stop`` None runs all rounds."""

    judge: str
    stop: str | None
    width: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled problem: its attempts, each with a score, by round and branch."""

    problem: Problem
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one setting did on one problem."""

    right: bool
    tokens: int
    calls: int


def shape_of(strategy: str) -> str | None:
    """``"independent"``, ``"lines"``, or None for strategies whose attempts can't be cut afterwards."""
    head = strategy.partition(":")[0]
    return "independent" if head in INDEPENDENT else "lines" if head in LINES else None


async def outcomes(
    case: Case,
    settings: Sequence[Setting],
    shape: str | None,
    judges: Mapping[str, Judge],
    rules: Mapping[str, StopRule],
    same: Callable[[str, str], Awaitable[bool]],
    recorded_width: int,
) -> list[Outcome]:
    """What each setting would have done on ``case``. Choices are worked out once for equal candidates.

    Raises:
        UsageError: a judge calls a model, or lacks what attempts don't carry.
    """
    session = _Offline(same)
    group = await _groups(case.attempts, same)
    seen_by = {id(a): seen for a, seen in zip(case.attempts, seen_line(case.attempts, group), strict=True)}
    chosen: dict[tuple[str, int, int], bool] = {}
    lines: dict[int, list[list[Attempt]]] = {}
    ends: dict[tuple[str | None, int, int], int] = {}
    found = []
    for setting in settings:
        width = setting.width
        if width not in lines:
            lines[width] = _lines(case.attempts, shape, width)
        step = recorded_width if shape == "independent" else 1
        place = (setting.stop, width, setting.rounds)
        if place not in ends:
            rule = None if setting.stop is None else rules[setting.stop]
            ends[place] = _end(lines[width], rule, setting.rounds, step, seen_by)
        end = ends[place]
        made = _distinct(line[: end * step] for line in lines[width])
        key = (setting.judge, width, end)
        if key not in chosen:
            problem = case.problem.without_reference()
            pick = await judges[setting.judge].select(problem, made, cast(Session, session))
            chosen[key] = bool(pick.score is not None and pick.score.correct)
        found.append(Outcome(chosen[key], sum(a.usage.total_tokens for a in made), len(made)))
    return found


def _lines(attempts: Sequence[Attempt], shape: str | None, width: int) -> list[list[Attempt]]:
    """The first ``width`` lines (all lines begin with the first attempt); one line of independent ones."""
    if shape != "lines":
        return [list(attempts)]
    by_branch: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_branch.setdefault(attempt.branch, []).append(attempt)
    root = attempts[0]
    branches = sorted(by_branch, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")])
    return [
        by_branch[name] if by_branch[name][0] is root else [root, *by_branch[name]]
        for name in branches[:width]
    ]


def _end(
    lines: Sequence[Sequence[Attempt]],
    rule: StopRule | None,
    rounds: int,
    step: int,
    seen_by: Mapping[int, Seen],
) -> int:
    """After which round a run with these settings ends."""
    longest = max(-(-len(line) // step) for line in lines)
    last = min(rounds, longest)
    if rule is not None:
        for round in range(1, last):
            if rule.stops([[seen_by[id(a)] for a in line[: round * step]] for line in lines]):
                return round
    return last


def _distinct(lines: Iterator[Sequence[Attempt]]) -> list[Attempt]:
    once = {(a.branch, a.round): a for line in lines for a in line}
    return sorted(once.values(), key=lambda a: a.round)


async def _groups(
    attempts: Sequence[Attempt], same: Callable[[str, str], Awaitable[bool]]
) -> list[int | None]:
    groups = await groups_by_answer(attempts, same)
    number = {id(a): k for k, group in enumerate(groups) for a in group}
    return [number.get(id(a)) for a in attempts]


class _Offline:
    """All that a judge without calls asks of its session."""

    def __init__(self, same: Callable[[str, str], Awaitable[bool]]) -> None:
        self.equivalent = same
        self.branch_name = "offline"

    def branch(self, k: int) -> _Offline:
        return self

    def random(self, name: str) -> Random:
        return Random(name)

    async def gather(self, work: Mapping[Any, Coroutine[Any, Any, Any]]) -> dict[Any, Any]:
        try:
            return {key: await one for key, one in work.items()}
        finally:
            for one in work.values():  # those that nobody awaits any more
                one.close()

    def __getattr__(self, name: str) -> Any:
        raise UsageError(
            "a judge that calls a model can't be tried here for nothing: judge the run by it "
            "(heartloop judge RUN --judge ...), and give the folder of the judgements with --judgements"
        )
