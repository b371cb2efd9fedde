"""The ledger's promise: confirmed + assumed + open never exceeds a limit, and its sums are true."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop.engine.ledger import Account, Ledger, Reservation, Room, exhausted
from heartloop.errors import BudgetExhausted
from heartloop.types import Budget, Spend

LIMITS = ("tokens", "calls", "usd")
SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)

budgets = st.builds(
    Budget,
    tokens=st.none() | st.integers(1, 300),
    calls=st.none() | st.integers(1, 12),
    usd=st.none() | st.integers(1, 300).map(lambda cents: cents / 100),
)


@dataclass
class Open:
    """A reservation as the model sees it."""

    reservation: Reservation
    cost: Spend
    on: tuple[int, ...]


@dataclass
class Model:
    """The books kept by the simplest means: a list of all charges, in whole cents."""

    charged: list[tuple[tuple[int, ...], Spend]] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)

    def used(self, account: int, limit: str, *, with_open: bool) -> float:
        total = sum(getattr(c, limit) for on, c in self.charged if account in on)
        if with_open:
            total += sum(getattr(o.cost, limit) for o in self.open if account in o.on)
        return total

    def expected(self, cost: Spend, on: tuple[int, ...], limits: list[Budget]) -> Room:
        def over(with_open: bool) -> bool:
            return any(
                (limit := getattr(limits[account], name)) is not None
                and self.used(account, name, with_open=with_open) + getattr(cost, name) > limit + 1e-7
                for account in on
                for name in LIMITS
            )

        return Room.NEVER if over(False) else Room.LATER if over(True) else Room.NOW


@SETTINGS
@given(st.data())
def test_random_histories_keep_every_limit_and_agree_with_a_model(data: st.DataObject) -> None:
    limits = [data.draw(budgets) for _ in range(4)]  # the run, one model, two problems
    ledger = Ledger(limits[0])
    accounts = [ledger.run, *(ledger.account("below", budget) for budget in limits[1:])]
    model = Model()
    for _ in range(data.draw(st.integers(1, 40))):
        if model.open and data.draw(st.booleans()):
            chosen = model.open.pop(data.draw(st.integers(0, len(model.open) - 1)))
            state = data.draw(st.sampled_from(["confirmed", "assumed", "released", "call only"]))
            actual: Spend | None = None
            if state == "confirmed":
                share = data.draw(st.integers(0, 4))
                actual = Spend(chosen.cost.tokens * share // 4, 1, (chosen.cost.usd or 0) * share / 4)
            elif state == "call only":
                state, actual = "released", Spend(calls=1)
            charged = ledger.settle(chosen.reservation, state, actual)  # type: ignore[arg-type]
            assert charged == (chosen.cost if state == "assumed" else actual or Spend())
            model.charged.append((chosen.on, charged))
            with pytest.raises(ValueError, match="settled before"):
                ledger.settle(chosen.reservation, "released")
        else:
            on = data.draw(st.sampled_from([(0,), (0, 1), (0, 2), (0, 1, 2), (0, 1, 3)]))
            cost = Spend(data.draw(st.integers(1, 120)), 1, data.draw(st.integers(0, 120)) / 100)
            below = [accounts[n] for n in on[1:]]
            room, _, limit = ledger.room(cost, below)
            assert room is model.expected(cost, on, limits)
            if room is Room.NOW:
                assert limit == ""
                reservation = ledger.reserve(cost, below)
                model.open.append(Open(reservation, cost, on))
            else:
                assert limit in LIMITS
                before = [account.open for account in accounts]
                with pytest.raises(BudgetExhausted):
                    ledger.reserve(cost, below)
                assert [account.open for account in accounts] == before
        for number, account in enumerate(accounts):
            total = account.confirmed + account.assumed + account.open
            for name in LIMITS:
                most = getattr(account.budget, name)
                assert most is None or getattr(total, name) <= most + 1e-7
                assert getattr(account.charged, name) == pytest.approx(
                    model.used(number, name, with_open=False)
                )
                assert getattr(total, name) == pytest.approx(model.used(number, name, with_open=True))
    ids = [o.reservation.id for o in model.open]
    assert len(set(ids)) == len(ids)


def test_money_without_a_price_is_unknown_never_nothing() -> None:
    ledger = Ledger()
    reservation = ledger.reserve(Spend(10, 1, None), ())
    assert ledger.run.open.usd is None
    ledger.settle(reservation, "assumed")
    assert ledger.run.charged == Spend(10, 1, None)


def test_ten_cents_ten_times_fit_a_dollar() -> None:
    ledger = Ledger(Budget(usd=1.0))
    for _ in range(10):
        ledger.settle(ledger.reserve(Spend(1, 1, 0.1), ()), "assumed")
    assert ledger.room(Spend(1, 1, 0.01), ())[0] is Room.NEVER


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_seconds_count_from_the_opening_and_from_earlier_processes() -> None:
    clock = Clock()
    ledger = Ledger(Budget(seconds=10), elapsed_before=4, clock=clock)
    late = ledger.account("problem 'p'", Budget(seconds=3))
    clock.now += 2.9
    assert ledger.room(Spend(1, 1), (late,))[0] is Room.NOW
    assert late.seconds_left == pytest.approx(0.1)
    clock.now += 0.2
    room, account, limit = ledger.room(Spend(1, 1), (late,))
    assert (room, account, limit) == (Room.NEVER, late, "seconds")
    assert ledger.room(Spend(1, 1), ())[0] is Room.NOW
    clock.now += 3
    assert ledger.run.elapsed == pytest.approx(10.1)
    with pytest.raises(BudgetExhausted, match="run's budget of 10 seconds") as caught:
        ledger.reserve(Spend(1, 1), ())
    assert caught.value.limit == "seconds"


def test_what_earlier_processes_spent_counts() -> None:
    ledger = Ledger(Budget(tokens=100), confirmed=Spend(50, 3), assumed=Spend(20, 1), first_id=7)
    assert ledger.room(Spend(31, 1), ())[0] is Room.NEVER
    assert ledger.reserve(Spend(30, 1), ()).id == 7


def test_the_error_has_the_figures() -> None:
    account = Account("run", Budget(tokens=1_000), confirmed=Spend(900, 1))
    message = str(exhausted(account, "tokens", Spend(2_000, 1)))
    assert "1,000" in message
    assert "100 left" in message
    assert "2,000" in message
