"""The front door: ask a question, get it answered by a loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
)
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from heartloop.backends.base import Backend
from heartloop.engine.background import BackgroundLoop
from heartloop.engine.engine import Engine
from heartloop.engine.events import LoopEvent
from heartloop.engine.ledger import Account
from heartloop.engine.models import Model
from heartloop.engine.retry import RetryPolicy
from heartloop.engine.scheduler import scheduler_from_name
from heartloop.engine.solving import Arm
from heartloop.engine.streams import solutions
from heartloop.errors import UsageError
from heartloop.judges import Judge, judge_from_name
from heartloop.judges.base import must_have_reference
from heartloop.judges.oracle import Oracle
from heartloop.problems import broken_text, is_empty, make_problem
from heartloop.responders.base import Responder
from heartloop.responders.chat import ChatResponder
from heartloop.strategies import Strategy, strategy_from_name
from heartloop.strategies.prompts import Prompts
from heartloop.types import Budget, Content, Problem, Solution, Verdict

__all__ = ["HeartLoop"]

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from heartloop.graders import Grader
    from heartloop.journal.sqlite import SqliteJournal

T = TypeVar("T")

ModelLike = str | Model | Backend
Problems = Iterable[Problem | str] | AsyncIterable[Problem | str]


class HeartLoop:
    """Answers questions by spending inference compute in a loop.

    ::

        loop = HeartLoop(model="local/smollm2-135m", judge="majority", strategy="heart")
        solution = await loop.solve("What is 17 + 25?")        # or loop.solve_sync(...)
        print(solution.answer)

    Args:
        model: a model's name (with ``base_url`` where it is served), a :class:`Model`, or a backend.
        judge: ``"oracle"``, ``"majority"``, ``"pairwise:budget=3"``, ... (docs/judges.md), or an object.
        strategy: ``"heart"``, ``"resample"``, ``"self_reflection"``, ``"chain_of_thought"``,
            ``"single_pass"``, or an object.
        budget: limits of all that this loop does; ``problem_budget`` those of each problem.
        max_rounds, width, rotation, stable_rounds, stop: passed to a strategy given by name, where it
            has them.
        judge_model, synthesiser_model: other models for those roles; default: ``model``.
        reward_model: the model that the judge ``"reward"`` asks; ``grader_model`` the one that a grader asks.
        score_after: with an oracle: run all rounds and score them afterwards; nothing tells the model.
        journal: path of a new or existing journal file; None keeps nothing.
        prompts: wording; see ``heartloop/strategies/prompts.toml``.
        seed: every random choice derives from it.
        base_url, api_key_env, concurrency: for a model given by name.
        active: most problems in work at once in :meth:`stream` and :meth:`solve_many`.
        verify: how answers are compared with references, by the oracle (if given by name) and for the
            score, ``(problem, answer) -> Verdict``; default: the installed verifiers.
        grader: who scores answers (:mod:`heartloop.graders`), by spec or as an object; not with ``verify``.
        equivalent: whether two answers are the same, ``(a, b, kind) -> bool``; default: the verifiers'.

    One object is used from one event loop at a time; it may be used as a (sync or async) context
    manager, and should be closed.

    Raises:
        UnknownName: no such model, strategy, judge or scheduler; the known ones are listed.
        UsageError: settings that can't work together.
    """

    def __init__(
        self,
        model: ModelLike = "",
        *,
        judge: str | Judge = "majority",
        strategy: str | Strategy = "heart",
        budget: Budget = Budget(),
        problem_budget: Budget = Budget(),
        max_rounds: int | None = None,
        width: int | None = None,
        rotation: str | None = None,
        stable_rounds: int | None = None,
        stop: str | None = None,
        judge_model: ModelLike | None = None,
        synthesiser_model: ModelLike | None = None,
        reward_model: ModelLike | None = None,
        grader_model: ModelLike | None = None,
        score_after: bool = False,
        journal: str | Path | None = None,
        prompts: Prompts | str | Path | None = None,
        responder: Responder | None = None,
        seed: int = 0,
        scheduler: str = "breadth_first",
        retry: RetryPolicy = RetryPolicy(),
        base_url: str | None = None,
        api_key_env: str | None = None,
        concurrency: int | None = None,
        active: int | None = None,
        verify: Callable[[Problem, str | None], Awaitable[Verdict]] | None = None,
        equivalent: Callable[[str, str, str], Awaitable[bool]] | None = None,
        grader: str | Grader | None = None,
    ) -> None:
        if active is not None and active < 1:
            raise UsageError(f"active must be at least 1, not {active}")
        roles = {
            "judge": judge_model,
            "synthesiser": synthesiser_model,
            "reward": reward_model,
            "grader": grader_model,
        }
        if verify is not None and grader is not None:
            raise UsageError("verify and grader both say who scores: give one of them")
        main = _model(model, base_url=base_url, api_key_env=api_key_env, concurrency=concurrency)
        self._models = {"generator": main}
        self._models |= {role: _model(given) for role, given in roles.items() if given is not None}
        if verify is None:
            from heartloop.judges.verifying import score

            verify = score
        if isinstance(judge, str):
            judge = Oracle(verify) if judge == "oracle" else judge_from_name(judge)
        if isinstance(strategy, str):
            strategy = strategy_from_name(
                strategy,
                max_rounds=max_rounds,
                width=width,
                rotation=rotation,
                stable_rounds=stable_rounds,
                stop=stop,
            )
        elif any(given is not None for given in (max_rounds, width, rotation, stable_rounds, stop)):
            raise UsageError(
                "max_rounds, width, rotation, stable_rounds and stop go with a strategy given by name; "
                "set them on the strategy object instead"
            )
        if isinstance(prompts, str | Path):
            prompts = Prompts.load(prompts)
        self.arm = Arm(
            name="main",
            strategy=strategy,
            judge=judge,
            responder=responder or ChatResponder(),
            prompts=prompts or Prompts.default(),
            gating=not score_after,
            scorer=verify if grader is None else _scorer(grader),
            models={role: role for role in roles if role in self._models},
        )
        self._active = active
        self._journal_path = None if journal is None else Path(journal)
        self._engine_settings: dict[str, Any] = {
            "budget": budget,
            "problem_budget": problem_budget,
            "seed": seed,
            "scheduler": scheduler_from_name(scheduler),
            "retry": retry,
            "equivalent": equivalent,
        }
        for held in self._models.values():
            if held.backend is None and not held.name:
                raise UsageError("no model given: pass model='local/smollm2-135m', a name, or a backend")
        self._engine: Engine | None = None
        self._engine_loop: asyncio.AbstractEventLoop | None = None
        self._background: BackgroundLoop | None = None
        self._spent: Mapping[str, Account] = {}

    # --- async --------------------------------------------------------------------------------------

    async def solve(
        self,
        question: str | Content | Problem,
        reference: str | None = None,
        *,
        id: str | None = None,
        kind: str = "auto",
    ) -> Solution:
        """Answer one question.

        Args:
            question: text, text and image parts in OpenAI's content format, or a whole problem.
            reference: the right answer, where an oracle is to judge or the answer is to be scored.
            id: default: a hash of the question.
            kind: how answers are compared, see :class:`~heartloop.types.Problem`.

        Raises:
            UsageError: the question is empty; an oracle without a reference.
            HeartLoopError: no attempt could be made at all. With at least one attempt, the solution
                holds the best one and says in ``stop_reason`` and ``error`` what ended it.
        """
        problem = question if isinstance(question, Problem) else make_problem(question, reference, id, kind)
        self._check(problem)
        return await (await self._started()).solve(problem, self.arm, raise_failures=True)

    async def solve_many(self, problems: Iterable[Problem | str]) -> list[Solution]:
        """Answer many; solutions come in the problems' order. A failed problem is a failed solution."""
        listed = [self._problem(problem) for problem in problems]
        places = {problem.id: place for place, problem in enumerate(listed)}
        if len(places) < len(listed):
            raise UsageError("two problems have the same id (or are the same question); ids must be unique")
        found: list[Solution | None] = [None] * len(listed)
        async for solution in self.stream(listed):
            found[places[solution.problem_id]] = solution
        return [solution for solution in found if solution is not None]

    @overload
    def stream(self, problems: Problems, *, events: Literal[False] = False) -> AsyncIterator[Solution]: ...

    @overload
    def stream(self, problems: Problems, *, events: Literal[True]) -> AsyncIterator[LoopEvent]: ...

    async def stream(
        self, problems: Problems, *, events: bool = False
    ) -> AsyncIterator[Solution | LoopEvent]:
        """Solutions as they come, or with ``events=True`` everything that happens on the way.

        Problems are taken from the iterable only as fast as they are worked on, and what is found waits
        for its reader, so memory does not grow with the data. Leaving the iteration cancels what is in
        work.
        """
        engine = await self._started()
        arriving = solutions(engine, self.arm, problems, self._problem, active=self.active, events=events)
        async with contextlib.aclosing(arriving):
            async for item in arriving:
                yield item

    def set_budget(self, budget: Budget) -> None:
        """Raise or lower the limits of all that this loop does, now or while it works.

        They count from its beginning. A problem that has ended for want of budget stays ended. Call from its
        event loop; beside sync calls, from any thread.

        Raises:
            UsageError: a limit in dollars, and a model whose price is unknown.
        """
        engine = self._engine
        if engine is not None:
            background = self._background
            if background is not None and self._engine_loop is background.loop and not background.is_mine():

                async def set_there() -> None:
                    engine.set_budget(budget)

                background.run(set_there())
            else:
                engine.set_budget(budget)
        self._engine_settings["budget"] = budget

    async def aclose(self) -> None:
        """Close backends and journal."""
        engine, self._engine = self._engine, None
        if engine is not None:
            try:
                await engine.aclose()
            finally:
                self._spent = engine.accounts()

    # --- sync twins -----------------------------------------------------------------------------------

    def solve_sync(
        self,
        question: str | Content | Problem,
        reference: str | None = None,
        *,
        id: str | None = None,
        kind: str = "auto",
    ) -> Solution:
        """:meth:`solve` without async; works inside a running event loop too (a notebook)."""
        return self._wait_for(self.solve(question, reference, id=id, kind=kind))

    def solve_many_sync(self, problems: Iterable[Problem | str]) -> list[Solution]:
        """:meth:`solve_many` without async."""
        return self._wait_for(self.solve_many(problems))

    def stream_sync(self, problems: Iterable[Problem | str]) -> Iterable[Solution]:
        """:meth:`stream` without async: a generator of solutions as they come."""
        stream = self.stream(problems)

        async def following() -> Solution | None:
            return await anext(stream, None)

        try:
            while (solution := self._wait_for(following())) is not None:
                yield solution
        finally:
            self._wait_for(stream.aclose())  # type: ignore[attr-defined]

    def close(self) -> None:
        """:meth:`aclose` without async.

        Raises:
            UsageError: it is in use by a running event loop, which has to close it.
        """
        background = self._background
        owner = None if self._engine is None else self._engine_loop
        if owner is not None and owner.is_running() and (background is None or owner is not background.loop):
            raise UsageError("in a running event loop, close with 'await loop.aclose()' or 'async with'")
        if background is None and owner is None:
            return
        self._background = None
        background = background or BackgroundLoop()
        try:
            background.run(self.aclose())
        finally:
            background.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- inside ---------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """Most problems in work at once: as given, or twice the generator's concurrency."""
        if self._active is not None:
            return self._active
        if self._engine is None:
            return 128
        return 2 * self._engine.gateway.lane("generator").limiter.limit

    def _problem(self, given: Problem | str) -> Problem:
        problem = given if isinstance(given, Problem) else make_problem(given)
        self._check(problem)
        return problem

    def _check(self, problem: Problem) -> None:
        if is_empty(problem.question):
            raise UsageError(f"problem {problem.id!r}: the question is empty")
        if broken := broken_text(problem):
            raise UsageError(broken)
        if problem.reference is None and must_have_reference(self.arm.judge):
            raise UsageError(
                f"problem {problem.id!r} has no reference, and the judge {self.arm.judge.name!r} needs one: "
                "pass reference=..., or take a verifier-free judge such as 'majority'"
            )

    async def _started(self) -> Engine:
        running = asyncio.get_running_loop()
        if self._engine is not None and self._engine_loop is not running:
            if self._engine_loop is not None and not self._engine_loop.is_closed():
                raise UsageError(
                    "this HeartLoop is in use by another event loop: close it there first, or make one each"
                )
            # The loop it belonged to is gone (an earlier asyncio.run): start again on this one. Nothing is
            # awaited until the new engine is there, or a call beside this one would start another.
            old, self._engine = self._engine, None
            old.journal.close()
            self._spent = old.accounts()
            engine = self._start(running)
            for name, model in self._models.items():
                if model.backend is None:  # a backend that was passed in goes on being used
                    with contextlib.suppress(Exception):
                        await old.gateway.lane(name).backend.aclose()
            return engine
        return self._engine or self._start(running)

    def _start(self, running: asyncio.AbstractEventLoop) -> Engine:
        journal = self._open_journal()
        before = 0.0 if journal is None else journal.elapsed_before()
        try:
            engine = Engine(self._models, journal=journal, elapsed_before=before, **self._engine_settings)
        except BaseException:
            if journal is not None:
                journal.close()
            raise
        if journal is None:  # nobody else remembers what was spent before
            engine.count(self._spent)
        self._engine, self._engine_loop = engine, running
        return engine

    def _open_journal(self) -> SqliteJournal | None:
        if self._journal_path is None:
            return None
        from heartloop.journal.sqlite import SqliteJournal

        if self._journal_path.exists():
            journal = SqliteJournal.open(self._journal_path)
            journal.close_open_reservations()
            return journal
        return SqliteJournal.create(self._journal_path, meta={})

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        if self._background is None:
            self._background = BackgroundLoop()
        return self._background.run(work)


def _scorer(grader: str | Grader) -> Any:
    from heartloop.graders import grader_from_name
    from heartloop.graders.verify import Verify

    made = grader_from_name(grader) if isinstance(grader, str) else grader
    return made.by_answer if isinstance(made, Verify) else made


def _model(given: ModelLike, **by_name: Any) -> Model:
    if isinstance(given, str):
        return Model(name=given, **by_name)
    fits = () if isinstance(given, Model) else ("concurrency",)
    if lost := [name for name, value in by_name.items() if value is not None and name not in fits]:
        raise UsageError(
            f"{' and '.join(lost)} go with a model given by name; set them on the object instead"
        )
    if isinstance(given, Model):
        return given
    return Model(name=given.name, backend=given, concurrency=by_name.get("concurrency"))
