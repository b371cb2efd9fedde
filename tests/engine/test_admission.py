"""Who may leave, and when: the lane under tight budgets, retries, cancellation and the clock."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from asyncio_throttle import throttler

from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.dispatch import Lane, Price
from heartloop.engine.fingerprint import fingerprint
from heartloop.engine.gateway import Gateway
from heartloop.engine.ledger import Ledger
from heartloop.engine.retry import RetryPolicy
from heartloop.engine.scheduler import BreadthFirst, DepthFirst, Scheduler
from heartloop.engine.tries import Call
from heartloop.errors import (
    BackendUnreachable,
    BadRequest,
    BadResponse,
    BudgetExhausted,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    ContextOverflow,
    QuotaExceeded,
    RateLimited,
    ServerError,
)
from heartloop.journal.base import NullJournal
from heartloop.journal.records import EventKey, Record, Reserve, Settle
from heartloop.types import Budget, Completion, Message, Request, Sampling, Spend, Usage
from tests.support.virtual_time import run_virtually

T = TypeVar("T")

QUICK = RetryPolicy(attempts=4, first_wait=0.002, max_wait=0.004)
MAX_TOKENS = 10


def run(work: Coroutine[Any, Any, T], seconds: float = 10.0) -> T:
    """``asyncio.run`` that fails instead of hanging, and that finds no task left behind."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            result = await work
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


