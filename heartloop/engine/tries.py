"""A call and its tries: each reserved before it leaves, timed, perhaps hedged, and settled.

Order of commits, which is what a kill -9 can cut at any point:

1. ``Reserve`` is committed, then the request leaves;
2. ``Event`` (the completion) and ``Settle`` are committed together, then the caller sees it.

A process that dies between the two leaves an open reservation, charged as assumed on resume; the call
is then made again. It is the only kind of call that is.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heartloop.confidence import summed_up
from heartloop.engine.dispatch import Lane
from heartloop.engine.hedge import Flight, Hedger, Overtaken
from heartloop.engine.ledger import Account, Reservation, Settlement, exhausted
from heartloop.engine.outcomes import answered, settlement, spent
from heartloop.engine.wave_call import Member
from heartloop.engine.waves import Waves
from heartloop.errors import (
    BackendError,
    BudgetExhausted,
    CallTimeout,
    ConnectionFailed,
    HeartLoopError,
    RateLimited,
    RetryableError,
)
from heartloop.journal.records import EventKey, Reserve, Settle
from heartloop.types import Completion, Request, Spend, changed

if TYPE_CHECKING:
    from heartloop.engine.gateway import Gateway

__all__ = ["Call", "Tries"]


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
        """One try, admitted and settled; its completion is in the journal.

        Raises:
            BackendError: the try failed. What it cost is settled, and a retry's place is kept.
            BudgetExhausted: there is no room for it.
        """
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
        member = await self._member(waves)
        try:
            completion = await waves.answer(member)
        except RetryableError:
            self._keep_place()
            raise
        lane.answered(call.role, completion.seconds)
        return completion

    async def _member(self, waves: Waves) -> Member:
        """The call's place in a wave: the one that it has already, or a new one."""
        member = waves.claim(self.call.key, self.call.fingerprint)
        if member is None:
            reservation = await self._admitted()
            self.lane.release()  # a place in a wave is no slot
            member = waves.join(self.call, reservation, self._reserve(reservation))
        return member

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
            # A longer one ends the run: then nobody is to wait.
            later = (error.retry_after or 0.0) if isinstance(error, RateLimited) else 0.0
            if 0 < later <= gateway.retry.max_retry_after:
                lane.pause(later)
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
            try:
                own = await self.lane.admit_hedge(self.cost, self.call.accounts)
            except BudgetExhausted:
                return
            hedger.left(flight, sent=own is not None)
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
        start = time.perf_counter()
        try:
            with self.lane.limits.within(limit, reservation.seconds_left) as cut:
                if flight is not None:
                    flight.cut = cut
                completion = await self.lane.backend.complete(self.call.request)
        except TimeoutError:
            if flight is not None and flight.overtaken:
                raise Overtaken from None
            account = reservation.first_to_pass
            if account is not None and (account.seconds_left or 0.0) <= 0.001:
                raise exhausted(account, "seconds", reservation.cost) from None
            raise CallTimeout(f"no answer from {self.lane.backend.name!r} within {limit:g} s") from None
        finally:
            if flight is not None:
                flight.cut = None
        completion = summed_up(completion, self.call.request.sampling)
        if completion.seconds:
            return completion
        return changed(completion, seconds=time.perf_counter() - start)

    def _charge(self, reservation: Reservation, completion: Completion) -> Settle:
        """Settle an answered call: confirmed at its usage, or assumed where the backend gave none."""
        settle = settlement(reservation, completion, self.lane.price)
        self.gateway.ledger.settle(reservation, settle.state, spent(settle))
        return settle

    def _settle_failure(self, reservation: Reservation, error: BackendError, *, keep: bool) -> None:
        reason = type(error).__name__
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

        def left() -> float | None:
            passing = [seconds for account in accounts if (seconds := account.seconds_left) is not None]
            return min(passing) + 0.001 if passing else None

        with suppress(TimeoutError), self.lane.limits.within(seconds, left):
            await asyncio.get_running_loop().create_future()

    def drop_held(self) -> None:
        """Release what a retry that will not come was keeping."""
        if self.held is not None and not self.held.settled:
            self.gateway.ledger.settle(self.held, "released")
            self.held = None
            self.gateway.pump()
