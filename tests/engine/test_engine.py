"""The engine with several arms and several models: what they share, and what they don't."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heartloop import Budget, Model, Problem, Prompts, Sampling, Solution, StopReason
from heartloop.engine.engine import Engine
from heartloop.engine.solving import Arm
from heartloop.errors import ServerError
from heartloop.journal.sqlite import SqliteJournal
from heartloop.judges import judge_from_name
from heartloop.responders.chat import ChatResponder
from heartloop.strategies import strategy_from_name
from heartloop.types import Request
from tests.loop.helpers import QUICK, boxed, exported, random_answers, run, same_text, scripted

PROBLEMS = [Problem(f"p{n}", f"Question {n}?") for n in range(5)]


def arm(strategy: str, *, name: str = "", judge: str = "majority", **settings: Any) -> Arm:
    models = settings.pop("models", {})
    return Arm(
        name or strategy,
        strategy_from_name(strategy, **settings),
        judge_from_name(judge),
        ChatResponder(),
        Prompts.default(),
        models=models,
    )


async def solve_all(engine: Engine, arms: list[Arm], problems: list[Problem] = PROBLEMS) -> list[Solution]:
    try:
        return await asyncio.gather(*(engine.solve(p, a) for p in problems for a in arms))
    finally:
        await engine.aclose()


ARMS = [
    arm("chain_of_thought"),
    arm("resample", max_rounds=3),
    arm("self_reflection", max_rounds=3),
    arm("heart", max_rounds=3, width=2, judge="synthesis"),
    arm("heart", name="neutral", max_rounds=3, rotation="neutral"),
]


def test_first_attempts_that_arms_share_are_paid_once_and_attributed_to_each(tmp_path: Path) -> None:
    async def scene(path: Path, share: bool) -> tuple[list[Solution], int]:
        backend = scripted(random_answers(2), latency=lambda r: random.random() * 0.002)
        journal = SqliteJournal.create(path, meta={})
        models = {"m": Model(backend=backend)}
        engine = Engine(models, journal=journal, share_first=share, equivalent=same_text)
        return await solve_all(engine, ARMS), len(backend.requests)

    shared, calls_shared = run(scene(tmp_path / "shared.db", True))
    apart, calls_apart = run(scene(tmp_path / "apart.db", False))
    assert shared == apart
    assert [s.calls for s in shared] == [s.calls for s in apart]
    # Five arms make the same first attempt; nothing else of them is alike.
    assert calls_apart - calls_shared == len(PROBLEMS) * (len(ARMS) - 1)
    again, _ = run(scene(tmp_path / "again.db", True))
    assert again == shared
    assert exported(tmp_path / "again.db") == exported(tmp_path / "shared.db")


def test_shared_first_attempts_survive_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    async def scene(after: int | None) -> tuple[list[Solution], int, int]:
        backend = scripted(random_answers(2), latency=0.001)
        journal = SqliteJournal.open(path) if path.exists() else SqliteJournal.create(path, meta={})
        models = {"m": Model(backend=backend)}
        engine = Engine(models, journal=journal, share_first=True, equivalent=same_text)
        work = asyncio.create_task(solve_all(engine, ARMS))
        while after is not None and len(backend.requests) < after:  # noqa: ASYNC110
            await asyncio.sleep(0)
        if after is not None:
            work.cancel()
        [outcome] = await asyncio.gather(work, return_exceptions=True)
        return outcome if isinstance(outcome, list) else [], len(backend.requests), backend.cancelled

    _, sent, cut_off = run(scene(7))
    solutions, more, _ = run(scene(None))
    path.unlink()
    undisturbed, calls, _ = run(scene(None))
    assert solutions == undisturbed
    assert calls <= sent + more <= calls + cut_off


@pytest.mark.parametrize("seed", range(8))
def test_two_models_under_one_budget_never_get_stuck(seed: int) -> None:
    """Small budgets, many failures, and calls of both models waiting for each other's reservations."""
    rng = random.Random(seed)

    def flaky(name: str) -> Callable[[Request], Any]:
        return lambda r: ServerError("x") if rng.random() < 0.4 else boxed(f"{name}{rng.randrange(3)}")

    async def scene() -> None:
        maker = scripted(flaky("g"), latency=lambda r: rng.choice([0, 0.001, 0.003]))
        writer = scripted(flaky("s"), name="writer", latency=lambda r: rng.choice([0, 0.002]))
        sampling = Sampling(max_tokens=40)
        models = {
            "m": Model(backend=maker, concurrency=rng.choice([1, 2, 8]), sampling=sampling),
            "w": Model(backend=writer, concurrency=rng.choice([1, 2]), sampling=sampling),
        }
        budget = Budget(tokens=rng.choice([1_800, 4_000, 20_000]), calls=rng.choice([None, 60]))
        engine = Engine(models, budget=budget, retry=QUICK, equivalent=same_text)
        arms = [arm("resample", max_rounds=3, judge="synthesis", models={"synthesiser": "w"})]
        work = asyncio.create_task(solve_all(engine, arms, [Problem(str(n), "q?") for n in range(20)]))
        while not work.done():
            held = engine.ledger.run.charged + engine.ledger.run.open
            assert held.tokens <= (budget.tokens or held.tokens)
            assert held.calls <= (budget.calls or held.calls)
            await asyncio.sleep(0.001)
        assert {s.stop_reason for s in await work} <= {
            StopReason.ROUNDS,
            StopReason.BUDGET,
            StopReason.FAILED,
        }
        assert engine.ledger.run.open.tokens == engine.ledger.run.open.calls == 0
        assert len(maker.requests) + len(writer.requests) == engine.ledger.run.charged.calls
        assert maker.running == writer.running == 0

    run(scene(), 10)


def test_draining_lets_calls_in_flight_finish_and_no_other_leave(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    async def scene() -> None:
        backend = scripted(lambda r: boxed(1), latency=0.03)
        journal = SqliteJournal.create(path, meta={})
        engine = Engine({"m": Model(backend=backend, concurrency=3)}, journal=journal, equivalent=same_text)
        tasks = [asyncio.create_task(engine.solve(p, arm("resample", max_rounds=3))) for p in PROBLEMS]
        while backend.running < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await engine.gateway.drain()
        assert (len(backend.requests), backend.running, backend.cancelled) == (3, 0, 0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.aclose()
        assert engine.ledger.run.confirmed.calls == 3
        assert engine.ledger.run.assumed.calls == 0

    run(scene(), 5)
    assert exported(path).count(b'"kind":"completion"') == 3
