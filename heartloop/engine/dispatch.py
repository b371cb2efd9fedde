"""Lanes: the one queue in front of each model, and who leaves it next.

Nothing queues past this point. Whenever the limiter and the ledger have room, the lane lets the waiting
call go that the scheduler puts first. Letting go means: the reservation is made, a slot is taken, and
the waiter's future is resolved; the call itself runs in the waiter's own task, so cancelling a strategy
cancels its call at the backend.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from heartloop.backends.base import Backend
from heartloop.backends.waves import TakesWaves
from heartloop.engine.breaker import Breaker
from heartloop.engine.hedge import HedgePolicy, Hedger
from heartloop.engine.ledger import Account, Ledger, Reservation, Room, exhausted
from heartloop.engine.limiter import ConcurrencyLimiter
from heartloop.engine.limits import Limits
from heartloop.engine.prices import Price
from heartloop.engine.queueing import Entry as _Entry
from heartloop.engine.queueing import Parked
from heartloop.engine.rates import Rates, request_rate, set_request_rate
from heartloop.engine.scheduler import Answered, Learning, Scheduler, Waiting
from heartloop.engine.strands import blocked
from heartloop.errors import BackendError, CallTimeout, ConnectionFailed, RateLimited, ServerError
from heartloop.types import Sampling, Spend

if TYPE_CHECKING:
    from heartloop.engine.waves import Waves

__all__ = ["Lane", "Price"]

Left: TypeAlias = tuple[int, tuple[float, float] | None]
"""A call as it left: the slot's number, and what had been sent by then."""

_OVERLOADED = (503, 529)
"""Statuses by which a server says that it has too much to do."""


