"""The engine: models behind one gateway, one ledger, one journal, and problems solved by arms."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from heartloop.emotions.outcomes import Outcomes
from heartloop.engine import collector, watch
from heartloop.engine.claims import Claims
from heartloop.engine.events import (
    AttemptJudged,
    AttemptMade,
    LoopEvent,
    ProblemSolved,
    ProblemStarted,
    observation_of,
)
from heartloop.engine.gateway import Gateway
from heartloop.engine.learned import recorded_outcomes
from heartloop.engine.ledger import Account, Ledger
from heartloop.engine.models import Model
from heartloop.engine.results import solution_to_result
from heartloop.engine.retry import RetryPolicy
from heartloop.engine.scheduler import BreadthFirst, Learning, Scheduler
from heartloop.engine.session import Session
from heartloop.engine.solving import Arm, Solving
from heartloop.engine.strands import Strands
from heartloop.errors import (
    BackendError,
    BudgetExhausted,
    HeartLoopError,
    JournalError,
    ModelCallsForbidden,
    ReplayMismatch,
    UsageError,
)
from heartloop.journal.base import Journal, NullJournal
from heartloop.journal.records import EventKey, Totals
from heartloop.types import Attempt, Budget, Completion, Problem, Solution, Spend, StopReason, text_of

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

_REPLAYS_PER_YIELD = 64


class Engine:
    """Solves problems; used from one event loop.

    Args:
        models: name to model. The first is the default, for every role that an arm assigns to none.
        journal: None keeps nothing.
        budget: of the whole run; what the journal says was spent before counts.
        arm_budget: of each arm: all its problems together, with the first attempts it shares in full.
        problem_budget: of each problem of each arm.
        seed: of the run.
        equivalent: ``(a, b, kind) -> bool``: whether two answers are the same; default: the verifiers'.
        share_first: first attempts that several arms make alike are made once.
        send_seeds: give every request a seed derived from the run's.
        ledger: with the run's account, in place of one made of ``budget`` (an engine that shares its run's
            limits with others).
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        journal: Journal | None = None,
        budget: Budget = Budget(),
        arm_budget: Budget = Budget(),
        problem_budget: Budget = Budget(),
        seed: int = 0,
        scheduler: Scheduler | None = None,
        retry: RetryPolicy = RetryPolicy(),
        equivalent: Callable[[str, str, str], Awaitable[bool]] | None = None,
        share_first: bool = False,
        send_seeds: bool = True,
        elapsed_before: float = 0.0,
        ledger: Ledger | None = None,
    ) -> None:
        if not models:
            raise ValueError("an engine needs at least one model")
        if equivalent is None:
            from heartloop.judges.verifying import equivalent as by_verifiers

            equivalent = by_verifiers
        self.equivalent = equivalent
        self.journal: Journal = journal if journal is not None else NullJournal()
        self.seed = seed
        self.arm_budget, self.problem_budget = arm_budget, problem_budget
        self.share_first = share_first
        self.send_seeds = send_seeds
        self.default_model = next(iter(models))
        first_id = self.journal.next_reservation_id()
        self.ledger = Ledger(budget, first_id=first_id) if ledger is None else ledger
        _carry_over(self.ledger.run, self.journal.charges(), elapsed_before)
        money = any(limits.usd is not None for limits in (budget, arm_budget, problem_budget))
        if money and self.ledger.run.charged.usd is None:
            raise UsageError(
                "a budget in dollars can't be kept: some earlier calls of this run had no known price; "
                "limit tokens instead"
            )
        policy = scheduler or BreadthFirst()
        self._learning = policy if isinstance(policy, Learning) else None
        lanes = {
            name: model.lane(name, ledger=self.ledger, scheduler=policy, money=money)
            for name, model in models.items()
        }
        for name, model in models.items():
            if not model.budget.unlimited:
                _carry_over(lanes[name].account, self.journal.charges(lane=name), elapsed_before)
        self.gateway = Gateway(lanes, ledger=self.ledger, journal=self.journal, retry=retry)
        self.observers: list[Callable[[LoopEvent], None]] = []
        self.watch = None if watch.factory is None else watch.factory(self)
        if self.watch is not None:
            self.gateway.let_watch(self.watch)
        self.gateway.adopt(self.journal.pending_waves())
        for lane in lanes.values():
            lane.on_change = self.gateway.pump
        self.ended_by: BackendError | None = None
        self.shared_done: dict[EventKey, Completion] = {}
        self._shared_locks: dict[EventKey, asyncio.Lock] = {}
        self._shared_of: dict[str, list[EventKey]] = {}
        self.no_limits = self.ledger.account("problem", Budget())
        self._arm_accounts: dict[str, Claims] = {}
        self._outcomes: dict[str, Outcomes] = {}
        self._replays = 0
        self._solving: dict[str, set[str]] = {}
        self._working = 0

    async def solve(
        self,
        problem: Problem,
        arm: Arm,
        *,
        raise_failures: bool = False,
        budget: Budget | None = None,
        accounts: tuple[Account, ...] = (),
    ) -> Solution:
        """Solve one problem and commit its result.

        Args:
            budget: this problem's own, in place of ``problem_budget``.
            accounts: further ones of the ledger that its calls count on (of whoever asked).
            raise_failures: raise what made the problem fail if it has no attempt at all; otherwise the
                solution says so.

        Raises:
            JournalError: the journal can't be written.
            ModelCallsForbidden: see :mod:`heartloop.backends.base`.
            UsageError: a problem of this id is being solved already, and the journal has one place for it.
        """
        place = (arm.name, problem.id)
        at_work = self._solving.setdefault(problem.id, set())
        if arm.name in at_work and not isinstance(self.journal, NullJournal):
            raise UsageError(
                f"problem {problem.id!r} is being solved already; problems of one run need ids of their own"
            )
        at_work.add(arm.name)
        self._working += 1
        if self._working == 1:
            collector.relax()
        activity = self.gateway.activity
        strands = None if activity is None else Strands(activity)
        if strands is not None:
            self.gateway.start_waves()
            strands.begin()
        try:
            if self.watch is None:
                return await self._solve(problem, arm, raise_failures, budget, accounts)
            with self.watch.problem(problem, arm) as watched:
                return await self._solve(problem, watched, raise_failures, budget, accounts)
        finally:
            at_work.discard(arm.name)
            if not at_work:
                self._solving.pop(problem.id, None)
            self._working -= 1
            if not self._working:
                collector.restore()
            if strands is not None:
                strands.end()
                self.gateway.forget(*place)

    async def _solve(
        self,
        problem: Problem,
        arm: Arm,
        raise_failures: bool,
        budget: Budget | None,
        accounts: tuple[Account, ...],
    ) -> Solution:
        recorded = True
        account = self._problem_account(arm, problem, self.problem_budget if budget is None else budget)
        solving = Solving(self, arm, problem, account, accounts)
        if self.watched:
            self._tell(ProblemStarted(arm.name, problem.id))
        try:
            solution = await arm.strategy.solve(solving.visible, Session(solving, ""))
        except BudgetExhausted as error:
            chosen = await solving.best_so_far()
            solution = solving.solution(chosen, StopReason.BUDGET, str(error))
        except (JournalError, ModelCallsForbidden):
            raise
        except Exception as error:
            if isinstance(error, BackendError):
                if error.ends_run and self.ended_by is None:
                    self.ended_by = error
            elif isinstance(error, ReplayMismatch):
                # The earlier result stands: whoever resumes with the old prompts finds it again.
                recorded = self.journal.result(arm.name, problem.id) is None
            elif not isinstance(error, HeartLoopError):
                logger.exception("problem %r: the strategy %s broke", problem.id, arm.strategy.name)
            chosen = await solving.best_so_far()
            if raise_failures and chosen is None:
                raise
            solution = solving.solution(chosen, StopReason.FAILED, f"{type(error).__name__}: {error}")
        solution = await solving.scored(solution)
        exhausted = solving.exhausted
        ended_by = None if exhausted is None else exhausted.account
        if recorded:
            # Nobody waits for it: if it is lost with the process, the replay finds the same result again.
            self.journal.post(
                solution_to_result(arm.name, solution, settings=arm.settings, ended_by=ended_by)
            )
        if self.watched:
            self._tell(ProblemSolved(arm.name, solution))
        return solution

    def _problem_account(self, arm: Arm, problem: Problem, budget: Budget) -> Account:
        if budget.unlimited:
            return self.no_limits
        account = self.ledger.account(f"problem {problem.id!r}", budget)
        before, seconds_before = 0.0, getattr(self.journal, "seconds_before", None)
        if budget.seconds is not None and seconds_before is not None:
            before = seconds_before(arm.name, problem.id)
        _carry_over(account, self.journal.charges(arm.name, problem.id), before)
        self.gateway.attach(arm.name, problem.id, account)
        return account

    def arm_account(self, arm: str) -> Claims | None:
        """The account of ``arm``, begun with what earlier processes have spent on it; None without limits."""
        if self.arm_budget.unlimited:
            return None
        known = self._arm_accounts.get(arm)
        if known is None:
            account = self.ledger.account("arm", self.arm_budget, scope=f"arm/{arm}")
            _carry_over(account, self.journal.charges(arm), self.ledger.run.elapsed)
            confirmed, assumed = self.journal.taken(arm)
            account.confirmed, account.assumed = account.confirmed + confirmed, account.assumed + assumed
            known = self._arm_accounts[arm] = self.claims(account)
            self.gateway.attach_arm(arm, account)
        return known

    @property
    def arm_accounts(self) -> dict[str, Account]:
        """The accounts of the arms that have limits, as far as they have been opened."""
        return {arm: claims.account for arm, claims in self._arm_accounts.items()}

    def accounts(self) -> dict[str, Account]:
        """The run's account (``""``) and each model's, by its name."""
        return {"": self.ledger.run} | {name: lane.account for name, lane in self.gateway.lanes.items()}

    def count(self, earlier: Mapping[str, Account]) -> None:
        """Count what :meth:`accounts` of an earlier engine has, where no journal tells. What was still open
        there may have been billed."""
        for name, account in self.accounts().items():
            if (before := earlier.get(name)) is not None:
                account.confirmed, account.assumed = before.confirmed, before.assumed + before.open
                account.elapsed_before = before.elapsed

    def claims(self, account: Account) -> Claims:
        """The queue for what is taken from the run on ``account``."""
        return Claims(account, self.gateway.claims, self.gateway.pump)

    def set_budget(self, budget: Budget) -> None:
        """Change the run's limits while it works; they count from the run's beginning.

        Whoever waits is looked at again at once. Calls in flight go on (they were reserved under the old
        limits), so after lowering a limit below what is reserved, up to that much may still be spent; but
        they are cut when the seconds have passed, as those are now.
        Problems that ended for want of budget stay ended until the run is resumed.

        Raises:
            UsageError: a limit in dollars, and a model whose price is unknown.
        """
        self.gateway.set_budget(budget)

    async def aclose(self) -> None:
        """Close backends and journal. Solving must have ended."""
        try:
            await self.gateway.aclose()
        finally:
            await self.journal.aclose()

    def outcomes(self, arm: str) -> Outcomes:
        """What came of the cues of ``arm``: of its finished problems, and from now on of all it judges."""
        if arm not in self._outcomes:
            self._outcomes[arm] = recorded_outcomes(self.journal, arm)
        return self._outcomes[arm]

    def forget_arm(self, arm: str) -> None:
        """No further problem comes for ``arm``: what its rotation learned needs no place in memory."""
        self._outcomes.pop(arm, None)

    # --- for Solving ----------------------------------------------------------------------------------

    async def replayed(self) -> None:
        """A long replay lets others run now and then."""
        self._replays += 1
        if self._replays % _REPLAYS_PER_YIELD == 0:
            await asyncio.sleep(0)

    def shared_lock(self, key: EventKey) -> asyncio.Lock:
        """One arm at a time makes a shared first attempt."""
        lock = self._shared_locks.get(key)
        if lock is None:
            lock = self._shared_locks[key] = asyncio.Lock()
            self._shared_of.setdefault(key.problem, []).append(key)
        return lock

    def forget_shared(self, problem_ids: Iterable[str]) -> None:
        """Shared first attempts of problems that nobody works on need no place in memory: the journal has
        them, for arms that still come. Problems that some arm is at work on are left as they are."""
        for problem in problem_ids:
            if problem in self._solving:
                continue
            for key in self._shared_of.pop(problem, ()):
                self.shared_done.pop(key, None)
                self._shared_locks.pop(key, None)

    def attempt_made(self, solving: Solving, attempt: Attempt) -> None:
        if self.watched:
            self._tell(AttemptMade(solving.arm.name, attempt))

    def attempt_judged(self, solving: Solving, attempt: Attempt) -> None:
        if (outcomes := self._outcomes.get(solving.arm.name)) is not None:
            outcomes.observe(attempt, text_of(solving.problem.question))
        if self.watched:
            self._tell(AttemptJudged(solving.arm.name, attempt))

    @property
    def watched(self) -> bool:
        """Whether anybody is told what happens."""
        return bool(self.observers) or self._learning is not None

    def _tell(self, event: LoopEvent) -> None:
        if self._learning is not None and (observation := observation_of(event)) is not None:
            self._learning.observe(observation)
        for observer in self.observers:
            observer(event)


def _carry_over(account: Account, totals: Totals, elapsed: float = 0.0) -> None:
    """Begin ``account`` with what earlier processes of the run have spent on it."""
    confirmed, assumed, released = totals.confirmed, totals.assumed, totals.released
    account.confirmed = Spend(
        confirmed.tokens + released.tokens, confirmed.calls + released.calls, confirmed.usd
    )
    account.assumed = Spend(assumed.tokens, assumed.calls, assumed.usd)
    account.elapsed_before = elapsed
