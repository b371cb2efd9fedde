"""The plain sums of a comparison: runs, cells, arms, costs, and what a reader must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from statistics import fmean
from typing import Any

from heartloop.journal.reader import JournalReader
from heartloop.reports.answers import Answers, share
from heartloop.reports.comparable import Group
from heartloop.reports.comparison import (
    ArmRecord,
    CellRecord,
    Contrast,
    CostRecord,
    MetricRecord,
    Note,
    RunRecord,
)
from heartloop.reports.proportions import wilson_interval
from heartloop.reports.rounds import first_right
from heartloop.reports.sampling import EXCHANGEABLE, why_not_exchangeable
from heartloop.reports.trials import Cell, Trial, Trials
from heartloop.runs.run import journal_in
from heartloop.types import StopReason

__all__ = ["arm_record", "benchmark_metrics", "cell_records", "cost_record", "notes", "run_records"]

MUCH_ASSUMED = 0.02
"""From this share of an arm's tokens on a comparison says that they are only assumed."""

_METRICS = "heartloop.metrics"
"""Entry points: callables ``(benchmark settings, [(journal, arm), ...]) -> {name: figure as a dict}``."""


def run_records(trials: Trials) -> Iterator[RunRecord]:
    """One for each run."""
    for number, run in enumerate(trials.runs):
        cells = [cell for cell in trials.cells if cell.run == number]
        yield RunRecord(
            run=run.name,
            folder=run.folder,
            model=str(run.config["models"]["generator"].get("name", "")),
            benchmark=str(run.benchmark.get("name", "")),
            data=str(run.config.get("data", "")),
            data_hash=run.data_hash,
            problems=run.problems,
            finished=sum(cell.finished for cell in cells),
            pending=sum(cell.pending for cell in cells),
            tokens=run.tokens,
            usd=run.usd,
        )


def cell_records(trials: Trials, groups: Sequence[Group]) -> Iterator[CellRecord]:
    """One for each arm of each run."""
    by_cell: dict[int, list[Trial]] = {}
    for trial in trials.trials:
        by_cell.setdefault(trial.cell, []).append(trial)
    for group in groups:
        for place in group.cells:
            cell, made = trials.cells[place], by_cell.get(place, [])
            scored = [trial for trial in made if trial.correct is not None]
            right = sum(bool(trial.correct) for trial in scored)
            repeats = len({trial.group for trial in scored}) < len(scored)
            yield CellRecord(
                run=trials.runs[cell.run].name,
                cell=cell.arm,
                arm=group.key,
                label=cell.label,
                judge=cell.judge,
                seed=cell.seed,
                setting=cell.setting,
                finished=cell.finished,
                pending=cell.pending,
                scored=len(scored),
                correct=right,
                unknown=len(made) - len(scored),
                cut=sum(trial.cut for trial in made),
                accuracy=right / len(scored) if scored else None,
                interval=None if repeats else wilson_interval(right, len(scored)),
            )


def arm_record(trials: Trials, arm: Answers, *, seed: int = 0) -> ArmRecord:
    """A row of the headline table."""
    scored, everything = arm.scored, list(arm.trials.values())
    accuracy, interval, method = share(scored, seed=seed)
    if arm.coupled and interval is not None:
        method += "; problems influence each other"
    known = [trial for trial in scored if first_right(trial) is not None]
    prices = [trial.usd for trial in everything]
    cell = arm.group.first
    return ArmRecord(
        arm=arm.group.key,
        label=cell.label,
        judge=cell.judge,
        setting=cell.setting,
        strategy=cell.strategy,
        rotation=cell.rotation,
        seeds=len({trials.cells[place].seed for place in arm.group.cells}),
        questions=len({trial.group for trial in scored}),
        trials=len(scored),
        unknown=len(everything) - len(scored),
        cut=sum(trial.cut for trial in everything),
        accuracy=accuracy,
        interval=interval,
        method=method,
        first=_by_question(known, lambda trial: first_right(trial) is True),
        best_possible=_by_question(known, lambda trial: any(row.correct for row in trial.rows)),
        tokens=fmean(trial.tokens for trial in everything) if everything else None,
        usd=_mean(prices),
        calls=fmean(trial.calls for trial in everything) if everything else None,
        depth=fmean(trial.depth for trial in everything) if everything else None,
    )


def _by_question(trials: Sequence[Trial], of: Any) -> float | None:
    """A share with every question counting alike."""
    made: dict[str, list[bool]] = {}
    for trial in trials:
        made.setdefault(trial.group, []).append(of(trial))
    return fmean(fmean(values) for values in made.values()) if made else None


def _mean(prices: Sequence[float | None]) -> float | None:
    known = [usd for usd in prices if usd is not None]
    return fmean(known) if known and len(known) == len(prices) else None


