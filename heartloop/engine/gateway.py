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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from heartloop.backends.base import check_calls_allowed
from heartloop.confidence import summed_up
from heartloop.engine.dispatch import Lane
from heartloop.engine.hedge import Flight, Hedger, Overtaken
from heartloop.engine.ledger import Account, Ledger, Reservation, Settlement
from heartloop.engine.retry import RetryPolicy, retrying
from heartloop.engine.serial import completion_to_dict, request_to_dict
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
from heartloop.journal.records import Event, EventKey, Reserve, Settle
from heartloop.types import Budget, Completion, Request, Spend

__all__ = ["Call", "Gateway", "Tries"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
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
        """Let no further call leave; returns when those in flight have been answered and recorded."""
        for lane in self.lanes.values():
            lane.closed = True
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()

    async def aclose(self) -> None:
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
        held, self.held = self.held, None
        reservation = await lane.admit(
            self.cost,
            call.accounts,
            problem=call.key.problem,
            arm=call.key.arm,
            round=call.round,
            role=call.role,
            deadline=call.deadline,
            held=held,
        )
        if lane.hedger is None:
            completion, settle = await self._attempt(reservation)
        else:
            completion, settle = await self._hedged(reservation, lane.hedger)
        lane.answered(call.role, completion.seconds)
        data: dict[str, Any] = {
            "request": call.picture or request_to_dict(call.request),
            "completion": completion_to_dict(completion),
        }
        if call.role != "generator":
            data["role"] = call.role
        await journal.write(Event(call.key, call.fingerprint, data), settle)
        return completion

    async def _attempt(
        self, reservation: Reservation, flight: Flight | None = None, *, hedge: bool = False
    ) -> tuple[Completion, Settle]:
        """Send once, with a slot and ``reservation``; both are given back. The settlement is the caller's
        to write."""
        call, lane, gateway = self.call, self.lane, self.gateway
        self.made += 1
        left = lane.leaving()
        sent = False
        gateway.in_flight += 1
        try:
            await gateway.journal.write(
                Reserve(
                    id=reservation.id,
                    key=call.key,
                    attempt=self.made,
                    model=lane.backend.name,
                    tokens=self.cost.tokens,
                    usd=self.cost.usd,
                    prompt_tokens=self.prompt_bound,
                    lane=lane.name,
                )
            )
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
        deadline = _seconds_left(reservation)
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
            if (left := _seconds_left(reservation)) is not None and left <= 0.001:
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
        usage = completion.usage
        if usage is None:
            charged = self.gateway.ledger.settle(reservation, "assumed")
            return Settle(
                reservation.id, "assumed", None, charged.tokens, charged.usd, reason="no usage reported"
            )
        price = self.lane.price
        usd = (
            None
            if price is None
            else price.of(
                usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens
            )
        )
        actual = Spend(usage.total_tokens, 1, usd)
        self.gateway.ledger.settle(reservation, "confirmed", actual)
        return Settle(reservation.id, "confirmed", usage, actual.tokens, usd)

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
        if not keep:
            return
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


def _seconds_left(reservation: Reservation) -> float | None:
    """Seconds until the first of its budgets has passed; None where none counts seconds."""
    return min(
        (left for account in reservation.accounts if (left := account.seconds_left) is not None), default=None
    )
