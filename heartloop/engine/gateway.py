"""The one door to backends.

A call comes in with its key and leaves as a completion that is in the journal. In between, here and
nowhere else: admission (lane, limiter, ledger), the reservation's commit before the request leaves,
the attempt's time limit, retries, and settling what the call cost.

Order of commits, which is what a kill -9 can cut at any point:

1. ``Reserve`` is committed, then the request leaves;
2. ``Event`` (the completion) and ``Settle`` are committed together, then the caller sees it.

A process that dies between the two leaves an open reservation, charged as assumed on resume; the call
is then made again. It is the only kind of call that is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from heartloop.backends.base import check_calls_allowed
from heartloop.backends.waves import TakesWaves
from heartloop.confidence import summed_up
from heartloop.engine.dispatch import Lane
from heartloop.engine.hedge import Flight, Hedger, Overtaken
from heartloop.engine.ledger import Account, Ledger, Reservation, Settlement
from heartloop.engine.outcomes import answered, settlement, spent
from heartloop.engine.retry import RetryPolicy, retrying
from heartloop.engine.strands import Activity
from heartloop.engine.waves import Waves, WavesOut
from heartloop.errors import (
    BackendError,
    BackendUnreachable,
    BudgetExhausted,
    CallTimeout,
    ConnectionFailed,
    HeartLoopError,
    RateLimited,
    RetryableError,
    UnknownName,
    UsageError,
)
from heartloop.journal.base import Journal
from heartloop.journal.records import EventKey, PendingCall, Reserve, Settle, Wave
from heartloop.types import Budget, Completion, Request, Spend

__all__ = ["Call", "Gateway", "Tries"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Call:
    """One completion wanted.

    Attributes:
        key: its place in the journal.
        fingerprint: of the request.
        lane: name of the model to ask.
        accounts: the ledgers' accounts below the run's that it counts against.
        picture: the request as the journal keeps it, where it is at hand.
        round, role, deadline: for the scheduler; the deadline in seconds since the run began.
    """

    key: EventKey
    request: Request
    fingerprint: str
    lane: str
    accounts: tuple[Account, ...]
    round: int = 1
    role: str = "generator"
    deadline: float = math.inf
    picture: dict[str, Any] | None = None


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
        self.waves: list[Waves] = []
        for lane in self.lanes.values():
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
                return await retrying(first, tries.once, self.retry, sleep=tries.sleep)
            except ConnectionFailed as error:
                if lane.reached:
                    raise
                raise BackendUnreachable(f"{error} (tried {tries.made} times)") from error
        finally:
            tries.drop_held()

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
            for name, lane in self.lanes.items():
                if lane.price is None:
                    raise UsageError(f"a budget in dollars needs a price, and that of {name!r} is unknown")
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
        outcomes = await asyncio.gather(
            *(lane.aclose() for lane in self.lanes.values()), return_exceptions=True
        )
        if self.on_close is not None:
            self.on_close()
        for outcome in outcomes:  # one that can't be closed is no reason to leave the others open
            if isinstance(outcome, BaseException):
                raise outcome


class Tries:
    """The attempts of one call, and the reservation that a waiting retry keeps."""

    def __init__(self, call: Call, lane: Lane, gateway: Gateway) -> None:
        self.call = call
        self.lane = lane
        self.gateway = gateway
        self.made = 0
        sampling = call.request.sampling
        self.prompt_bound = lane.backend.prompt_tokens_bound(call.request.messages)
        self.cost = lane.worst_case(self.prompt_bound, sampling.max_tokens)
        self.held: Reservation | None = None

    async def once(self) -> Completion:
        call, lane, journal = self.call, self.lane, self.gateway.journal
        if lane.waves is not None:
            return await self._in_a_wave(lane.waves)
        reservation = await self._admitted()
        if lane.hedger is None:
            completion, settle = await self._attempt(reservation)
        else:
            completion, settle = await self._hedged(reservation, lane.hedger)
        lane.answered(call.role, completion.seconds)
        await journal.write(
            answered(call.key, call.fingerprint, call.request, call.role, completion, call.picture), settle
        )
        return completion

    async def _admitted(self) -> Reservation:
        call = self.call
        held, self.held = self.held, None
        return await self.lane.admit(
            self.cost,
            call.accounts,
            problem=call.key.problem,
            arm=call.key.arm,
            round=call.round,
            role=call.role,
            deadline=call.deadline,
            held=held,
        )

    def _reserve(self, reservation: Reservation) -> Reserve:
        """The record of one more try."""
        self.made += 1
        return Reserve(
            id=reservation.id,
            key=self.call.key,
            attempt=self.made,
            model=self.lane.backend.name,
            tokens=self.cost.tokens,
            usd=self.cost.usd,
            prompt_tokens=self.prompt_bound,
            lane=self.lane.name,
        )

    async def _in_a_wave(self, waves: Waves) -> Completion:
        """:meth:`once` at a backend that takes calls by the batch."""
        call, lane = self.call, self.lane
        member = waves.claim(call.key, call.fingerprint)
        if member is None:
            reservation = await self._admitted()
            lane.release()  # a place in a wave is no slot
            member = waves.join(call, reservation, self._reserve(reservation))
        try:
            completion = await waves.answer(member)
        except RetryableError:
            self._keep_place()
            raise
        lane.answered(call.role, completion.seconds)
        return completion

    async def _attempt(
        self, reservation: Reservation, flight: Flight | None = None, *, hedge: bool = False
    ) -> tuple[Completion, Settle]:
        """Send once, with a slot and ``reservation``; both are given back. The settlement is the caller's
        to write."""
        lane, gateway = self.lane, self.gateway
        left = lane.leaving()
        sent = False
        gateway.in_flight += 1
        try:
            await gateway.journal.write(self._reserve(reservation))
            sent = True
            completion = await self._send(reservation, flight)
            settle = self._charge(reservation, completion)
            tokens = None if completion.usage is None else completion.usage.total_tokens
            lane.heard(left, reservation, tokens, completion.seconds)
            return completion, settle
        except BackendError as error:
            retry = isinstance(error, RetryableError) and not hedge
            lane.failed(left, reservation, error)
            self._settle_failure(reservation, error, keep=retry)
            if isinstance(error, RateLimited) and error.retry_after:
                lane.pause(min(error.retry_after, gateway.retry.max_retry_after))
            raise
        except BaseException as error:
            # Cancelled (or broken) in flight: the backend may have gone on and billed it.
            reason = "Hedge" if hedge and isinstance(error, asyncio.CancelledError) else type(error).__name__
            self._settle(reservation, "assumed" if sent else "released", reason=reason)
            raise
        finally:
            lane.release()
            gateway.landed()

    async def _hedged(self, reservation: Reservation, hedger: Hedger) -> tuple[Completion, Settle]:
        """:meth:`_attempt`, with a second one beside it if it turns out a straggler."""
        second: list[tuple[Completion, Settle]] = []

        async def hedge(flight: Flight) -> None:
            own = await self.lane.admit_hedge(self.cost, self.call.accounts)
            if own is None:
                return
            try:
                second.append(await self._attempt(own, hedge=True))
            except HeartLoopError:
                return  # the first try goes on
            flight.overtake()

        flight = hedger.begin(hedge)
        answered = False
        try:
            first = await self._attempt(reservation, flight)
            answered = True
            return first
        except Overtaken:
            return second.pop()
        except RetryableError:
            # A hedge that is under way may still bring the answer.
            if flight.task is not None:
                await asyncio.wait([flight.task])
            if not second:
                raise
            self.drop_held()
            return second.pop()
        finally:
            hedger.end(flight, answered=answered)
            for _, settle in second:  # both answered in the same moment
                self.gateway.journal.post(settle)

    async def _send(self, reservation: Reservation, flight: Flight | None) -> Completion:
        limit = self.lane.attempt_timeout
        deadline = reservation.seconds_left
        if deadline is not None and deadline < limit:
            limit = max(0.0, deadline)
        start = time.perf_counter()
        try:
            async with asyncio.timeout(limit) as cut:
                if flight is not None:
                    flight.cut = cut
                completion = await self.lane.backend.complete(self.call.request)
        except TimeoutError:
            if flight is not None and flight.overtaken:
                raise Overtaken from None
            # Asked again: the budget may have been raised meanwhile.
            if (left := reservation.seconds_left) is not None and left <= 0.001:
                raise BudgetExhausted(
                    "the budget of seconds passed while a call was in flight", limit="seconds"
                ) from None
            raise CallTimeout(f"no answer from {self.lane.backend.name!r} within {limit:g} s") from None
        finally:
            if flight is not None:
                flight.cut = None
        completion = summed_up(completion, self.call.request.sampling)
        if completion.seconds:
            return completion
        return replace(completion, seconds=time.perf_counter() - start)

    def _charge(self, reservation: Reservation, completion: Completion) -> Settle:
        """Settle an answered call: confirmed at its usage, or assumed where the backend gave none."""
        settle = settlement(reservation, completion, self.lane.price)
        self.gateway.ledger.settle(reservation, settle.state, spent(settle))
        return settle

    def _settle_failure(self, reservation: Reservation, error: BackendError, *, keep: bool) -> None:
        reason = type(error).__name__
        if not isinstance(error, ConnectionFailed):
            self.lane.reached = True
        if error.may_have_been_billed:
            self._settle(reservation, "assumed", reason=reason)
        elif isinstance(error, ConnectionFailed):
            self._settle(reservation, "released", reason=reason)
        else:
            self._settle(reservation, "released", actual=Spend(calls=1), reason=reason)
        if keep:
            self._keep_place()

    def _keep_place(self) -> None:
        # The retry keeps its place in the budget while it sleeps, if there still is one.
        accounts = (*self.lane.accounts, *self.call.accounts)
        room, _, _ = self.gateway.ledger.room(self.cost, accounts)
        if room.value == "now":
            self.held = self.gateway.ledger.reserve(self.cost, accounts)

    def _settle(
        self, reservation: Reservation, state: Settlement, *, actual: Spend | None = None, reason: str
    ) -> None:
        charged = self.gateway.ledger.settle(reservation, state, actual)
        self.gateway.journal.post(
            Settle(
                reservation.id, state, None, charged.tokens, charged.usd, reason=reason, calls=charged.calls
            )
        )

    async def sleep(self, seconds: float) -> None:
        """Sleep before the next try, but not beyond the end of a budget of seconds: it says so then."""
        accounts = (self.gateway.ledger.run, *self.lane.accounts, *self.call.accounts)
        left = [passing for account in accounts if (passing := account.seconds_left) is not None]
        await asyncio.sleep(min([seconds, *(max(0.0, passing) + 0.001 for passing in left)]))

    def drop_held(self) -> None:
        """Release what a retry that will not come was keeping."""
        if self.held is not None and not self.held.settled:
            self.gateway.ledger.settle(self.held, "released")
            self.held = None
            self.gateway.pump()