def cost_record(arm: Answers) -> CostRecord:
    """What an arm was charged."""
    everything = list(arm.trials.values())
    right = sum(bool(trial.correct) for trial in everything)
    tokens = sum(trial.tokens for trial in everything)
    mean = _mean([trial.usd for trial in everything])
    usd = None if mean is None else mean * len(everything)
    return CostRecord(
        arm=arm.group.key,
        trials=len(everything),
        tokens=tokens,
        prompt=sum(trial.usage.prompt_tokens for trial in everything),
        completion=sum(trial.usage.completion_tokens for trial in everything),
        reasoning=sum(trial.usage.reasoning_tokens for trial in everything),
        cached=sum(trial.usage.cached_tokens for trial in everything),
        judge=sum(trial.judge for trial in everything),
        assumed=sum(trial.assumed for trial in everything),
        shared=sum(trial.shared for trial in everything),
        grading=sum(trial.grading for trial in everything),
        calls=sum(trial.calls for trial in everything),
        usd=usd,
        tokens_per_correct=tokens / right if right else None,
        usd_per_correct=usd / right if right and usd is not None else None,
    )


# --- a benchmark's own figures -------------------------------------------------------------------------


def benchmark_metrics(trials: Trials, answers: Sequence[Answers]) -> Iterator[MetricRecord]:
    """What the benchmark's own protocol reports of each arm, where it is installed."""
    settings = next((run.benchmark for run in trials.runs if run.benchmark.get("name")), None)
    if settings is None:
        return
    for point in entry_points(group=_METRICS):
        of = point.load()
        for arm in answers:
            yield from _metrics(trials, arm, of, settings)


def _metrics(trials: Trials, arm: Answers, of: Any, settings: dict[str, Any]) -> Iterator[MetricRecord]:
    opened: dict[int, JournalReader] = {}
    try:
        cells = [trials.cells[place] for place in arm.group.cells]
        for cell in cells:
            if cell.run not in opened:
                opened[cell.run] = JournalReader(journal_in(trials.runs[cell.run].folder))
        figures = of(settings, [(opened[cell.run], cell.arm) for cell in cells])
    finally:
        for journal in opened.values():
            journal.close()
    for name, figure in figures.items():
        interval = figure.get("interval")
        yield MetricRecord(
            arm=arm.group.key,
            metric=name,
            value=figure.get("value"),
            interval=None if interval is None else (interval[0], interval[1]),
            n=int(figure.get("n", 0)),
            unit=str(figure.get("unit", "share")),
            note=str(figure.get("note", "")),
            points=tuple((point[0], point[1]) for point in figure.get("points", ())),
        )


# --- notes ---------------------------------------------------------------------------------------------


def notes(trials: Trials, answers: Sequence[Answers], contrasts: Sequence[Contrast]) -> Iterator[Note]:
    """What a reader must know before believing a figure."""
    for arm in answers:
        yield from _arm_notes(trials, arm)
    yield from _assumed_notes(answers)
    yield from _order_notes(trials, answers)
    yield from _version_notes(trials, answers)
    yield from _extremes(answers)
    settings = sorted({arm.group.setting for arm in answers} - {"single"})
    if len(settings) > 1:
        said = "; ".join(
            f"{setting}: {', '.join(arm.group.key for arm in answers if arm.group.setting == setting)}"
            for setting in settings
        )
        yield Note("info", f"no contrast is made between arms of different settings ({said})")
    attempts = {arm.group.key: most for arm in answers if (most := _attempts(arm.group.first)) is not None}
    if len(set(attempts.values())) > 1:
        said = ", ".join(f"{key} {most}" for key, most in attempts.items())
        yield Note(
            "info",
            f"arms may make different numbers of attempts a problem ({said}): compare them along the curves "
            "of equal compute",
        )
    if any(one.unit == "run" and one.p is None for one in contrasts):
        yield Note(
            "warning",
            "some contrasts have no p-value: problems that influence each other make the run the unit, and "
            "there are too few runs",
        )


def _assumed_notes(answers: Sequence[Answers]) -> Iterator[Note]:
    """Worst cases in place of usage move an arm along the axis of compute."""
    much = []
    for arm in answers:
        assumed = sum(trial.assumed for trial in arm.trials.values())
        tokens = sum(trial.tokens for trial in arm.trials.values())
        if assumed > MUCH_ASSUMED * tokens:
            much.append(f"{arm.group.key} {assumed / tokens:.1%}")
    if much:
        yield Note(
            "warning",
            f"only assumed tokens ({', '.join(much)} of all of the arm's): calls without a known end "
            "(killed processes, cancelled hedges, failed tries) are charged at their worst case; costs, and "
            "places on curves of equal compute, may be too high by as much",
        )


