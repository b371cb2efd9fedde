"""Reserve, then spend: the accounts that keep every budget.

Before a call leaves, its worst case is *reserved* on every account it touches (the run, its model, its
problem). When the answer's usage is known the reservation is settled as *confirmed*; what may have been
billed without an answer is charged in full as *assumed*; what was never billed is *released*. A limit
holds for confirmed + assumed + open reservations, so it can't be overrun, whatever the answers cost.

Pure bookkeeping: no I/O and no waiting (the dispatcher waits), one event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from heartloop.errors import BudgetExhausted
from heartloop.types import Budget, Spend

__all__ = ["Account", "Ledger", "Reservation", "Room", "Settlement"]

logger = logging.getLogger(__name__)

Settlement = Literal["confirmed", "assumed", "released"]


class Room(Enum):
    """Whether a call fits a budget."""

    NOW = "now"
    LATER = "later"
    """Not beside the reservations that are open now, but it would if they settled at zero."""
    NEVER = "never"


@dataclass(slots=True)
class Account:
    """One budget and what counts against it.

    ``usd`` sums are kept only where prices are known; :class:`Ledger` refuses a money limit otherwise.
    ``elapsed`` counts seconds since the account was opened, plus ``elapsed_before`` (earlier processes).
    ``claims``: how many wait for room on it outside the lanes, and go first (:mod:`heartloop.engine.claims`).
    """

    name: str
    budget: Budget = Budget()
    confirmed: Spend = Spend()
    assumed: Spend = Spend()
    open: Spend = Spend()
    elapsed_before: float = 0.0
    clock: Callable[[], float] = time.monotonic
    opened: float = field(default=-1.0)
    claims: int = 0

    def __post_init__(self) -> None:
        if self.opened < 0:
            self.opened = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the account was opened, those of earlier processes included."""
        return self.elapsed_before + max(0.0, self.clock() - self.opened)

    @property
    def seconds_left(self) -> float | None:
        return None if self.budget.seconds is None else self.budget.seconds - self.elapsed

    @property
    def charged(self) -> Spend:
        """What has been spent: confirmed and assumed together, without what is only reserved."""
        return self.confirmed + self.assumed

    def room(self, cost: Spend) -> Room:
        """Whether ``cost`` fits now, later, or never."""
        return self.lacking(cost)[0]

    def lacking(self, cost: Spend) -> tuple[Room, str]:
        """As :meth:`room`, with the name of the limit that is in the way ("" where none is)."""
        left = self.seconds_left
        if left is not None and left <= 0:
            return Room.NEVER, "seconds"
        found, which = Room.NOW, ""
        budget, confirmed, assumed, open_ = self.budget, self.confirmed, self.assumed, self.open
        if budget.tokens is not None:
            settled = confirmed.tokens + assumed.tokens + cost.tokens
            if settled > budget.tokens:
                return Room.NEVER, "tokens"
            if settled + open_.tokens > budget.tokens:
                found, which = Room.LATER, "tokens"
        if budget.calls is not None:
            settled = confirmed.calls + assumed.calls + cost.calls
            if settled > budget.calls:
                return Room.NEVER, "calls"
            if settled + open_.calls > budget.calls:
                found, which = Room.LATER, "calls"
        if budget.usd is not None:
            charged = (confirmed.usd or 0.0) + (assumed.usd or 0.0) + (cost.usd or 0.0)
            # Sums of floats: a tolerance far below a cent, or a budget of 10 calls would hold 9.
            if charged > budget.usd + 1e-9:
                return Room.NEVER, "usd"
            if charged + (open_.usd or 0.0) > budget.usd + 1e-9:
                found, which = Room.LATER, "usd"
        return found, which


@dataclass(slots=True)
class Reservation:
    """The worst case of one call to a backend, held on ``accounts`` until it is settled.

    ``taken`` is what the lane took from its tokens a minute for the call.
    """

    id: int
    cost: Spend
    accounts: tuple[Account, ...]
    settled: bool = False
    taken: float = 0.0

    def seconds_left(self) -> float | None:
        """Seconds until the first of its budgets has passed; None where none counts seconds."""
        account = self.first_to_pass
        return None if account is None else account.seconds_left

    @property
    def first_to_pass(self) -> Account | None:
        """The account whose seconds pass first; None where none counts them."""
        found: tuple[float, Account] | None = None
        for account in self.accounts:
            left = account.seconds_left
            if left is not None and (found is None or left < found[0]):
                found = left, account
        return None if found is None else found[1]


def _minus(a: Spend, b: Spend) -> Spend:
    usd = None if a.usd is None or b.usd is None else max(0.0, a.usd - b.usd)
    return Spend(a.tokens - b.tokens, a.calls - b.calls, usd)


