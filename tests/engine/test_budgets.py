"""Budgets end to end: used up to the last call, changed while a run works, and kept across processes."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from heartloop import Budget, Completion, HeartLoop, Model, Problem, Sampling, Solution, StopReason, Usage
from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.engine import Engine
from heartloop.engine.ledger import Ledger
from heartloop.engine.solving import Arm
from heartloop.errors import ServerError, UsageError
from heartloop.judges import judge_from_name
from heartloop.responders.chat import ChatResponder
from heartloop.strategies import strategy_from_name
from heartloop.strategies.prompts import Prompts
from heartloop.types import Request
from tests.support.virtual_time import run_virtually

WORST = 300
ARM = Arm(
    "main",
    strategy_from_name("single_pass"),
    judge_from_name("majority"),
    ChatResponder(),
    Prompts.default(),
)


class Backend(ScriptedBackend):
    """Prompts of at most 100 tokens; with 200 of ``max_tokens``, a worst case of 300."""

    def prompt_tokens_bound(self, messages: object) -> int:
        return 100


def answer(request: Request) -> Completion:
    length = len(str(request.messages[-1].content)) * 7 % 150
    return Completion("\\boxed{1}", usage=Usage(40, length))


def loop(backend: ScriptedBackend, **settings: object) -> HeartLoop:
    model = Model(backend=backend, concurrency=32, sampling=Sampling(max_tokens=200))
    return HeartLoop(model, strategy="single_pass", judge="majority", **settings)  # type: ignore[arg-type]


def questions(count: int) -> list[Problem]:
    return [Problem(str(n), f"question {'x' * (n % 37)}") for n in range(count)]


@pytest.mark.parametrize("calls", [100, 400])
def test_nearly_all_of_a_token_budget_is_used_while_work_remains(calls: int) -> None:
    async def scene() -> None:
        backend = Backend(answer, latency=0.001)
        async with loop(backend, budget=Budget(tokens=calls * WORST)) as held:
            solutions = await held.solve_many(questions(calls * 8))
            assert held._engine is not None
            used = held._engine.ledger.run.charged.tokens
        assert any(s.stop_reason is StopReason.BUDGET for s in solutions)
        assert 0.97 * calls * WORST <= used <= calls * WORST

    asyncio.run(scene())


def test_a_raised_budget_lets_those_who_wait_go_on() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def script(request: Request) -> Completion:
            await gate.wait()
            return answer(request)

        backend = Backend(script)
        async with loop(backend, budget=Budget(calls=2)) as held:
            work = asyncio.create_task(held.solve_many(questions(6)))
            while backend.running < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            held.set_budget(Budget(calls=5))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert backend.running == 5
            gate.set()
            solutions = await work
        assert sum(s.stop_reason is StopReason.BUDGET for s in solutions) == 1

    asyncio.run(scene())


def test_a_lowered_budget_ends_those_who_wait_and_none_in_flight() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def script(request: Request) -> Completion:
            await gate.wait()
            return answer(request)

        backend = Backend(script)
        model = Model(backend=backend, concurrency=3, sampling=Sampling(max_tokens=200))
        async with HeartLoop(model, strategy="single_pass", active=10) as held:
            work = asyncio.create_task(held.solve_many(questions(10)))
            while backend.running < 3:  # noqa: ASYNC110
                await asyncio.sleep(0)
            held.set_budget(Budget(calls=3))
            gate.set()
            solutions = await work
        assert sum(s.stop_reason is StopReason.BUDGET for s in solutions) == 7
        assert len(backend.requests) == 3

    asyncio.run(scene())


def test_lowered_seconds_end_those_who_wait() -> None:
    async def scene() -> None:
        backend = Backend(answer, latency=0.3)
        model = Model(backend=backend, concurrency=1, sampling=Sampling(max_tokens=200))
        async with HeartLoop(model, strategy="single_pass", active=5, budget=Budget(seconds=60)) as held:
            work = asyncio.create_task(held.solve_many(questions(5)))
            while not backend.running:  # noqa: ASYNC110
                await asyncio.sleep(0)
            held.set_budget(Budget(seconds=0.1))
            async with asyncio.timeout(5):
                solutions = await work
        assert sum(s.stop_reason is StopReason.BUDGET for s in solutions) >= 4

    asyncio.run(scene())


def test_calls_in_flight_end_with_the_seconds_as_they_are_now() -> None:
    async def scene(change: Budget, latency: float) -> tuple[Solution, ScriptedBackend, Ledger, float]:
        clock = asyncio.get_running_loop().time
        backend = Backend(answer, latency=latency)
        model = Model(backend=backend, sampling=Sampling(max_tokens=200))
        ledger = Ledger(Budget(seconds=10), clock=clock)
        engine = Engine({"generator": model}, ledger=ledger)
        work = asyncio.create_task(engine.solve(Problem("p", "question"), ARM))
        await asyncio.sleep(5)
        engine.set_budget(change)
        solution = await work
        return solution, backend, ledger, clock()

    raised, backend, ledger, at = run_virtually(scene(Budget(seconds=100), 30.0))
    assert (raised.stop_reason, at) == (StopReason.ROUNDS, pytest.approx(30.0))
    assert len(backend.requests) == 1  # it was not cut at ten seconds, paid for, and asked again
    assert ledger.run.assumed.calls == 0

    lowered, backend, ledger, at = run_virtually(scene(Budget(seconds=7), 30.0))
    assert (lowered.stop_reason, at) == (StopReason.BUDGET, pytest.approx(7.0, abs=0.01))
    assert ledger.run.assumed.calls == 1

    passed, backend, ledger, at = run_virtually(scene(Budget(seconds=2), 30.0))
    assert (passed.stop_reason, at) == (StopReason.BUDGET, pytest.approx(5.0, abs=0.01))


@pytest.mark.parametrize(("change", "at"), [(Budget(seconds=7), 7.0), (Budget(seconds=900), 200.0)])
def test_a_retry_sleeps_as_long_as_the_seconds_now_allow(change: Budget, at: float) -> None:
    async def scene() -> float:
        clock = asyncio.get_running_loop().time
        backend = Backend([ServerError("down", retry_after=200.0), Completion("\\boxed{1}")])
        engine = Engine(
            {"generator": Model(backend=backend)}, ledger=Ledger(Budget(seconds=100), clock=clock)
        )
        work = asyncio.create_task(engine.solve(Problem("p", "question"), ARM))
        await asyncio.sleep(5)
        engine.set_budget(change)
        await work
        return clock()

    assert at <= run_virtually(scene()) <= 1.1 * at + 0.01


def test_whose_seconds_have_passed_is_said() -> None:
    async def scene() -> Solution:
        clock = asyncio.get_running_loop().time
        model = Model("m", backend=Backend(answer, latency=30.0), budget=Budget(seconds=4))
        engine = Engine({"generator": model}, ledger=Ledger(Budget(seconds=100), clock=clock))
        account = engine.gateway.lane("generator").account
        account.clock, account.opened = clock, 0.0
        return await engine.solve(Problem("p", "question"), ARM)

    assert run_virtually(scene()).error == "the model 'generator''s budget of 4 seconds has passed"


def test_limits_hold_over_several_event_loops_without_a_journal() -> None:
    backend = Backend(answer)
    model = Model(backend=backend, concurrency=1, sampling=Sampling(max_tokens=200), budget=Budget(calls=3))
    held = HeartLoop(model, strategy="single_pass", budget=Budget(calls=2))
    reasons = [asyncio.run(held.solve_many([f"question {n}"]))[0].stop_reason for n in range(3)]
    assert reasons == [StopReason.ROUNDS, StopReason.ROUNDS, StopReason.BUDGET]
    held.set_budget(Budget(calls=10))
    reasons = [asyncio.run(held.solve_many([f"question {n}"]))[0].stop_reason for n in range(2)]
    assert reasons == [StopReason.ROUNDS, StopReason.BUDGET]  # the model's own limit
    assert len(backend.requests) == 3


def test_beside_sync_calls_limits_are_changed_from_any_thread() -> None:
    backend = Backend(answer, latency=0.2)
    model = Model(backend=backend, concurrency=2, sampling=Sampling(max_tokens=200))
    with HeartLoop(model, strategy="single_pass", budget=Budget(calls=2)) as held:
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(held.solve_many_sync, questions(6))
            while backend.running < 2:
                time.sleep(0.001)
            held.set_budget(Budget(calls=5, seconds=60))
            solutions = work.result(timeout=10)
        assert sum(s.stop_reason is StopReason.BUDGET for s in solutions) == 1


def test_dollars_without_a_price_are_refused_live_too() -> None:
    async def scene() -> None:
        async with loop(Backend(answer)) as held:
            await held.solve("What is 1 + 1?")
            with pytest.raises(UsageError, match="price"):
                held.set_budget(Budget(usd=1.0))

    asyncio.run(scene())


def test_a_models_own_budget_counts_what_earlier_processes_spent(tmp_path: Path) -> None:
    async def scene(questions: list[Problem]) -> list[StopReason]:
        backend = Backend(answer, name="served-name")
        model = Model(
            backend=backend, concurrency=1, sampling=Sampling(max_tokens=200), budget=Budget(calls=3)
        )
        async with HeartLoop(model, strategy="single_pass", journal=tmp_path / "j.sqlite") as held:
            return [s.stop_reason for s in await held.solve_many(questions)]

    both = questions(4)
    assert asyncio.run(scene(both[:2])) == [StopReason.ROUNDS] * 2
    assert sorted(reason.value for reason in asyncio.run(scene(both[2:]))) == ["budget", "rounds"]
