"""Budgets end to end: used up to the last call, changed while a run works, and kept across processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from heartloop import Budget, Completion, HeartLoop, Model, Problem, Sampling, StopReason, Usage
from heartloop.backends.scripted import ScriptedBackend
from heartloop.errors import UsageError
from heartloop.types import Request

WORST = 300


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