def _order_notes(trials: Trials, answers: Sequence[Answers]) -> Iterator[Note]:
    """Where problems influence each other runs should differ in their order as well."""
    coupled = [arm for arm in answers if arm.coupled]
    alike: dict[tuple[int, int], list[str]] = {}
    for arm in coupled:
        by_run: dict[tuple[str, int], set[tuple[str, ...]]] = {}
        for place, run in arm.units.items():
            by_run.setdefault(run, set()).add(_order(trials, place))
        orders = len(set(map(frozenset, by_run.values())))
        if orders < len(by_run):
            alike.setdefault((orders, len(by_run)), []).append(arm.group.key)
    for (orders, runs), keys in alike.items():
        whose = "" if len(keys) == len(coupled) else f" ({', '.join(keys)})"
        in_what = "the same order in every run" if orders == 1 else f"{orders} orders in {runs} runs"
        of_what = "that order" if orders == 1 else "those orders"
        yield Note(
            "warning",
            f"problems that influence each other came in {in_what}{whose}: what is said of runs is said of "
            f"{of_what} (`heartloop bench` gives each seed its own, unless told --order data)",
        )


def _order(trials: Trials, place: int) -> tuple[str, ...]:
    """What tells the orders of problems apart."""
    cell = trials.cells[place]
    run = trials.runs[cell.run]
    if run.config.get("order") == "seed":
        return ("seed", str(cell.seed), run.data_hash)
    return ("data", run.order_hash)


def _extremes(answers: Sequence[Answers]) -> Iterator[Note]:
    """Where every answer of every arm is alike the arms had no chance to differ."""
    seen = {trial.correct for arm in answers for trial in arm.scored}
    if len(answers) > 1 and len(seen) == 1:
        which, why = ("wrong", "hard") if seen == {False} else ("right", "easy")
        yield Note(
            "warning",
            f"every final answer of every arm is {which}: these problems are too {why} for this model to "
            "tell arms apart, and that they come out alike (even 'equivalent') says nothing of the arms",
        )


def _version_notes(trials: Trials, answers: Sequence[Answers]) -> Iterator[Note]:
    """Runs by other versions: their prompts and data are checked to be the same, what judges them is not."""
    seen = sorted({trials.cells[place].run for arm in answers for place in arm.group.cells})
    made: dict[str, dict[str, None]] = {}
    for number in seen:
        kept = trials.runs[number].benchmark
        for entry in (kept, *kept.get("went_on", ())):
            versions = entry.get("versions") or {}
            for name in ("heartloop", "heartloop_commit", "sympy"):
                if name in versions:
                    made.setdefault(name, {})[str(versions[name])] = None
    if differing := {name: found for name, found in made.items() if len(found) > 1}:
        said = "; ".join(f"{name} {', '.join(found)}" for name, found in differing.items())
        yield Note("warning", f"not all was made by the same version ({said}): what judges may have changed")


def _arm_notes(trials: Trials, arm: Answers) -> Iterator[Note]:
    key, everything = arm.group.key, list(arm.trials.values())
    pending = sum(trials.cells[place].pending for place in arm.group.cells)
    if pending:
        yield Note("warning", f"{key}: {pending:,} problems are not finished and not counted")
    unknown = Counter(trial.stop_reason for trial in everything if trial.correct is None)
    if unknown:
        said = ", ".join(f"{count} {reason.value}" for reason, count in unknown.most_common())
        yield Note(
            "warning",
            f"{key}: {sum(unknown.values()):,} finished problems have no verdict ({said}); they are left "
            f"out, and accuracy over all would lie between {_bounds(everything)}",
        )
    failed = sum(trial.stop_reason is StopReason.FAILED for trial in everything)
    if failed:
        yield Note("warning", f"{key}: {failed:,} problems failed; `heartloop resume` tries them again")
    empty = sum(
        trial.correct is False and not trial.rows and trial.stop_reason is StopReason.BUDGET
        for trial in everything
    )
    if empty:
        yield Note("info", f"{key}: {empty:,} problems whose cap allowed no attempt count as not right")
    if arm.coupled:
        yield Note("info", f"{key}: {arm.coupled}; contrasts with it are over runs")
    cell = arm.group.first
    if cell.strategy.partition(":")[0] in EXCHANGEABLE and (why := why_not_exchangeable(arm)):
        yield Note("info", f"{key}: no pass@k, since {why}")


def _bounds(trials: Sequence[Trial]) -> str:
    right = sum(trial.correct is True for trial in trials)
    unknown = sum(trial.correct is None for trial in trials)
    return f"{right / len(trials):.1%} and {(right + unknown) / len(trials):.1%}"


def _attempts(cell: Cell) -> int | None:
    """The most attempts a problem that the strategy may make; None where its settings don't say."""
    rounds, width = cell.config.get("max_rounds"), cell.config.get("width")
    if not isinstance(rounds, int) or not isinstance(width, int):
        return None
    name = cell.strategy.partition(":")[0]
    if cell.setting == "single":
        return 1
    if name in ("heart", "parallel_heart", "bare_retry", "self_reflection", "pdr"):
        return 1 + (rounds - 1) * width
    if name in ("resample", "self_consistency", "best_of_n", "rsa") or "_prompt" in name or name == "persona":
        return rounds * width
    return rounds if name in ("self_refine", "reflexion") else None
