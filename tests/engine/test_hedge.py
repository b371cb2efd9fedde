"""Hedging through the gateway: when a second try is sent, whose answer counts, and what is charged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.dispatch import Lane
from heartloop.engine.fingerprint import fingerprint
from heartloop.engine.gateway import Gateway
from heartloop.engine.hedge import HedgePolicy, quantile_of
from heartloop.engine.ledger import Ledger
from heartloop.engine.retry import RetryPolicy
from heartloop.engine.scheduler import BreadthFirst
from heartloop.engine.tries import Call
from heartloop.errors import BadRequest, ServerError, UsageError
from heartloop.journal.base import NullJournal
from heartloop.journal.records import Event, EventKey, Record, Reserve, Settle
from heartloop.types import Budget, Completion, Message, Request, Sampling, Usage
from tests.support.virtual_time import run_virtually

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], seconds: float = 10.0) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            result = await work
        await asyncio.sleep(0.01)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    return run_virtually(bounded())


class Memory(NullJournal):
    def __init__(self) -> None:
        self.records: list[Record] = []

    async def write(self, *records: Record) -> None:
        self.records.extend(records)
        await asyncio.sleep(0)

    def post(self, *records: Record) -> None:
        self.records.extend(records)

    def of(self, kind: type[T]) -> list[T]:
        return [record for record in self.records if isinstance(record, kind)]


class World:
    """A gateway with one hedged lane. ``slow(text, try)`` gives the seconds, or the failure, of each try."""

    def __init__(
        self,
        slow: Callable[[str, int], Any],
        *,
        budget: Budget = Budget(),
        concurrency: int = 200,
        policy: HedgePolicy | None = None,
        queue: tuple[int, int] | None = None,
    ) -> None:
        self.tries: dict[str, int] = {}

        seconds = [0.0]

        def script(request: Request) -> Completion | Exception:
            text = str(request.messages[-1].content)
            number = self.tries[text] = self.tries.get(text, 0) + 1
            found = slow(text, number)
            if isinstance(found, Exception):
                seconds[0] = 0.0
                return found
            seconds[0] = found
            return Completion(f"try {number}", usage=Usage(3, 2))

        self.backend = ScriptedBackend(script, latency=lambda request: seconds[0])
        if queue is not None:
            self.backend.queue = lambda: queue  # type: ignore[attr-defined]
        self.ledger, self.journal = Ledger(budget), Memory()
        self.lane = Lane(
            self.backend,
            ledger=self.ledger,
            scheduler=BreadthFirst(),
            concurrency=concurrency,
            sampling=Sampling(),
            attempt_timeout=5.0,
            account=self.ledger.account("lane", Budget()),
            hedge=policy or HedgePolicy(share=0.5),
        )
        retry = RetryPolicy(attempts=3, first_wait=0.002, max_wait=0.004)
        self.gateway = Gateway({"m": self.lane}, ledger=self.ledger, journal=self.journal, retry=retry)
        self.lane.on_change = self.gateway.pump

    async def ask(self, text: str) -> Completion:
        request = Request("scripted", (Message("user", text),), Sampling(max_tokens=10))
        key = EventKey("a", "p", text, "completion", 0)
        return await self.gateway.complete(Call(key, request, fingerprint(request), "m", ()))

    async def warm_up(self, calls: int = 40) -> None:
        await asyncio.gather(*(self.ask(f"w{n}") for n in range(calls)))

    def settled(self, text: str, state: str) -> list[Settle]:
        """Settlements of the tries of one question."""
        ids = {r.id for r in self.journal.of(Reserve) if r.key.branch == text}
        return [s for s in self.journal.of(Settle) if s.id in ids and s.state == state]

    @property
    def hedges(self) -> int:
        assert self.lane.hedger is not None
        return self.lane.hedger.hedges

    async def close(self) -> None:
        await self.gateway.aclose()
        self.check_books()

    def check_books(self) -> None:
        run_account = self.ledger.run
        assert run_account.open.tokens == run_account.open.calls == 0
        assert self.lane.limiter.running == self.gateway.in_flight == 0
        reserved = {r.id for r in self.journal.of(Reserve)}
        settled = {s.id: s for s in self.journal.of(Settle)}
        assert reserved == settled.keys()
        assert len(settled) == len(self.journal.of(Settle))
        assert sum(s.calls for s in settled.values()) == len(self.backend.requests)
        assert run_account.confirmed.tokens == sum(
            s.tokens for s in settled.values() if s.state == "confirmed"
        )
        assert run_account.assumed.tokens == sum(s.tokens for s in settled.values() if s.state == "assumed")
        assert run_account.charged.calls == len(self.backend.requests)


def quick_but(**slow: float) -> Callable[[str, int], float]:
    """Every first try takes 10 ms, but for those named; every second one 10 ms."""
    return lambda text, number: slow.get(text, 0.01) if number == 1 else 0.01


def test_a_straggler_is_sent_again_and_the_second_answer_counts() -> None:
    async def scene() -> None:
        world = World(quick_but(late=4.0))
        await world.warm_up()
        start = asyncio.get_running_loop().time()
        assert (await world.ask("late")).text == "try 2"
        assert asyncio.get_running_loop().time() - start < 1
        assert world.backend.cancelled >= 1  # at the server as well
        assert [s.tokens for s in world.settled("late", "assumed")] == [
            world.backend.prompt_tokens_bound((Message("user", "late"),)) + 10
        ]
        events = [e for e in world.journal.of(Event) if e.key.branch == "late"]
        assert [e.data["completion"]["text"] for e in events] == ["try 2"]
        await world.close()

    run(scene())


def test_a_hedge_that_is_slower_is_cancelled_and_charged() -> None:
    async def scene() -> None:
        world = World(lambda text, number: 0.01 if text != "late" else (0.2 if number == 1 else 4.0))
        await world.warm_up()
        assert (await world.ask("late")).text == "try 1"
        await asyncio.sleep(0.005)
        assert world.backend.running == 0
        assert [s.reason for s in world.settled("late", "assumed")] == ["Hedge"]
        await world.close()

    run(scene())


def test_a_hedge_saves_a_call_whose_first_try_fails_and_a_failed_hedge_harms_none() -> None:
    async def scene() -> None:
        def slow(text: str, number: int) -> Any:
            if text == "saved":
                return 0.15 if number == 2 else 0.1
            if text == "harmed" and number == 2:
                return BadRequest("no")
            return 0.1 if text == "harmed" else 0.01

        world = World(slow)
        await world.warm_up()
        original = world.backend.complete

        async def fails_late(request: Request) -> Completion:
            answer = await original(request)
            if request.messages[-1].content == "saved" and answer.text == "try 1":
                raise ServerError("late")
            return answer

        world.backend.complete = fails_late  # type: ignore[method-assign]
        assert (await world.ask("saved")).text == "try 2"
        assert (await world.ask("harmed")).text == "try 1"
        assert world.tries["saved"] == world.tries["harmed"] == 2
        await world.close()

    run(scene())


def test_nothing_is_hedged_before_enough_is_known_nor_beyond_the_share() -> None:
    async def scene() -> None:
        world = World(quick_but(late=0.1), policy=HedgePolicy(samples=50))
        await world.warm_up()
        assert (await world.ask("late")).text == "try 1"
        assert world.hedges == 0
        await world.close()
        world = World(lambda text, number: 0.01 if text[0] == "w" else 0.1, policy=HedgePolicy(share=0.1))
        await world.warm_up(60)
        await asyncio.gather(*(world.ask(f"late{n}") for n in range(40)))
        assert 1 <= world.hedges <= 10
        await world.close()

    run(scene())


@pytest.mark.parametrize("where", ["lane", "server", "budget"])
def test_nothing_is_hedged_where_it_would_be_in_the_way(where: str) -> None:
    async def scene() -> None:
        world = World(
            quick_but(late=0.2, hold=0.2),
            concurrency=2 if where == "lane" else 50,
            queue=(5, 3) if where == "server" else None,
        )
        await world.warm_up()
        calls = [asyncio.create_task(world.ask("late"))]
        if where == "lane":
            await asyncio.sleep(0)
            calls += [asyncio.create_task(world.ask("hold")), asyncio.create_task(world.ask("waits"))]
        if where == "budget":
            await asyncio.sleep(0.005)
            world.ledger.run.budget = Budget(calls=world.ledger.run.charged.calls + 1)
        assert (await calls[0]).text == "try 1"
        await asyncio.gather(*calls)
        assert world.tries["late"] == 1
        world.ledger.run.budget = Budget()
        await world.close()

    run(scene())


def test_a_wave_of_equals_is_not_taken_for_stragglers() -> None:
    async def scene() -> None:
        rng = random.Random(3)
        times = {f"q{n}": 0.05 + 0.3 * rng.random() for n in range(150)}
        world = World(lambda text, number: times[text], policy=HedgePolicy(share=1.0))
        await asyncio.gather(*map(world.ask, times))
        assert 1 <= world.hedges <= 40  # the last few, not all but the first few
        await world.close()

    run(scene())


def test_cancelling_a_hedged_call_cancels_both_tries() -> None:
    async def scene() -> None:
        world = World(lambda text, number: 0.01 if text != "late" else 4.0)
        await world.warm_up()
        task = asyncio.create_task(world.ask("late"))
        while world.tries.get("late", 0) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.005)
        assert world.backend.running == 0
        assert len(world.settled("late", "assumed")) == 2
        await world.close()

    run(scene())


@pytest.mark.parametrize("seed", range(4))
def test_books_balance_whatever_races(seed: int) -> None:
    rng = random.Random(seed)

    def slow(text: str, number: int) -> Any:
        if rng.random() < 0.05:
            return ServerError("x")
        return rng.choice([0.0, 0.002, 0.002, 0.004, 0.004, 0.03])

    async def scene() -> None:
        world = World(slow, concurrency=40, policy=HedgePolicy(quantile=0.7, share=0.5))
        tasks = [asyncio.create_task(world.ask(f"q{n}")) for n in range(400)]
        await asyncio.sleep(0.02)
        for task in rng.sample(tasks, 20):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert world.hedges > 0
        await world.close()

    run(scene())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.001, 100), min_size=20, max_size=80), st.sampled_from([0.5, 0.9, 0.95]))
def test_a_quantile_of_ended_calls_is_the_plain_one(times: list[float], quantile: float) -> None:
    found = quantile_of([(seconds, True) for seconds in times], quantile)
    assert found is not None
    assert sum(t <= found for t in times) >= quantile * len(times) - 1e-6
    assert sum(t < found for t in times) <= quantile * len(times) + 1e-6


def test_calls_still_in_flight_make_the_quantile_later_or_unknown() -> None:
    ended = [(float(n), True) for n in range(1, 21)]
    assert quantile_of(ended, 0.9) == 18
    assert quantile_of([*ended, *[(5.0, False)] * 20], 0.9) == 19
    assert quantile_of([*ended, *[(30.0, False)] * 20], 0.9) is None


@pytest.mark.parametrize("bad", [{"quantile": 1.0}, {"share": 0.0}, {"samples": 0}])
def test_a_policy_that_cannot_work_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        HedgePolicy(**bad)


def test_a_hedge_that_finds_no_slot_is_not_the_calls_last_chance() -> None:
    """A server hangs with half of the slots; each of its calls is hedged as others' slots come free."""

    async def scene() -> None:
        def slow(text: str, number: int) -> float:
            return 10_000.0 if int(text) % 8 == 0 and number == 1 else 0.2 + int(text) * 37 % 101 * 0.001

        world = World(slow, concurrency=32, policy=HedgePolicy(quantile=0.8, share=0.5))
        for begin in range(0, 512, 128):  # each time the queue runs empty while 16 calls hang
            await asyncio.gather(*(world.ask(str(n)) for n in range(begin, begin + 128)))
        assert asyncio.get_running_loop().time() < 10  # the hung calls by themselves take 5 s each time
        world.check_books()

    run(scene(), 50_000)