class Memory(NullJournal):
    """A journal that remembers reservations and settlements."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def write(self, *records: Record) -> None:
        self.records.extend(records)
        await asyncio.sleep(0)

    def post(self, *records: Record) -> None:
        self.records.extend(records)

    @property
    def reserved(self) -> dict[int, Reserve]:
        return {r.id: r for r in self.records if isinstance(r, Reserve)}

    @property
    def settled(self) -> dict[int, Settle]:
        return {r.id: r for r in self.records if isinstance(r, Settle)}


class World:
    """A gateway with one lane, its ledger and its journal."""

    def __init__(
        self,
        backend: ScriptedBackend,
        budget: Budget = Budget(),
        *,
        lane_budget: Budget = Budget(),
        concurrency: int = 4,
        retry: RetryPolicy = QUICK,
        scheduler: Scheduler | None = None,
        price: Price | None = None,
        requests_per_minute: float | None = None,
        attempt_timeout: float = 5.0,
    ) -> None:
        self.backend = backend
        self.ledger = Ledger(budget)
        self.journal = Memory()
        self.lane = Lane(
            backend,
            ledger=self.ledger,
            scheduler=scheduler or BreadthFirst(),
            concurrency=concurrency,
            sampling=Sampling(),
            attempt_timeout=attempt_timeout,
            account=self.ledger.account("lane", lane_budget),
            price=price,
            requests_per_minute=requests_per_minute,
        )
        self.gateway = Gateway({"m": self.lane}, ledger=self.ledger, journal=self.journal, retry=retry)
        self.lane.on_change = self.gateway.pump

    async def ask(
        self, text: str = "q", *, round: int = 1, problem: str = "p", account: Any = None
    ) -> Completion:
        request = Request("scripted", (Message("user", text),), Sampling(max_tokens=MAX_TOKENS))
        key = EventKey("a", "p", text, "completion", 0)
        accounts = () if account is None else (account,)
        return await self.gateway.complete(Call(key, request, fingerprint(request), "m", accounts, round))

    def cost(self, text: str = "q") -> int:
        """The worst case of one call, in tokens."""
        return self.backend.prompt_tokens_bound((Message("user", text),)) + MAX_TOKENS

    def check_books(self) -> None:
        """Ledger and journal agree, nothing is open, and what left is what was charged for."""
        run_account = self.ledger.run
        assert run_account.open.tokens == 0
        assert run_account.open.calls == 0
        assert self.lane.account.open.tokens == 0
        assert self.lane.limiter.running == 0
        assert self.gateway.in_flight == 0
        assert self.journal.reserved.keys() == self.journal.settled.keys()
        settled = self.journal.settled.values()
        for state, charged in (("confirmed", run_account.confirmed), ("assumed", run_account.assumed)):
            kinds = {state, "released"} if state == "confirmed" else {state}
            assert charged.tokens == sum(s.tokens for s in settled if s.state in kinds)
            assert charged.calls == sum(s.calls for s in settled if s.state in kinds)


def failing(*answers: Any) -> Callable[[Request], Any]:
    """A script that gives ``answers`` to each question in turn, then "fine"."""
    left: dict[str, list[Any]] = {}

    def script(request: Request) -> Any:
        queue = left.setdefault(str(request.messages[-1].content), list(answers))
        return queue.pop(0) if queue else "fine"

    return script


# --- deadlocks -------------------------------------------------------------------------------------


def test_a_retry_that_holds_the_whole_budget_is_not_blocked_by_calls_that_wait_for_it() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: answers[str(r.messages[-1].content)].pop(0), latency=0.002)
        answers: dict[str, list[Any]] = {"a": [ServerError("x"), "fine"], "b": ["fine"], "c": ["fine"]}
        world = World(backend, Budget(tokens=World(backend).cost("a") + 20))
        first = asyncio.create_task(world.ask("a"))
        await asyncio.sleep(0.001)
        others = [asyncio.create_task(world.ask(name)) for name in "bc"]
        assert (await first).text == "fine"
        outcomes = await asyncio.gather(*others, return_exceptions=True)
        # A fine call costs 2 tokens, so all three fit one after the other.
        assert [getattr(o, "text", o) for o in outcomes] == ["fine", "fine"]
        world.check_books()

    run(scene(), 3)


def test_sleeping_retries_that_hold_everything_wake_up_and_finish() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(failing(ServerError("x"), ServerError("x"), ServerError("x")))
        world = World(backend, Budget(tokens=3 * World(backend).cost("00")), concurrency=2)
        done = await asyncio.gather(*(world.ask(f"{n:02}") for n in range(30)))
        assert {c.text for c in done} == {"fine"}
        assert len(backend.requests) == 120
        world.check_books()

    run(scene())


def test_a_cancelled_call_no_longer_stands_in_the_way_of_smaller_ones() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def script(request: Request) -> str:
            if request.messages[-1].content == "hold":
                await gate.wait()
            return "fine"

        backend = ScriptedBackend(script)
        world = World(backend, Budget(tokens=600))
        holder = asyncio.create_task(world.ask("hold"))
        await asyncio.sleep(0.001)
        big = asyncio.create_task(world.ask("x" * 450))  # waits for the holder's reservation
        small = asyncio.create_task(world.ask("s"))
        await asyncio.sleep(0.005)
        assert not small.done()
        big.cancel()
        assert (await small).text == "fine"
        assert not holder.done()
        gate.set()
        await holder
        world.check_books()

    run(scene(), 3)


def test_one_problem_out_of_room_does_not_hold_up_the_others() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(
            lambda r: "fine", latency=lambda r: 0.05 if r.messages[-1].content == "1" else 0
        )
        world = World(backend)
        tight = world.ledger.account("problem 'tight'", Budget(tokens=world.cost("1") + 5))
        free = world.ledger.account("problem 'free'", Budget())
        first = asyncio.create_task(world.ask("1", account=tight))
        await asyncio.sleep(0.001)
        blocked = asyncio.create_task(world.ask("2", account=tight))
        assert (await world.ask("3", account=free)).text == "fine"
        assert not blocked.done()
        await asyncio.gather(first, blocked)
        world.check_books()

    run(scene(), 3)


# --- budgets ---------------------------------------------------------------------------------------


def test_a_call_waits_while_open_reservations_might_settle_low_and_ends_when_they_do_not() -> None:
    async def scene(usage: Usage) -> list[Any]:
        backend = ScriptedBackend(lambda r: Completion("fine", usage=usage), latency=0.005)
        world = World(backend, Budget(tokens=World(backend).cost() + 10))
        outcomes = await asyncio.gather(world.ask("1"), world.ask("2"), return_exceptions=True)
        world.check_books()
        return [type(o).__name__ for o in outcomes]

    assert run(scene(Usage(5, 5))) == ["Completion", "Completion"]
    assert run(scene(Usage(5, 6))) == ["Completion", "BudgetExhausted"]


@pytest.mark.parametrize("limit", ["tokens", "calls", "usd", "seconds"])
def test_every_limit_ends_waiting_calls_and_names_itself(limit: str) -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: "fine", latency=0.01)
        price = Price(1.0, 1.0)
        cost = World(backend).cost("00")
        budgets = {
            "tokens": Budget(tokens=cost * 2),
            "calls": Budget(calls=2),
            "usd": Budget(usd=cost * 2 / 1e6),
            "seconds": Budget(seconds=0.75),
        }
        world = World(backend, budgets[limit], price=price, concurrency=2)
        outcomes = await asyncio.gather(*(world.ask(f"{n:02}") for n in range(300)), return_exceptions=True)
        ended = [o for o in outcomes if isinstance(o, BudgetExhausted)]
        fine = [o for o in outcomes if isinstance(o, Completion)]
        assert len(ended) + len(fine) == 300
        assert {e.limit for e in ended} == {limit}
        assert fine
        spent = world.ledger.run.charged
        assert spent.tokens <= (budgets[limit].tokens or spent.tokens)
        assert spent.calls <= (budgets[limit].calls or spent.calls)
        assert (spent.usd or 0) <= (budgets[limit].usd or spent.usd or 0) + 1e-9
        world.check_books()

    run(scene())


def test_seconds_end_calls_that_wait_for_a_paused_model_and_retries_that_sleep() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: RateLimited("slow down", retry_after=60))
        world = World(backend, Budget(seconds=0.05), concurrency=1)
        start = asyncio.get_running_loop().time()
        outcomes = await asyncio.gather(*(world.ask(str(n)) for n in range(3)), return_exceptions=True)
        assert [type(o) for o in outcomes] == [BudgetExhausted] * 3
        assert asyncio.get_running_loop().time() - start < 2
        world.check_books()

    run(scene(), 5)


def test_seconds_of_one_problem_end_its_waiting_call_alone() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: "fine", latency=0.15)
        world = World(backend, concurrency=1)
        short = world.ledger.account("problem 'short'", Budget(seconds=0.03))
        other = asyncio.create_task(world.ask("1"))
        await asyncio.sleep(0)
        with pytest.raises(BudgetExhausted, match="short"):
            await world.ask("2", account=short)
        assert not other.done()
        await other
        world.check_books()

    run(scene(), 5)


def test_seconds_end_a_call_in_flight_and_charge_it_as_assumed() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: "fine", latency=5)
        world = World(backend, Budget(seconds=0.03))
        with pytest.raises(BudgetExhausted) as caught:
            await world.ask()
        assert caught.value.limit == "seconds"
        assert backend.cancelled == 1
        assert world.ledger.run.assumed == Spend(world.cost(), 1, None)
        world.check_books()

    run(scene(), 3)


@pytest.mark.parametrize("seed", range(12))
def test_books_balance_and_budgets_hold_whatever_goes_wrong(seed: int) -> None:
    rng = random.Random(seed)

    def script(request: Request) -> Any:
        what = rng.random()
        if what < 0.55:
            return "fine " * rng.randint(1, 20)
        if what < 0.6:
            return Completion("no usage", usage=None)
        return rng.choice(
            [
                ServerError("x"),
                ConnectionFailed("x"),
                ConnectionLost("x"),
                BadResponse("x"),
                RateLimited("x", retry_after=rng.choice([None, 0.0, 0.003])),
                BadRequest("x"),
                ContextOverflow("x"),
            ]
        )

    budget = Budget(
        tokens=rng.choice([None, 3_000, 9_000]),
        calls=rng.choice([None, 40, 150]),
        usd=rng.choice([None, 0.004]),
    )

    async def scene() -> None:
        backend = ScriptedBackend(script, latency=lambda r: rng.random() * 0.01)
        world = World(
            backend,
            budget,
            lane_budget=Budget(tokens=rng.choice([None, 6_000])),
            concurrency=rng.choice([1, 3, 16]),
            price=Price(1, 2),
            attempt_timeout=0.008 if seed % 2 else 5,
            scheduler=rng.choice([BreadthFirst(), DepthFirst()]),
        )
        world.lane.reached = True
        problems = [world.ledger.account(f"problem {n}", Budget(tokens=1_500)) for n in range(10)]
        peak = Spend()
        tasks = [
            asyncio.create_task(world.ask(f"q{n}", account=problems[n % 10], round=1 + n % 6))
            for n in range(60)
        ]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            if rng.random() < 0.1:
                rng.choice(tasks).cancel()
            for account in (world.ledger.run, world.lane.account, *problems):
                held = account.confirmed + account.assumed + account.open
                limit = account.budget
                assert limit.tokens is None or held.tokens <= limit.tokens
                assert limit.calls is None or held.calls <= limit.calls
                assert limit.usd is None or (held.usd or 0) <= limit.usd + 1e-9
            peak = max(peak, world.ledger.run.open, key=lambda s: s.tokens)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert peak.tokens > 0
        world.check_books()
        unbilled = sum(s.calls == 0 for s in world.journal.settled.values())
        failed_to_connect = sum(s.reason == "ConnectionFailed" for s in world.journal.settled.values())
        # Every request that reached the backend is charged as a call, but for those that never connected.
        charged = world.ledger.run.charged.calls
        assert len(backend.requests) - failed_to_connect <= charged <= len(backend.requests)
        assert unbilled >= failed_to_connect
        for account in problems:
            assert account.open == Spend(0, 0, account.open.usd)

    run(scene())


# --- cancellation ----------------------------------------------------------------------------------


def test_cancelling_a_call_in_flight_reaches_the_backend_and_charges_the_worst_case() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: "fine", latency=5)
        world = World(backend)
        task = asyncio.create_task(world.ask())
        await until(lambda: backend.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (backend.running, backend.cancelled) == (0, 1)
        assert world.ledger.run.assumed.tokens == world.cost()
        world.check_books()

    run(scene(), 3)


def test_cancelling_ten_thousand_waiting_calls_leaves_nothing_behind() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: "fine", latency=5)
        world = World(backend, concurrency=8)
        tasks = [asyncio.create_task(world.ask("q")) for _ in range(10_000)]
        await until(lambda: backend.running == 8)
        assert world.lane.waiting == 10_000 - 8
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(o, asyncio.CancelledError) for o in outcomes)
        assert world.lane.waiting == 0
        assert len(backend.requests) == 8
        assert world.ledger.run.assumed.calls == 8
        world.check_books()

    run(scene())


@pytest.mark.parametrize("seed", range(5))
def test_cancelling_at_any_moment_leaks_nothing(seed: int) -> None:
    rng = random.Random(seed)

    async def scene() -> None:
        backend = ScriptedBackend(
            lambda r: rng.choice(["fine", ServerError("x"), RateLimited("x", retry_after=0.001)]),
            latency=lambda r: rng.choice([0, 0, 0.001]),
        )
        world = World(backend, Budget(tokens=4 * World(backend).cost("q")), concurrency=2)
        for _ in range(25):
            tasks = [asyncio.create_task(world.ask("q")) for _ in range(6)]
            for _ in range(rng.randint(0, 12)):
                await asyncio.sleep(0)
            for task in rng.sample(tasks, 5):
                task.cancel()
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
            await asyncio.gather(*tasks, return_exceptions=True)
            assert world.ledger.run.open.tokens == 0
            assert world.lane.limiter.running == 0
            if world.ledger.run.charged.tokens > 2 * world.cost():
                world.ledger.run.assumed = world.ledger.run.confirmed = Spend()
                world.journal.records.clear()
        assert not world.lane.waiting

    run(scene())


# --- retries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [BadRequest("x"), ContextOverflow("x")])
def test_permanent_errors_are_not_tried_again(error: Exception) -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: error)
        world = World(backend)
        with pytest.raises(type(error)):
            await world.ask()
        assert len(backend.requests) == 1
        assert world.ledger.run.charged.calls == 1
        assert world.ledger.run.charged.tokens == 0
        world.check_books()

    run(scene())


def test_a_failure_is_tried_again_as_often_as_the_policy_says() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: ServerError("x"))
        world = World(backend)
        with pytest.raises(ServerError):
            await world.ask()
        assert len(backend.requests) == QUICK.attempts
        world.check_books()

    run(scene())


def test_what_may_have_been_billed_is_charged_in_full_and_tried_again() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(failing(BadResponse("x"), ConnectionLost("x")))
        world = World(backend)
        assert (await world.ask()).text == "fine"
        assert world.ledger.run.assumed.tokens == 2 * world.cost()
        assert world.ledger.run.confirmed == Spend(2, 1, None)
        world.check_books()

    run(scene())


def test_an_attempt_that_takes_too_long_is_a_timeout_charged_as_assumed() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: "fine", latency=5)
        world = World(backend, attempt_timeout=0.01, retry=RetryPolicy(attempts=2, first_wait=0.001))
        with pytest.raises(CallTimeout):
            await world.ask()
        assert backend.cancelled == 2
        assert world.ledger.run.assumed == Spend(2 * world.cost(), 2, None)
        world.check_books()

    run(scene(), 3)


def test_a_sleeping_retry_keeps_its_reservation_and_holds_no_slot() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(failing(ServerError("x", retry_after=0.08)))
        world = World(backend, Budget(calls=3), concurrency=1)
        sleeper = asyncio.create_task(world.ask("a"))
        await until(lambda: bool(backend.requests) and not backend.running)
        await asyncio.sleep(0.005)
        assert world.lane.limiter.running == 0
        assert world.ledger.run.open == Spend(world.cost("a"), 1, None)
        # One call is charged and one is held: a second question may be asked once, not twice.
        with pytest.raises(ServerError):
            await World(backend, retry=RetryPolicy(attempts=1)).ask("b")
        assert world.ledger.room(Spend(1, 2), ())[0].value == "later"
        assert (await sleeper).text == "fine"
        world.check_books()

    run(scene(), 3)


def test_retry_after_is_honoured_and_pauses_the_whole_model() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        times: list[float] = []
        answers: list[Any] = [RateLimited("x", retry_after=0.05)]

        def script(request: Request) -> Any:
            times.append(loop.time())
            return answers.pop() if answers else "fine"

        world = World(ScriptedBackend(script), concurrency=1)
        await asyncio.gather(*(world.ask(str(n)) for n in range(4)))
        assert times[1] - times[0] >= 0.049
        assert len(times) == 5
        world.check_books()

    run(scene(), 3)


def test_a_retry_after_of_zero_does_not_become_a_storm() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: RateLimited("x", retry_after=0.0))
        world = World(backend, retry=RetryPolicy(first_wait=0.02, max_wait=0.02))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await world.ask()
        assert 2 <= len(backend.requests) <= 21
        world.check_books()

    run(scene(), 3)


def test_rate_limits_are_waited_out_beyond_the_number_of_attempts_but_not_for_ever() -> None:
    async def scene() -> None:
        many = [RateLimited("x", retry_after=0.001)] * 20
        world = World(ScriptedBackend(failing(*many)), retry=RetryPolicy(attempts=2, first_wait=0.001))
        assert (await world.ask()).text == "fine"
        impatient = RetryPolicy(attempts=2, first_wait=0.001, rate_limit_patience=0.03)
        world = World(ScriptedBackend(lambda r: many[0]), retry=impatient)
        with pytest.raises(QuotaExceeded, match="nothing else"):
            await world.ask()
        world.check_books()

    run(scene(), 3)


def test_a_retry_after_longer_than_the_longest_wait_ends_the_run() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: RateLimited("x", retry_after=1e6))
        world = World(backend, retry=RetryPolicy(max_retry_after=0.01))
        with pytest.raises(QuotaExceeded, match="1,000,000 s"):
            await world.ask()
        assert len(backend.requests) == 1
        world.check_books()

    run(scene(), 3)


def test_a_server_that_never_answered_is_unreachable_at_once() -> None:
    async def scene() -> None:
        world = World(ScriptedBackend(lambda r: ConnectionFailed("refused")))
        with pytest.raises(BackendUnreachable, match="4 times"):
            await world.ask()
        assert world.ledger.run.charged.calls == 0

    run(scene())


# --- order and rate --------------------------------------------------------------------------------


def order_of(scheduler: Scheduler, rounds: list[int]) -> list[int]:
    """Rounds in the order in which they leave through one slot, all waiting at once."""

    async def scene() -> list[int]:
        backend = ScriptedBackend(lambda r: "fine")
        world = World(backend, concurrency=1, scheduler=scheduler)
        await asyncio.gather(
            world.ask("first"), *(world.ask(f"{n}/{r}", round=r) for n, r in enumerate(rounds))
        )
        return [int(str(r.messages[-1].content).split("/")[1]) for r in backend.requests[1:]]

    return run(scene())


def test_breadth_first_takes_early_rounds_first_and_depth_first_late_ones() -> None:
    rounds = [3, 1, 2, 1, 3, 2]
    assert order_of(BreadthFirst(), rounds) == [1, 1, 2, 2, 3, 3]
    assert order_of(DepthFirst(), rounds) == [3, 3, 2, 2, 1, 1]


def test_requests_per_minute_are_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    monkeypatch.setattr(throttler, "time", clock)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        times: list[float] = []

        def script(request: Request) -> Any:
            times.append(loop.time())
            return "fine" if len(times) != 2 else ServerError("x")

        world = World(ScriptedBackend(script), requests_per_minute=60 / 0.05)  # 20 a second
        start = loop.time()
        await asyncio.gather(*(world.ask(str(n)) for n in range(25)))
        assert len(times) == 26  # a retry counts
        for window, most in ((0.5, 10), (0.75, 20), (1.0, 20)):
            # Not one window, wherever it begins, holds more.
            assert max(sum(t <= other < t + window for other in times) for t in times) <= most
        assert 1.0 <= loop.time() - start < 1.1  # nor does it dawdle
        world.check_books()

    run_virtually(scene())


def test_closing_ends_those_who_wait() -> None:
    async def scene() -> None:
        backend = ScriptedBackend(lambda r: "fine", latency=0.02)
        world = World(backend, concurrency=1, requests_per_minute=600)
        tasks = [asyncio.create_task(world.ask(str(n))) for n in range(5)]
        await asyncio.sleep(0.01)
        await world.gateway.aclose()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(o, asyncio.CancelledError) for o in outcomes) == 4
        world.check_books()

    run(scene(), 3)


def test_a_broken_backend_frees_its_slot_and_is_charged() -> None:
    async def scene() -> None:
        async def script(request: Request) -> str:
            raise ZeroDivisionError

        world = World(ScriptedBackend(script), concurrency=1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await world.ask()
        assert world.ledger.run.assumed.calls == 3
        world.check_books()

    run(scene(), 3)
