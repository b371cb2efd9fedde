"""``heartloop plan``: from a pilot run's journal, what accuracy to expect at what budget."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartloop.engine.results import Outcome, outcome_of
from heartloop.engine.scheduler import SCHEDULERS, active_problems
from heartloop.engine.serial import usage_from_dict
from heartloop.errors import UnknownName, UsageError
from heartloop.journal.reader import JournalReader
from heartloop.journal.records import Event
from heartloop.runs.config import ArmConfig, RunConfig
from heartloop.runs.run import journal_in
from heartloop.simulation.predict import Foreseen, Pilot, foresee, foreseen_worlds
from heartloop.simulation.simulate import Sample
from heartloop.strategies import strategy_from_name
from heartloop.strategies.recorded import RECORDED

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Plan", "pilot_from", "plan", "plan_table"]

SHOWN = ("breadth_first", "depth_first", "adaptive")
"""Schedulers foreseen by default. ``deadline`` without deadlines is first come, first served."""

_SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """A forecast.

    Attributes:
        pilot_problems: problems of the pilot that it rests on; ``incomplete`` are those among them that a
            budget or a failure cut short.
        problems: of the run that is foreseen.
        oracle: whether attempts are judged during the run. Otherwise accuracies are those of the answer
            with the most votes, or with ``last`` of a finished problem's last answer.
        full_tokens: what that run spends without a budget (median).
        rows: accuracies by scheduler and budget.
    """

    arm: str
    pilot_problems: int
    incomplete: int
    problems: int
    oracle: bool
    rounds: int
    full_tokens: int
    draws: int
    rows: tuple[Foreseen, ...]
    last: bool = False

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        data = asdict(self)
        data["rows"] = [
            {
                "scheduler": row.scheduler,
                "budget_tokens": row.budget,
                "accuracy": round(row.accuracy, 4),
                "interval_90": [round(row.low, 4), round(row.high, 4)],
            }
            for row in self.rows
        ]
        return data


def plan(
    folder: str | Path,
    *,
    budgets: Sequence[int] = (),
    arm: str | None = None,
    problems: int | None = None,
    schedulers: Sequence[str] = (),
    draws: int | None = None,
    seed: int = 0,
) -> Plan:
    """What a run like the one in ``folder`` would reach at each budget, under each scheduler.

    Args:
        budgets: in tokens; by default shares of what the whole run would take.
        arm: of the pilot; needed where it has several.
        problems: of the run that is foreseen; by default as many as the pilot's data hold.
        schedulers: names; by default :data:`SHOWN`.
        draws: simulated runs; by default 200, or 100 from 500 problems on.

    Raises:
        UsageError: no run there, no scored attempt in it, an arm that it lacks.
        UnknownName: no such scheduler.
        JournalError: the journal can't be read.
    """
    names = tuple(dict.fromkeys(schedulers)) or SHOWN
    for name in names:
        if name not in SCHEDULERS:
            raise UnknownName("scheduler", name, SCHEDULERS)
    if any(budget < 1 for budget in budgets) or (problems is not None and problems < 1):
        raise UsageError("budgets and the number of problems must be at least 1")
    with JournalReader(journal_in(folder)) as journal:
        config = RunConfig.from_dict(journal.meta.get("config", {}))
        chosen = _arm(config, arm)
        if chosen.strategy == RECORDED:
            raise UsageError(f"{folder}: holds judgements of another run's attempts; plan by that run")
        results = [outcome_of(result) for result in journal.results(chosen.name)]
        pilot = pilot_from(
            chosen,
            ((outcome, journal.events(chosen.name, outcome.problem_id)) for outcome in results),
        )
        wanted = problems or journal.count_problems()
    if not pilot.courses:
        raise UsageError(
            f"{folder}: no problem of the arm {chosen.name!r} has attempts known to be right or wrong; "
            "a plan needs a pilot with references (--judge oracle, or scored afterwards)"
        )
    draws = draws or (200 if wanted < 500 else 100)
    whole = sorted(
        sum(sample.tokens for course in world for sample in course)
        for world in foreseen_worlds(pilot, problems=wanted, draws=min(draws, 50), seed=seed)
    )
    full = whole[len(whole) // 2]
    concurrency = config.models["generator"].concurrency or 64
    return Plan(
        arm=chosen.name,
        pilot_problems=len(pilot.courses),
        incomplete=sum(outcome.status != "done" for outcome in results if outcome.rows),
        problems=wanted,
        oracle=pilot.oracle,
        rounds=pilot.rounds,
        full_tokens=full,
        draws=draws,
        rows=tuple(
            foresee(
                pilot,
                budgets=sorted(set(budgets)) or [_round(full * share) for share in _SHARES],
                schedulers={name: config.active or active_problems(name, concurrency) for name in names},
                problems=wanted,
                concurrency=min(concurrency, wanted),
                draws=draws,
                seed=seed,
            )
        ),
        last=pilot.last,
    )


def _arm(config: RunConfig, name: str | None) -> ArmConfig:
    arms = {arm.name: arm for arm in config.arms}
    if name is None and len(arms) == 1:
        return next(iter(arms.values()))
    if name is None:
        raise UsageError(f"the run has several arms, choose one with --arm: {', '.join(arms)}")
    if name not in arms:
        raise UnknownName("arm", name, arms)
    return arms[name]


def pilot_from(arm: ArmConfig, found: Iterable[tuple[Outcome, Sequence[Event]]]) -> Pilot:
    """A pilot from results and their events (attempts carry their tokens, results who was right).

    A round of several branches counts as one attempt where an oracle gates (it is right if one of them
    is), and as several otherwise. Calls beyond the attempts (a judge's, a synthesis) count with the last.
    """
    oracle = arm.judge == "oracle" and not arm.score_after
    courses, whole = [], []
    for outcome, events in found:
        course = _course(outcome, events, oracle=oracle)
        if course:
            courses.append(course)
            if outcome.status == "done":
                whole.append((outcome, course))
    longest = max((len(course) for course in courses), default=0)
    if not oracle:
        last = arm.score_after and _last_counts(whole)
        return Pilot(courses, oracle, longest or arm.max_rounds, last)
    # Some strategies make fewer rounds than they may (one attempt, or all in one round): whoever ended
    # unsolved and was not cut short has made them all. Where nobody did, or a rule stops earlier, it is
    # what they may.
    unsolved = any(not course[-1].correct for _, course in whole)
    if not unsolved or arm.stop is not None or arm.stable_rounds is not None:
        longest = max(longest, _most_rounds(arm))
    return Pilot(courses, oracle, longest)


def _most_rounds(arm: ArmConfig) -> int:
    """Rounds that the arm's strategy makes at most: one, where it knows no rounds."""
    try:
        strategy = strategy_from_name(arm.strategy, max_rounds=arm.max_rounds, width=arm.width)
    except UsageError:  # a plug-in's that is not installed here
        return arm.max_rounds
    return int(getattr(strategy, "max_rounds", 1))


def _last_counts(whole: Sequence[tuple[Outcome, Sequence[Sample]]]) -> bool:
    """Whether the finished problems' answers were their last ones rather than those with the most votes."""
    by_votes = by_last = 0
    for outcome, course in whole:
        votes = Counter(sample.answer for sample in course)
        leader = max(course, key=lambda sample: votes[sample.answer])
        by_votes += leader.correct == outcome.correct
        by_last += course[-1].correct == outcome.correct
    return by_last >= by_votes


def _course(outcome: Outcome, events: Sequence[Event], *, oracle: bool) -> list[Sample]:
    tokens: Mapping[tuple[str, int], int] = {
        (str(event.data.get("branch")), int(event.data.get("round", 0))): usage_from_dict(
            event.data.get("usage", {})
        ).total_tokens
        for event in events
        if event.key.kind == "attempt"
    }
    rounds: dict[int, list[Sample]] = defaultdict(list)
    for row in sorted(outcome.rows, key=lambda row: (row.round, row.branch)):
        right = row.verdict if oracle and row.verdict is not None else row.correct
        if right is None:
            return []
        answer = "right" if right else (row.answer or "")
        cost = max(1, tokens.get((row.branch, row.round), 0))
        rounds[row.round].append(Sample(cost, right, answer, seconds=float(cost)))
    if oracle:
        course = [_together(samples) for _, samples in sorted(rounds.items())]
        first = next((k for k, sample in enumerate(course) if sample.correct), len(course))
        course = course[: first + 1]
    else:
        course = [sample for _, samples in sorted(rounds.items()) for sample in samples]
    beyond = outcome.usage.total_tokens - sum(sample.tokens for sample in course)
    if course and beyond > 0:
        course[-1] = course[-1]._replace(tokens=course[-1].tokens + beyond)
    return course


def _together(samples: Sequence[Sample]) -> Sample:
    right = any(sample.correct for sample in samples)
    answer = "right" if right else " | ".join(sample.answer for sample in samples)
    cost = sum(sample.tokens for sample in samples)
    return Sample(cost, right, answer, seconds=max(sample.seconds for sample in samples))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _round(tokens: float) -> int:
    """Three significant digits."""
    return max(1, int(float(f"{tokens:.3g}")))


def plan_table(made: Plan) -> Table:
    """The forecast for a terminal."""
    from rich.table import Table

    names = list(dict.fromkeys(row.scheduler for row in made.rows))
    what = "the last answer counts" if made.last else "the most votes win"
    if made.oracle:
        what = "an oracle ends problems"
    title = f"{_counted(made.problems, 'problem')}, up to {_counted(made.rounds, 'attempt')} each, {what}"
    table = Table(
        title=title,
        caption=f"Accuracy, and where 90% of {made.draws} simulated runs lie; from "
        f"{_counted(made.pilot_problems, 'problem')} of the pilot. Without a budget such a run takes about "
        f"{made.full_tokens:,} tokens.",
    )
    table.add_column("tokens", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    by_budget: dict[int, dict[str, Foreseen]] = defaultdict(dict)
    for row in made.rows:
        by_budget[row.budget][row.scheduler] = row
    for budget, rows in by_budget.items():
        cells = (rows[name] for name in names)
        table.add_row(f"{budget:,}", *(f"{c.accuracy:.1%} ({c.low:.0%} to {c.high:.0%})" for c in cells))
    return table
