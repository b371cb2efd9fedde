"""The one door to backends.

A call comes in with its key and leaves as a completion that is in the journal. In between, here and
nowhere else: admission (lane, limiter, ledger), the reservation's commit before the request leaves,
the attempt's time limit, retries, and settling what the call cost.

:mod:`heartloop.engine.tries` has one call's way, and the order of commits on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from heartloop.backends.base import check_calls_allowed
from heartloop.backends.waves import TakesWaves
from heartloop.engine.claims import Claims
from heartloop.engine.dispatch import Lane
from heartloop.engine.ledger import Account, Ledger
from heartloop.engine.retry import RetryPolicy, retrying
from heartloop.engine.strands import Activity
from heartloop.engine.tries import Call, Tries
from heartloop.engine.watch import Watch
from heartloop.engine.waves import Waves, WavesOut
from heartloop.errors import (
    BackendError,
    BackendUnreachable,
    ConnectionFailed,
    QuotaExceeded,
    RateLimited,
    RetryableError,
    UnknownName,
    UsageError,
)
from heartloop.journal.base import Journal
from heartloop.journal.records import PendingCall, Wave
from heartloop.types import Budget, Completion

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)


class Gateway:
    """Owns the lanes, and every call's way through them. Used from one event loop."""

    def __init__(
        self, lanes: Mapping[str, Lane], *, ledger: Ledger, journal: Journal, retry: RetryPolicy
    ) -> None:
        self.lanes = dict(lanes)
        self.ledger = ledger
        self.journal = journal
        self.retry = retry
        self.in_flight = 0
        self._idle = asyncio.Event()
        self.tries: type[Tries] = Tries
        self.on_close: Callable[[], None] | None = None
        self.claims: dict[Claims, None] = {}
        self.waves: list[Waves] = []
        for lane in self.lanes.values():
            lane.breaker.patience = retry.outage_patience
            if isinstance(lane.backend, TakesWaves):
                lane.waves = Waves(lane, lane.backend, ledger=ledger, journal=journal, retry=retry)
                self.waves.append(lane.waves)
        self.activity = Activity(self._send_waves) if self.waves else None
        for waves in self.waves:
            waves.activity = self.activity

    def landed(self) -> None:
        """A call is no longer in flight."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    def lane(self, name: str) -> Lane:
        try:
            return self.lanes[name]
        except KeyError:
            raise UnknownName("model", name, self.lanes) from None

    def pump(self) -> None:
        """Look again in every lane: something came free."""
        for claims in tuple(self.claims):
            claims.look()
        for lane in self.lanes.values():
            lane.pump()

    async def complete(self, call: Call) -> Completion:
        """Get ``call`` answered; the completion is committed to the journal when this returns.

        Raises:
            BudgetExhausted: it can no longer fit.
            BackendError: it failed for good.
            JournalWriteError: the journal can't be written; nothing more is sent.
        """
        lane = self.lane(call.lane)
        check_calls_allowed(lane.backend)
        await lane.warm_up()
        tries = self.tries(call, lane, self)
        try:
            return await tries.once()
        except RetryableError as first:
            if self.retry.attempts == 1:
                raise
            try:
                return await retrying(first, tries.once, self.retry, sleep=tries.sleep, away=lane.away)
            except RetryableError as error:
                raise self._for_all(error, lane, tries.made) or error from error
        finally:
            tries.drop_held()

    def let_watch(self, watch: Watch) -> None:
        """``watch`` sees everything from now on."""
        self.tries, self.on_close = watch.tries, watch.closed
        for waves in self.waves:
            waves.flight = watch.flights

    def _for_all(self, error: RetryableError, lane: Lane, tries: int) -> BackendError | None:
        """What ends the run, where the error that ended a call would end all others too, one by one."""
        if isinstance(error, ConnectionFailed) and not lane.reached:
            return BackendUnreachable(f"{error} (tried {tries} times)")
        patience = self.retry.outage_patience
        if not patience:
            return None
        if (away := lane.away(error)) > patience:
            return BackendUnreachable(f"{error} (for {away / 60:.0f} minutes now)")
        later = (error.retry_after or 0.0) > self.retry.max_retry_after
        if isinstance(error, RateLimited):
            if later:
                return QuotaExceeded(f"{error} (and is to be asked again after {error.retry_after:,.0f} s)")
            if (silent := lane.silent) > self.retry.rate_limit_patience:
                return QuotaExceeded(f"{error} (and answered nothing else for {silent / 60:.0f} minutes)")
        elif later and lane.breaker.concerns(error):
            return BackendUnreachable(f"{error} (and is to be asked again after {error.retry_after:,.0f} s)")
        return None

    # --- waves ------------------------------------------------------------------------------------------

    def adopt(self, pending: Sequence[tuple[Wave, Sequence[PendingCall]]]) -> None:
        """Take over the waves of earlier processes: their calls count as reserved, and their answers are
        waited for again.

        Raises:
            UsageError: a model of this run no longer takes waves.
        """
        for wave, calls in pending:
            lane = self.lanes.get(wave.lane)
            if lane is None or lane.waves is None:
                raise UsageError(
                    f"{len(calls)} calls of this run are in the batch {wave.ref or wave.id} of "
                    f"{wave.model!r}, which its settings now ask otherwise: go on with the old ones"
                )
            lane.waves.adopt(wave, calls)

    def attach(self, arm: str, problem: str, account: Account) -> None:
        """``account`` is the problem's from now on: what is reserved for it in waves counts there too."""
        for waves in self.waves:
            waves.attach(arm, problem, account)

    def attach_arm(self, arm: str, account: Account) -> None:
        """``account`` is the arm's from now on: what is reserved for it in waves counts there too."""
        for waves in self.waves:
            waves.attach_arm(arm, account)

    def forget(self, arm: str, problem: str) -> None:
        """The problem has ended: answers that nobody came for are in the journal."""
        for waves in self.waves:
            waves.forget(arm, problem)

    def start_waves(self) -> None:
        """Go on with adopted waves."""
        for waves in self.waves:
            waves.start()

    async def collect_waves(self) -> None:
        """Look once after waves that nobody waits for, and take what has ended."""
        for waves in self.waves:
            await waves.collect()

    def waves_out(self) -> WavesOut:
        """How many calls are collected for waves, and how many are in how many waves."""
        return sum((waves.out() for waves in self.waves), WavesOut())

    def _send_waves(self) -> None:
        for waves in self.waves:
            waves.send()

    def set_budget(self, budget: Budget) -> None:
        """Change the run's limits; see :meth:`heartloop.engine.engine.Engine.set_budget`."""
        if budget.usd is not None:
            for lane in self.lanes.values():
                if lane.price is None:
                    raise UsageError(
                        f"a budget in dollars needs a price, and that of {lane.backend.name!r} is unknown"
                    )
            if self.ledger.run.charged.usd is None:
                raise UsageError("a budget in dollars can't begin: some of what was spent had no known price")
        self.ledger.run.budget = budget
        for lane in self.lanes.values():
            lane.look_again()
        self.pump()

    async def drain(self) -> None:
        """Let no further call leave; returns when those in flight have been answered and recorded.

        Waves are not waited for, but for those on their way to the server: they go on there.
        """
        for lane in self.lanes.values():
            lane.closed = True
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()
        for waves in self.waves:
            await waves.settle_down()

    async def aclose(self) -> None:
        if self.activity is not None:
            self.activity.close()
        for claims in self.claims:
            claims.close()
        outcomes = await asyncio.gather(
            *(lane.aclose() for lane in self.lanes.values()), return_exceptions=True
        )
        if self.on_close is not None:
            self.on_close()
        for outcome in outcomes:  # one that can't be closed is no reason to leave the others open
            if isinstance(outcome, BaseException):
                raise outcome
