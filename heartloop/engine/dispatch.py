"""Lanes: the one queue in front of each model, and who leaves it next.

Nothing queues past this point. Whenever the limiter and the ledger have room, the lane lets the waiting
call go that the scheduler puts first. Letting go means: the reservation is made, a slot is taken, and
the waiter's future is resolved; the call itself runs in the waiter's own task, so cancelling a strategy
cancels its call at the backend.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from heartloop.backends.base import Backend
from heartloop.engine.ledger import Account, Ledger, Reservation, Room, exhausted
from heartloop.engine.limiter import ConcurrencyLimiter, request_rate
from heartloop.engine.scheduler import Answered, Learning, Scheduler, Waiting
from heartloop.types import Sampling, Spend

__all__ = ["Lane", "Price"]


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    prompt: float
    completion: float
    cached_prompt: float | None = None

    def of(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Dollars for these tokens; ``cached_tokens`` are part of ``prompt_tokens``."""
        cached_rate = self.prompt if self.cached_prompt is None else self.cached_prompt
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.prompt + cached_tokens * cached_rate + completion_tokens * self.completion) / 1e6


@dataclass(slots=True, order=True)
class _Entry:
    priority: float
    arrival: int
    cost: Spend = field(compare=False)
    accounts: tuple[Account, ...] = field(compare=False)
    held: Reservation | None = field(compare=False)
    granted: asyncio.Future[Reservation] = field(compare=False)
    about: Waiting = field(compare=False)
    timer: asyncio.TimerHandle | None = field(compare=False, default=None)


class Lane:
    """One model: its backend, limiter, price, and the calls waiting for it.

    ``on_change`` is called whenever a slot or ledger room came free. The gateway sets it, so that sibling
    lanes, which share the run's budget, look too.
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
    ) -> None:
        self.backend = backend
        self.sampling = sampling
        self.attempt_timeout = attempt_timeout
        self.price = price
        self.account = account
        self.limiter = ConcurrencyLimiter(concurrency)
        self.reached = False
        self.closed = False
        self._ledger = ledger
        self._scheduler = scheduler
        self._learning = scheduler if isinstance(scheduler, Learning) else None
        self._sorted_at = 0
        self.on_change: Callable[[], None] = self.pump
        self._throttle = request_rate(requests_per_minute)
        self._waiting: list[_Entry] = []
        # Calls that hold a reservation queue apart: no call that waits for room may stand in their way,
        # since it may be their reservations that it waits for.
        self._retries: list[_Entry] = []
        self._arrivals = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._throttling: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return sum(not entry.granted.done() for entry in (*self._waiting, *self._retries))

    def worst_case(self, prompt_tokens: int, max_tokens: int) -> Spend:
        """What a call can cost at most."""
        usd = None if self.price is None else self.price.of(prompt_tokens, max_tokens)
        return Spend(tokens=prompt_tokens + max_tokens, calls=1, usd=usd)

    async def admit(
        self, cost: Spend, accounts: Sequence[Account], about: Waiting, held: Reservation | None = None
    ) -> Reservation:
        """Wait for this call's turn; returns with a slot taken and ``cost`` reserved.

        ``held`` is a reservation kept from an earlier try, used in place of a new one.

        Raises:
            BudgetExhausted: it can never fit.
        """
        elapsed = self._ledger.run.elapsed
        due = [about.deadline]
        for account in (self._ledger.run, self.account, *accounts):
            if (left := account.seconds_left) is not None:
                due.append(elapsed + left)
        about = replace(about, arrival=self._arrivals, at=elapsed, deadline=min(due))
        future: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        priority = self._scheduler.priority(about)
        entry = _Entry(priority, self._arrivals, cost, (self.account, *accounts), held, future, about)
        self._arrivals += 1
        self._put(entry)
        self.pump()
        if not future.done():
            self._watch(entry)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                # Granted in the same tick as cancelled: hand the grant back.
                self._ledger.settle(future.result(), "released")
                self.release()
            elif held is not None and not held.settled:
                self._ledger.settle(held, "released")
                self.on_change()
            elif self._waiting and self._waiting[0] is entry:
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

    def pause(self, seconds: float) -> None:
        """Let nothing go for ``seconds`` (a server asked for that)."""
        self.limiter.pause(seconds)
        self._wake_in(seconds)

    def pump(self) -> None:
        """Let go whatever may go now."""
        if self.closed or not (self._waiting or self._retries):
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
        reservation = entry.held or self._ledger.reserve(entry.cost, entry.accounts)
        self.limiter.acquire()
        entry.granted.set_result(reservation)

    def _next(self) -> _Entry | None:
        """Pop the call that may go now, if there is one; end those that never can."""
        if self.closed:
            return None
        if not self.limiter.has_room():
            if (pause := self.limiter.paused_for()) > 0:
                self._wake_in(pause)
            return None
        if self._learning is not None and self._learning.revision != self._sorted_at:
            self._sort_again(self._learning)
        found = self._next_fresh()
        retry = self._first_retry()
        if retry is None or (found is not None and found < retry):
            return found
        if found is not None:
            self._put(found)
        return heapq.heappop(self._retries)

    def _sort_again(self, learning: Learning) -> None:
        """Ask for every waiting call's priority anew: the policy has changed its mind."""
        self._sorted_at = learning.revision
        elapsed = self._ledger.run.elapsed
        for queue in (self._waiting, self._retries):
            for entry in queue:
                entry.priority = learning.priority(replace(entry.about, at=elapsed))
            heapq.heapify(queue)

    def _next_fresh(self) -> _Entry | None:
        set_aside: list[_Entry] = []
        found = None
        while self._waiting:
            entry = heapq.heappop(self._waiting)
            if entry.granted.done():  # cancelled while it waited
                continue
            room, account, limit = self._ledger.room(entry.cost, entry.accounts)
            if room is Room.NOW:
                found = entry
                break
            assert account is not None
            if room is Room.NEVER:
                self._end(entry, account, limit)
                continue
            set_aside.append(entry)
            if account is self._ledger.run or account is self.account:
                # Everyone shares this limit. Letting smaller calls overtake would starve this one.
                break
        for entry in set_aside:
            heapq.heappush(self._waiting, entry)
        return found

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

    async def aclose(self) -> None:
        """Cancel timers and end everyone who waits."""
        if self._timer is not None:
            self._timer.cancel()
        if self._throttling is not None and not self._throttling.done():
            self._throttling.cancel()
            await asyncio.gather(self._throttling, return_exceptions=True)
        for entry in (*self._waiting, *self._retries):
            if not entry.granted.done():
                entry.granted.cancel()
        self._waiting.clear()
        self._retries.clear()
        await self.backend.aclose()