class Ledger:
    """The run's account, and the moves on it and on the accounts below it.

    Args:
        budget: the whole run's limits.
        charged: what earlier processes of this run confirmed and assumed.
        elapsed_before: seconds that earlier processes of this run used.
        first_id: the first reservation id to give out.
    """

    def __init__(
        self,
        budget: Budget = Budget(),
        *,
        confirmed: Spend = Spend(),
        assumed: Spend = Spend(),
        elapsed_before: float = 0.0,
        first_id: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = Account("run", budget, confirmed, assumed, elapsed_before=elapsed_before, clock=clock)
        self._next_id = first_id
        self._clock = clock

    def account(self, name: str, budget: Budget, *, scope: str = "") -> Account:
        """A further account (a problem's, a model's), whose calls name it in :meth:`reserve`.

        ``scope`` tells accounts apart that hold for the whole run (``"arm/NAME"``, ``"model/NAME"``), for a
        ledger whose limits hold over several engines.
        """
        return Account(name, budget, clock=self._clock)

    def room(self, cost: Spend, accounts: Sequence[Account]) -> tuple[Room, Account | None, str]:
        """Whether ``cost`` fits the run and ``accounts``; the account and limit in the way."""
        found: tuple[Room, Account | None, str] = (Room.NOW, None, "")
        for account in (self.run, *accounts):
            room, limit = account.lacking(cost)
            if room is Room.NEVER:
                return room, account, limit
            if room is Room.LATER and found[0] is Room.NOW:
                found = room, account, limit
        return found

    def reserve(self, cost: Spend, accounts: Sequence[Account]) -> Reservation:
        """Hold ``cost`` on the run and on ``accounts``.

        Raises:
            BudgetExhausted: it does not fit now (the dispatcher asks :meth:`room` first and waits).
        """
        room, account, limit = self.room(cost, accounts)
        if room is not Room.NOW:
            assert account is not None
            raise exhausted(account, limit, cost)
        return self.hold(cost, accounts)

    def hold(self, cost: Spend, accounts: Sequence[Account]) -> Reservation:
        """:meth:`reserve` for a caller that has just been told by :meth:`room` that it fits."""
        every = (self.run, *accounts)
        for each in every:
            each.open = each.open + cost
        reservation = Reservation(self._next_id, cost, every)
        self._next_id += 1
        return reservation

    def adopt(self, id: int, cost: Spend, accounts: Sequence[Account]) -> Reservation:
        """A reservation of an earlier process that is still open. Room is not asked for: that was done."""
        reservation = Reservation(id, cost, ())
        for account in (self.run, *accounts):
            self.join(reservation, account)
        return reservation

    def join(self, reservation: Reservation, account: Account) -> None:
        """Hold an open reservation on ``account`` too (a problem that was opened after it), once."""
        if reservation.settled or any(account is each for each in reservation.accounts):
            return
        account.open = account.open + reservation.cost
        reservation.accounts = (*reservation.accounts, account)

    def settle(self, reservation: Reservation, state: Settlement, actual: Spend | None = None) -> Spend:
        """End a reservation; returns what was charged.

        ``confirmed`` charges ``actual``; ``assumed`` charges the whole reservation; ``released``
        charges ``actual`` if given (a failed call costs a call but no tokens), else nothing.

        Raises:
            ValueError: it was settled before.
        """
        if reservation.settled:
            raise ValueError(f"reservation {reservation.id} was settled before")
        reservation.settled = True
        if state == "assumed":
            charge = reservation.cost
        else:
            charge = actual if actual is not None else Spend()
        if charge.tokens > reservation.cost.tokens:
            logger.warning(
                "a call cost %d tokens where %d were reserved as its worst case; the backend exceeded "
                "max_tokens or its prompt was counted too low, and a token budget may be overrun by it",
                charge.tokens,
                reservation.cost.tokens,
            )
        for account in reservation.accounts:
            account.open = _minus(account.open, reservation.cost)
            if state == "assumed":
                account.assumed = account.assumed + charge
            else:
                account.confirmed = account.confirmed + charge
        return charge


def exhausted(account: Account, limit: str, cost: Spend) -> BudgetExhausted:
    """The error for a call that no longer fits ``account``'s ``limit``, with the figures in words."""
    if limit == "seconds":
        return BudgetExhausted(
            f"the {account.name}'s budget of {account.budget.seconds:g} seconds has passed",
            limit=limit,
            account=account.name,
        )
    budget = getattr(account.budget, limit)
    charged = getattr(account.charged, limit)
    if (charged or 0) > budget:  # it was lowered
        return BudgetExhausted(
            f"the {account.name}'s budget of {budget:,} {limit} is below the {charged:,} that were spent",
            limit=limit,
            account=account.name,
        )
    return BudgetExhausted(
        f"the {account.name}'s budget of {budget:,} {limit} has {budget - (charged or 0):,} left, and the "
        f"next call may need {getattr(cost, limit):,}",
        limit=limit,
        account=account.name,
    )
