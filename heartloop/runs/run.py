"""A run: many problems, one or more arms, one folder with everything in it.

The folder holds ``journal.sqlite`` (problems, settings, events, charges, results) and, once a process has
ended in good order, ``summary.json``; ``live.json`` with the latest figures, for whoever watches
(:mod:`heartloop.runs.live`); ``budget.json`` while somebody asks for other limits
(:mod:`heartloop.runs.rebudget`); and ``waves`` with the files of ``vllm run-batch``, where that is asked.
Nothing else is needed to resume than the journal, not even the data file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import orjson

from heartloop.engine.engine import Engine
from heartloop.engine.events import LoopEvent, ProblemSolved
from heartloop.engine.gauges import gauges_of
from heartloop.engine.models import Model
from heartloop.engine.results import outcome_of
from heartloop.engine.retry import RetryPolicy
from heartloop.engine.scheduler import active_problems, scheduler_from_name
from heartloop.engine.solving import Arm
from heartloop.engine.waves import WavesOut
from heartloop.errors import BackendError, DataError, JournalError, UsageError
from heartloop.journal.sqlite import SqliteJournal
from heartloop.problems import broken_text
from heartloop.runs.config import ModelConfig, RunConfig
from heartloop.runs.executors import Executor
from heartloop.runs.live import LiveFile, RunState, written_while
from heartloop.runs.order import in_order
from heartloop.runs.rebudget import heeded_while
from heartloop.runs.summary import Summary, summarise
from heartloop.strategies.prompts import Prompts
from heartloop.types import Budget, Problem, Solution, StopReason, Verdict

__all__ = ["JOURNAL_NAME", "Live", "Run", "journal_in"]

logger = logging.getLogger(__name__)

JOURNAL_NAME = "journal.sqlite"
SUMMARY_NAME = "summary.json"
WAVES_NAME = "waves"


def journal_in(folder: str | Path) -> Path:
    """Path of the journal of the run in ``folder``.

    Raises:
        UsageError: there is none.
    """
    path = Path(folder) / JOURNAL_NAME
    if not path.exists():
        raise UsageError(f"{folder}: no run here (no {JOURNAL_NAME})")
    return path


def _whole(problems: Iterable[Problem]) -> Iterator[Problem]:
    for problem in problems:
        if broken := broken_text(problem):
            raise DataError(broken)
        yield problem


@dataclass(slots=True)
class _Started:
    """A problem and the arms of one seed that have still to work on it; ``left``: how many are not done."""

    problem: Problem
    arms: list[Arm]
    left: int


@dataclass(slots=True)
class Live:
    """Figures of a run at work, for a progress bar; read whenever one likes.

    Attributes:
        total: problems times arms; done: those that have ended, earlier processes included.
        scored, right: ended ones whose answer has a verdict, and those found right.
        done_here: those that ended in this process.
    """

    total: int = 0
    done: int = 0
    scored: int = 0
    right: int = 0
    failed: int = 0
    done_here: int = 0
    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    in_flight: int = 0
    waves: WavesOut = WavesOut()
    draining: bool = False
    by_arm: dict[str, list[int]] = field(default_factory=dict)


class Run:
    """One run, opened for writing. ``execute`` works on what is not finished.

    Use :meth:`create` or :meth:`open`; close with :meth:`close`, or as a context manager.

    Attributes:
        only: names of the arms to work on; None: all.
        executor: who works on the problems; None: this process.
    """

    def __init__(self, folder: Path, journal: SqliteJournal, config: RunConfig) -> None:
        self.folder = folder
        self.journal = journal
        self.config = config
        self.live = Live()
        self._engine: Engine | None = None
        self._workers: set[asyncio.Task[None]] = set()
        self._draining: asyncio.Task[None] | None = None
        self._failed: dict[tuple[str, str], str] = {}
        self.interrupted = False
        self.only: frozenset[str] | None = None
        self.executor: Executor | None = None

    @classmethod
    def create(cls, folder: str | Path, config: RunConfig, problems: Iterable[Problem]) -> Self:
        """A new run; ``problems`` are stored with it, all or none.

        Raises:
            UsageError: there is a run in ``folder`` already, or ``config`` can't work.
            DataError: whatever reading ``problems`` raises; then nothing is left behind.
            JournalError: the folder can't be written.
        """
        folder = Path(folder)
        path = folder / JOURNAL_NAME
        if path.exists():
            raise UsageError(f"{folder}: holds a run already; go on with `heartloop resume {folder}`")
        config.check()
        fresh = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"{folder}: there is a file in the folder's place; choose another") from error
        except OSError as error:
            raise JournalError(
                f"{folder}: can't make the run's folder: {error.strerror}. Choose another place"
            ) from error
        journal = SqliteJournal.create(path, meta={"config": config.to_dict()})
        try:
            journal.add_problems(_whole(problems))
        except BaseException:
            journal.close()
            for leftover in folder.glob(JOURNAL_NAME + "*"):
                leftover.unlink()
            if fresh:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        return cls(folder, journal, config)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """A run that was created before.

        Raises:
            UsageError: there is none.
            JournalError: it is damaged, of a newer version, or being written by another process.
        """
        journal = SqliteJournal.open(journal_in(folder))
        try:
            config = RunConfig.from_dict(journal.meta.get("config", {}))
        except BaseException:
            journal.close()
            raise
        return cls(Path(folder), journal, config)

    def extend(self, config: RunConfig, problems: Iterable[Problem] = ()) -> None:
        """Go on with other settings, and with further problems.

        Raises:
            UsageError: fewer rounds than before, another strategy, seed or order, other prompts, limits for
                arms that had none and share first attempts.
        """
        for old, new in zip(self.config.arms, config.arms, strict=True):
            if new.max_rounds < old.max_rounds:
                raise UsageError(
                    f"a run's rounds can be raised on resume, not lowered; this one has {old.max_rounds}"
                )
            # Nor the width: branches share the deck's phrases, and rounds are made of branches, so a wider
            # loop asks something else from its second round on.
            if replace(new, max_rounds=old.max_rounds) != old:
                raise UsageError("of a run's strategy only the rounds can be changed; start a new run")
        kept = self.config.seed, self.config.order, self.config.prompts
        if (config.seed, config.order, config.prompts) != kept:
            raise UsageError("a run's seed, order and prompts can't be changed; start a new run")
        if config.share_first and self.config.arm_budget.unlimited and not config.arm_budget.unlimited:
            raise UsageError(
                "this run has not noted which shared first attempts each arm took, since its arms had no "
                "limits: they can't get any now. Limit the run or its problems, or start a new run"
            )
        config.check()
        self.journal.add_problems(_whole(problems))
        self.journal.set_meta("config", config.to_dict())
        self.config = config

    # --- work -----------------------------------------------------------------------------------------

    async def execute(self, on_event: Callable[[LoopEvent], None] | None = None) -> Summary:
        """Work on every problem that is not finished; returns when all have ended, or are interrupted.

        ``on_event`` hears what this process's engine tells; of another executor's only
        :class:`ProblemSolved`, without the attempts.

        Raises:
            BackendError: every call fails alike (bad key, unknown model, nobody there). The run stays
                resumable.
            JournalError: the journal can't be written.
        """
        config = self.config
        prompts = Prompts.from_dict(config.prompts)
        worked_on = [arm for arm in config.arms if self.only is None or arm.name in self.only]
        arms = [arm.arm(prompts, config.models) for arm in worked_on]
        self.journal.close_open_reservations()
        self.live = Live(total=self.journal.count_problems() * len(arms))
        if self.executor is not None:
            await self._work_elsewhere(self.executor, arms, on_event)
        else:
            await self._work_here(arms, on_event)
        await self.journal.write()  # settlements that were posted are committed before they are summed
        summary = await asyncio.to_thread(self.summary)
        self._write_summary(summary)
        if (ended_by := self._ended_by) is not None:
            raise ended_by
        return summary

    async def _work_here(self, arms: list[Arm], on_event: Callable[[LoopEvent], None] | None) -> None:
        config = self.config
        engine = self._engine = Engine(
            {role: self._model(model) for role, model in config.models.items()},
            journal=self.journal,
            budget=config.budget,
            arm_budget=config.arm_budget,
            problem_budget=config.problem_budget,
            seed=config.seed,
            scheduler=scheduler_from_name(config.scheduler),
            retry=RetryPolicy(attempts=config.retries + 1),
            share_first=config.share_first,
            elapsed_before=self.journal.elapsed_before(),
        )
        engine.observers.append(self._count)
        if on_event is not None:
            engine.observers.append(on_event)
        concurrency = engine.gateway.lane("generator").limiter.limit
        active = config.active or min(active_problems(config.scheduler, concurrency), max(1, self.live.total))
        pending = ((started, arm) for started in self._pending(arms) for arm in started.arms)
        failure: list[BaseException] = []

        async def work() -> None:
            for started, arm in pending:
                if self.interrupted or engine.ended_by is not None:
                    return
                try:
                    await engine.solve(started.problem, arm)
                except Exception as error:
                    failure.append(error)
                    self._cancel_workers()
                    return
                started.left -= 1
                if not started.left:
                    engine.forget_shared([started.problem.id])

        def ended() -> tuple[RunState, str | None]:
            if engine.ended_by is not None:
                return "failed", f"{type(engine.ended_by).__name__}: {engine.ended_by}"
            return ("interrupted" if self.interrupted else "ended"), None

        live_file = LiveFile(self.folder, lambda: (self.refresh(), gauges_of(engine)))
        async with written_while(live_file, ended), heeded_while(self.folder, self.change_limits):
            try:
                engine.gateway.start_waves()
                self._workers = {asyncio.create_task(work()) for _ in range(active)}
                await asyncio.wait(self._workers)
                if not (self.interrupted or failure or engine.ended_by):
                    await engine.gateway.collect_waves()
            finally:
                self._cancel_workers()
                if self._workers:
                    await asyncio.wait(self._workers)
                if self._draining is not None:
                    self._draining.cancel()
                await engine.gateway.aclose()
            if failure:
                raise failure[0]

    async def _work_elsewhere(
        self, executor: Executor, arms: list[Arm], on_event: Callable[[LoopEvent], None] | None
    ) -> None:
        def told(
            arm: str,
            problem: str,
            answer: str | None,
            correct: bool | None,
            reason: StopReason,
            error: str | None,
        ) -> None:
            verdict = None if correct is None else Verdict(correct, "scorer")
            solution = Solution(problem, answer, None, (), reason, error, verdict=verdict)
            event = ProblemSolved(arm, solution)
            self._count(event)
            if on_event is not None:
                on_event(event)

        def ended() -> tuple[RunState, str | None]:
            if (error := executor.ended_by) is not None:
                return "failed", f"{type(error).__name__}: {error}"
            return ("interrupted" if self.interrupted else "ended"), None

        pending = ((started.problem, arm.name) for started in self._pending(arms) for arm in started.arms)
        live_file = LiveFile(self.folder, lambda: (self.refresh(), executor.gauges()))
        async with written_while(live_file, ended), heeded_while(self.folder, self.change_limits):
            await executor.work(self, pending, told)

    @property
    def _ended_by(self) -> BackendError | None:
        if self.executor is not None:
            return self.executor.ended_by
        return None if self._engine is None else self._engine.ended_by

    def _model(self, config: ModelConfig) -> Model:
        model = config.model()
        if not model.spec.startswith("vllm-batch/"):
            return model
        return replace(model, options={"folder": self.folder / WAVES_NAME, **model.options})

    def set_budget(self, budget: Budget) -> None:
        """Raise or lower the run's limits, now or while it works; kept for resuming. Call from the loop.

        Limits count from the run's beginning; see :meth:`heartloop.engine.engine.Engine.set_budget`.

        Raises:
            UsageError: a limit in dollars, and a model whose price is unknown.
        """
        config = replace(self.config, budget=budget)
        config.check()
        if self.executor is not None:
            self.executor.set_budget(budget)
        elif self._engine is not None:
            self._engine.set_budget(budget)
        self.journal.set_meta("config", config.to_dict())
        self.config = config

    def change_limits(self, limits: Mapping[str, Any]) -> None:
        """:meth:`set_budget` with these limits, by the names of :class:`heartloop.Budget`, and the others as
        they are.

        Raises:
            UsageError: as there; or the run is a benchmark's, whose arms have equal shares of the limits.
        """
        if unknown := limits.keys() - {field.name for field in fields(Budget)}:
            raise UsageError(f"a budget has no {min(unknown)!r}")
        if self.config.benchmark:
            raise UsageError(
                "the arms of a benchmark have equal shares of its limits, which can't change while it works: "
                "stop it (Ctrl-C), and go on with `heartloop resume`"
            )
        self.set_budget(replace(self.config.budget, **limits))

    def drain(self) -> None:
        """Start nothing more; end when the calls in flight have been answered. Call from the loop."""
        self.interrupted = self.live.draining = True
        if self.executor is not None:
            self.executor.drain()
        if self._engine is not None and self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(self._engine))

    def cancel(self) -> None:
        """End at once; calls in flight are cancelled and charged as assumed. Call from the loop."""
        self.interrupted = True
        if self.executor is not None:
            self.executor.cancel()
        self._cancel_workers()

    async def _drain(self, engine: Engine) -> None:
        await engine.gateway.drain()
        self._cancel_workers()

    def _cancel_workers(self) -> None:
        for worker in self._workers:
            worker.cancel()

    def _pending(self, arms: list[Arm]) -> Iterator[_Started]:
        """Problems to work on, in the run's order, with the arms that have not finished them."""
        for problem, worked_on_by in in_order(self.journal, arms, self.config.order, self.config.seed):
            left = [arm for arm in worked_on_by if not self._finished(problem, arm)]
            if left:
                yield _Started(problem, left, len(left))

    def _finished(self, problem: Problem, arm: Arm) -> bool:
        result = self.journal.result(arm.name, problem.id)
        if result is None or result.status != "done":
            return False
        outcome = outcome_of(result)
        same = outcome.settings == arm.settings or outcome.stop_reason is StopReason.VERIFIED
        graded = outcome.grading is None or outcome.grading.unfinished is None
        if not (same and graded):
            return False
        self._add(arm.name, outcome.correct, failed=False)
        return True

    # --- figures ----------------------------------------------------------------------------------------

    def _count(self, event: LoopEvent) -> None:
        if isinstance(event, ProblemSolved):
            solution: Solution = event.solution
            if solution.stop_reason is StopReason.FAILED:
                self._failed[event.arm, solution.problem_id] = solution.error or "unknown"
            self.live.done_here += 1
            self._add(event.arm, solution.correct, failed=solution.stop_reason is StopReason.FAILED)

    def _add(self, arm: str, correct: bool | None, *, failed: bool) -> None:
        live = self.live
        live.done += 1
        live.failed += failed
        if correct is not None:
            live.scored += 1
            live.right += correct
            counts = live.by_arm.setdefault(arm, [0, 0])
            counts[0] += correct
            counts[1] += 1

    def refresh(self) -> Live:
        """The live figures, brought up to date."""
        engine, live = self._engine, self.live
        if engine is not None:
            charged = engine.ledger.run.charged
            live.calls, live.tokens, live.usd = charged.calls, charged.tokens, charged.usd
            live.in_flight = engine.gateway.in_flight
            live.waves = engine.gateway.waves_out()
        elif self.executor is not None:
            gauges = self.executor.gauges()
            charged = gauges.account.confirmed + gauges.account.assumed
            live.calls, live.tokens, live.usd = charged.calls, charged.tokens, charged.usd
            live.in_flight = gauges.in_flight
        return live

    def summary(self) -> Summary:
        """What the journal says of the run so far."""
        seconds = self.journal.elapsed_before()
        if self._engine is not None:
            seconds = self._engine.ledger.run.elapsed
        elif self.executor is not None:
            seconds = self.executor.elapsed
        ended_by = self._ended_by
        found = summarise(
            self.journal,
            self.config,
            seconds=seconds,
            interrupted=self.interrupted,
            error=None if ended_by is None else str(ended_by),
        )
        # A problem whose earlier result stands (its replay did not match) failed all the same.
        known = {(arm, problem) for arm, problem, _ in found.failures}
        more = [(*place, error) for place, error in self._failed.items() if place not in known]
        return replace(found, failures=(*found.failures, *more)) if more else found

    def _write_summary(self, summary: Summary) -> None:
        text = orjson.dumps(summary.to_dict(), option=orjson.OPT_INDENT_2)
        try:
            (self.folder / SUMMARY_NAME).write_bytes(text + b"\n")
        except OSError as error:
            logger.warning("%s: the summary could not be written: %s", self.folder, error)

    def close(self) -> None:
        """Flush and release the journal."""
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