class Lane:
    """One model: its backend, limiter, price, and the calls waiting for it.

    Args:
        name: as the run calls the model.
        concurrency: calls at once, at most; ``adaptive``: fewer where the server can't take so many.
        requests_per_minute, tokens_per_minute: None is no limit but the server's own.
        hedge: None: stragglers are waited for.
        wave_size, wave_seconds: where the backend takes waves: the most calls in one (None: the backend's own
            limit), and the longest that the first of them waits until it leaves.

    ``waves`` is set by the gateway for a backend that takes them. ``on_change`` is called whenever a slot or
    ledger room came free. The gateway sets it, so that sibling lanes, which share the run's budget, look too.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        ledger: Ledger,
        scheduler: Scheduler,
        concurrency: int,
        sampling: Sampling,
        attempt_timeout: float,
        account: Account,
        price: Price | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
        hedge: HedgePolicy | None = None,
        name: str = "",
        wave_size: int | None = None,
        wave_seconds: float = 300.0,
    ) -> None:
        self.name = name
        self.waves: Waves | None = None
        self.wave_size = wave_size
        self.wave_seconds = wave_seconds
        self.backend = backend
        self.sampling = sampling
        self.attempt_timeout = attempt_timeout
        self.price = price
        # An account without limits need not be kept: the journal has the sums.
        self.accounts: tuple[Account, ...] = () if account.budget.unlimited else (account,)
        self.account = account
        self._queue: Callable[[], tuple[int, int] | None] | None = getattr(backend, "queue", None)
        self.limits = Limits()
        self.limiter = ConcurrencyLimiter(concurrency, adaptive=adaptive, queue=self._queue)
        self.breaker = Breaker(backend.name)
        self.hedger = None if hedge is None else Hedger(hedge, self.may_hedge)
        says = hasattr(backend, "rate_limits") and not isinstance(backend, TakesWaves)
        self._rates = Rates(tokens_per_minute) if says or tokens_per_minute is not None else None
        self.reached = False
        self._answered_at = -math.inf
        self._warm = not hasattr(backend, "warm_up")
        self._warming = asyncio.Lock()
        self.closed = False
        self._ledger = ledger
        self._scheduler = scheduler
        self._learning = scheduler if isinstance(scheduler, Learning) else None
        self._sorted_at = 0
        self.on_change: Callable[[], None] = self.pump
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._throttle = request_rate(requests_per_minute)
        self._waiting: list[_Entry] = []
        # Calls that hold a reservation queue apart: no call that waits for room may stand in their way,
        # since it may be their reservations that it waits for.
        self._retries: list[_Entry] = []
        self._parked = Parked()
        self._arrivals = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._throttling: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return sum(not entry.granted.done() for entry in chain(self._waiting, self._retries, self._parked))

    @property
    def rates(self) -> Rates | None:
        """Tokens a minute and the server's own limits, where there are any."""
        return self._rates

    def server_queue(self) -> tuple[int, int] | None:
        """Calls running and waiting at the server, where the backend knows."""
        return None if self._queue is None else self._queue()

    def worst_case(self, prompt_tokens: int, max_tokens: int) -> Spend:
        """What a call can cost at most: never more than the model's context holds, where that is known."""
        context = self.backend.context_tokens
        if context is not None:
            prompt_tokens = min(prompt_tokens, context)
            max_tokens = min(max_tokens, context)
        usd = None if self.price is None else self.price.worst(prompt_tokens, max_tokens)
        tokens = prompt_tokens + max_tokens
        return Spend(tokens if context is None else min(tokens, context), calls=1, usd=usd)

    async def admit(
        self,
        cost: Spend,
        accounts: Sequence[Account],
        *,
        problem: str,
        arm: str = "",
        round: int = 1,
        role: str = "generator",
        deadline: float = math.inf,
        held: Reservation | None = None,
    ) -> Reservation:
        """Wait for this call's turn; returns with a slot taken and ``cost`` reserved.

        ``held`` is a reservation kept from an earlier try, used in place of a new one.

        Raises:
            BudgetExhausted: it can never fit.
        """
        elapsed = self._ledger.run.elapsed
        accounts = (*self.accounts, *accounts)
        timed = False
        for account in (self._ledger.run, *accounts):
            if (left := account.seconds_left) is not None:
                timed = True
                deadline = min(deadline, elapsed + left)
        about = Waiting(problem, round, role, self._arrivals, arm, elapsed, deadline)
        future: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        priority = self._scheduler.priority(about)
        entry = _Entry(priority, self._arrivals, cost, accounts, held, future, about)
        self._arrivals += 1
        self._put(entry)
        self.pump()
        if timed:
            self._watch(entry)
        try:
            with blocked():
                return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                # Granted in the same tick as cancelled: hand the grant back.
                self._ledger.settle(future.result(), "released")
                self.release()
            elif held is not None and not held.settled:
                self._ledger.settle(held, "released")
                self.on_change()
            elif self._parked or (self._waiting and self._waiting[0] is entry):
                self.pump()  # it may have been in the way of smaller calls
            raise
        finally:
            if entry.timer is not None:
                entry.timer.cancel()

    def release(self) -> None:
        """Give the slot back."""
        self.limiter.release()
        self.on_change()

    def answered(self, role: str, seconds: float) -> None:
        """Tell a policy that learns how long a call took."""
        if self._learning is not None:
            self._learning.observe(Answered(role, seconds))

    def set_share(
        self, slots: int, requests_per_minute: float | None, tokens_per_minute: float | None, portion: float
    ) -> None:
        """What is this engine's of the model's limits, where others ask the model too.

        Rates are only changed where there are any; ``portion`` is of what the server says is left.
        """
        self.limiter.resize(slots)
        if self._throttle is not None and requests_per_minute is not None:
            self.requests_per_minute = requests_per_minute
            set_request_rate(self._throttle, requests_per_minute)
        if self._rates is not None:
            self._rates.portion = portion
            if tokens_per_minute is not None:
                self.tokens_per_minute = tokens_per_minute
                self._rates.set_rate(tokens_per_minute)
        self.on_change()

    # --- what became of calls -----------------------------------------------------------------------------

    def leaving(self) -> Left:
        """For the call that was let go last; :meth:`answered` and :meth:`failed` want it back."""
        return self.limiter.sent, None if self._rates is None else self._rates.mark()

    def heard(self, left: Left, reservation: Reservation, tokens: int | None, seconds: float) -> None:
        """A call, still with its slot, was answered after ``seconds``; ``tokens`` where known."""
        self.reached = True
        self._answered_at = asyncio.get_running_loop().time()
        self.breaker.answered()
        self.limiter.answered(seconds, left[0])
        if self._rates is not None and left[1] is not None:
            if tokens is not None:
                self._rates.settle(reservation.cost.tokens, reservation.taken, tokens)
            self._rates.heed(getattr(self.backend, "rate_limits", None), left[1])

    def failed(self, left: Left, reservation: Reservation, error: BackendError) -> None:
        """A call, still with its slot, failed."""
        if isinstance(error, RateLimited):
            self.limiter.rate_limited(left[0])
        elif isinstance(error, CallTimeout) or (
            isinstance(error, ServerError) and error.status in _OVERLOADED
        ):
            self.limiter.overloaded(left[0])
        if not isinstance(error, ConnectionFailed):
            self.reached = True
        # A wrong address is no server that is away; and of several replicas others may be there.
        if self.reached and not getattr(self.backend, "serving", False):
            self.breaker.failed(error, left[0], self.limiter.sent)
        if self._rates is not None and left[1] is not None:
            if not error.may_have_been_billed:
                self._rates.settle(reservation.cost.tokens, reservation.taken, 0)
            self._rates.heed(getattr(self.backend, "rate_limits", None), left[1])

    @property
    def silent(self) -> float:
        """Seconds since a call was last answered; infinite before the first."""
        return asyncio.get_running_loop().time() - self._answered_at

    def away(self, error: BackendError) -> float:
        """For how many seconds the server has been away, if ``error`` is what that is known by; else 0."""
        return self.breaker.away if self.breaker.concerns(error) else 0.0

    # --- hedges -------------------------------------------------------------------------------------------

    def may_hedge(self, beside: int = 0) -> bool:
        """Whether a second try of a call would be in nobody's way: none waits, here or at the server."""
        if self.closed or self.breaker.open or not self.limiter.has_room():
            return False
        if self.limiter.running + beside >= self.limiter.allowed:  # that many hedges are about to leave
            return False
        if any(not entry.granted.done() for entry in chain(self._retries, self._waiting, self._parked)):
            return False
        known = None if self._queue is None else self._queue()
        return known is None or known[1] == 0

    async def admit_hedge(self, cost: Spend, accounts: Sequence[Account]) -> Reservation | None:
        """A slot and a reservation for a hedge, or None where it would be in somebody's way now.

        Raises:
            BudgetExhausted: there is no room for it beside what is reserved.
        """
        if self._throttle is not None:
            await self._throttle.acquire()
        if not self.may_hedge() or (self._rates is not None and self._rates.wait(cost.tokens) > 0):
            return None
        accounts = (*self.accounts, *accounts)
        return self._take(self._ledger.reserve(cost, accounts), cost, accounts)

    def pause(self, seconds: float) -> None:
        """Let nothing go for ``seconds`` (a server asked for that)."""
        self.limiter.pause(seconds)
        self._wake_in(seconds)

    def pump(self) -> None:
        """Let go whatever may go now."""
        if self.closed or not (self._waiting or self._retries or self._parked):
            return
        if self._throttle is not None:
            if self._throttling is None or self._throttling.done():
                self._throttling = asyncio.get_running_loop().create_task(self._pump_throttled())
            return
        while (entry := self._next()) is not None:
            self._grant(entry)

    async def _pump_throttled(self) -> None:
        assert self._throttle is not None
        while (entry := self._next()) is not None:
            self._put(entry)
            await self._throttle.acquire()
            # Asked again after the wait: the order may have changed, or the call gone.
            if (entry := self._next()) is not None:
                self._grant(entry)

    def _put(self, entry: _Entry) -> None:
        heapq.heappush(self._waiting if entry.held is None else self._retries, entry)

    def _grant(self, entry: _Entry) -> None:
        entry.granted.set_result(self._take(entry.held, entry.cost, entry.accounts))

    def _take(self, held: Reservation | None, cost: Spend, accounts: Sequence[Account]) -> Reservation:
        # Its room was looked at a moment ago, and nothing has happened since.
        reservation = held or self._ledger.hold(cost, accounts)
        self.limiter.acquire()
        self.breaker.left()
        if self._rates is not None:
            reservation.taken = self._rates.take(cost.tokens)
        return reservation

    def _next(self) -> _Entry | None:
        """Pop the call that may go now, if there is one; end those that never can."""
        if self.closed:
            return None
        if not self.limiter.has_room():
            if (pause := self.limiter.paused_for()) > 0:
                self._wake_in(pause)
            return None
        if self.breaker.open and (wait := self.breaker.wait) > 0:
            self._wake_in(wait)
            return None
        if self._learning is not None and self._learning.revision != self._sorted_at:
            self._sort_again(self._learning)
        found = self._next_fresh()
        retry = self._first_retry()
        if retry is not None and (found is None or retry < found):
            if found is not None:
                self._put(found)
            found = heapq.heappop(self._retries)
        if found is None or self._rates is None:
            return found
        if (wait := self._rates.wait(found.cost.tokens)) > 0:
            # Whoever is first waits for its tokens; smaller calls behind it don't overtake.
            self._put(found)
            self._wake_in(wait)
            return None
        return found

    def _sort_again(self, learning: Learning) -> None:
        """Ask for every waiting call's priority anew: the policy has changed its mind."""
        self._sorted_at = learning.revision
        elapsed = self._ledger.run.elapsed
        self._waiting += self._parked.take_all()
        for queue in (self._waiting, self._retries):
            for entry in queue:
                entry.priority = learning.priority(replace(entry.about, at=elapsed))
            heapq.heapify(queue)

    def _next_fresh(self) -> _Entry | None:
        look = True
        while True:
            if look and self._parked:
                # Also after one of them came to nothing: the next on its account is first then.
                for entry in self._parked.ready():
                    self._put(entry)
            look = False
            if not self._waiting:
                return None
            entry = heapq.heappop(self._waiting)
            if entry.granted.done():  # cancelled while it waited
                continue
            room, account, limit = self._ledger.room(entry.cost, entry.accounts)
            if room is Room.NOW:
                account = self._parked.in_the_way(entry) if entry.accounts else None
                if account is None:
                    return entry
            assert account is not None
            look = True
            if room is Room.NEVER:
                self._end(entry, account, limit)
            elif account is self._ledger.run or account is self.account:
                # Everyone shares this limit. Letting smaller calls overtake would starve this one.
                self._put(entry)
                return None
            else:
                self._parked.add(entry, account)

    def _first_retry(self) -> _Entry | None:
        """The retry that is first in line, left there. Its room is reserved: only time can have run out."""
        while self._retries:
            entry = self._retries[0]
            late = None if entry.granted.done() else self._out_of_time(entry)
            if late is None and not entry.granted.done():
                return entry
            heapq.heappop(self._retries)
            if late is not None:
                self._end(entry, late, "seconds")
        return None

    def _end(self, entry: _Entry, account: Account, limit: str) -> None:
        if entry.held is not None:
            self._ledger.settle(entry.held, "released")
            asyncio.get_running_loop().call_soon(self.on_change)
        entry.granted.set_exception(exhausted(account, limit, entry.cost))

    # --- time ---------------------------------------------------------------------------------------

    def _out_of_time(self, entry: _Entry) -> Account | None:
        for account in (self._ledger.run, *entry.accounts):
            left = account.seconds_left
            if left is not None and left <= 0:
                return account
        return None

    def _watch(self, entry: _Entry) -> None:
        """End ``entry`` when its seconds have passed, whatever it waits for."""
        if entry.granted.done():
            return
        if (account := self._out_of_time(entry)) is not None:
            self._end(entry, account, "seconds")
            return
        accounts = (self._ledger.run, *entry.accounts)
        left = [seconds for account in accounts if (seconds := account.seconds_left) is not None]
        if left:
            entry.timer = asyncio.get_running_loop().call_later(min(left) + 0.001, self._watch, entry)

    def _wake_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None and not self._timer.cancelled() and loop.time() < self._timer_due <= due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = loop.call_later(seconds, self.on_change)

    def look_again(self) -> None:
        """A limit has changed: whoever waits has another deadline now, or another chance."""
        for entry in self._parked.take_all():
            self._put(entry)
        for entry in (*self._waiting, *self._retries):
            if not entry.granted.done():
                if entry.timer is not None:
                    entry.timer.cancel()
                self._watch(entry)
        self.limits.look_again()
        if self.waves is not None:
            self.waves.look_again()

    async def warm_up(self) -> None:
        """Have the backend ready, once, so that its start counts against no call's time limit or charge."""
        if self._warm:
            return
        async with self._warming:
            if not self._warm:
                warm_up: Callable[[], Awaitable[None]] = getattr(self.backend, "warm_up")  # noqa: B009
                await warm_up()
                self._warm = True

    async def aclose(self) -> None:
        """Cancel timers and end everyone who waits."""
        if self.waves is not None:
            await self.waves.aclose()
        if self.hedger is not None:
            self.hedger.close()
            await asyncio.gather(*self.hedger.tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        if self._throttling is not None and not self._throttling.done():
            self._throttling.cancel()
            await asyncio.gather(self._throttling, return_exceptions=True)
        for entry in (*self._waiting, *self._retries, *self._parked.take_all()):
            if not entry.granted.done():
                entry.granted.cancel()
        self._waiting.clear()
        self._retries.clear()
        await self.backend.aclose()
