"""First attempts that several arms make alike: paid once, charged to each."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from heartloop import Budget, Completion, Model, Problem, Request, Sampling, StopReason, Usage
from heartloop.backends import ScriptedBackend
from heartloop.engine.engine import Engine
from heartloop.engine.solving import Arm
from heartloop.judges import judge_from_name
from heartloop.responders.chat import ChatResponder
from heartloop.strategies import strategy_from_name
from heartloop.strategies.prompts import Prompts


async def same(a: str, b: str, kind: str) -> bool:
    return a == b


def test_paid_once_and_counted_in_full_against_each_arms_cap() -> None:
    backend = ScriptedBackend(lambda request: Completion("\\boxed{1}", usage=Usage(40, 10)))
    model = Model("m", backend=backend, sampling=Sampling(max_tokens=20))
    first = Arm(
        "resample",
        strategy_from_name("resample", max_rounds=3),
        judge_from_name("majority"),
        ChatResponder(),
        Prompts.default(),
    )
    second = replace(first, name="reflect", strategy=strategy_from_name("self_reflection", max_rounds=3))

    async def scene() -> None:
        engine = Engine(
            {"generator": model}, problem_budget=Budget(calls=2), share_first=True, equivalent=same
        )
        problem = Problem("p", "What is it?")
        solutions = [await engine.solve(problem, arm) for arm in (first, second)]
        # Two calls each, of which the first is the same one: three were sent.
        assert [(s.calls, s.stop_reason) for s in solutions] == [(2, StopReason.BUDGET)] * 2
        assert [s.usage.total_tokens for s in solutions] == [100, 100]
        assert len(backend.requests) == 3
        assert engine.ledger.run.charged.calls == 3
        await engine.aclose()

    asyncio.run(scene())


def test_requests_that_differ_are_not_shared() -> None:
    seen: list[Request] = []

    def script(request: Request) -> str:
        seen.append(request)
        return "\\boxed{1}"

    backend = ScriptedBackend(script)
    arms = [
        Arm(
            name,
            strategy_from_name(name),
            judge_from_name("majority"),
            ChatResponder(),
            Prompts.default(),
        )
        for name in ("single_pass", "chain_of_thought")
    ]

    async def scene() -> None:
        engine = Engine({"generator": Model("m", backend=backend)}, share_first=True, equivalent=same)
        for arm in arms:
            await engine.solve(Problem("p", "What is it?"), arm)
        await engine.aclose()

    asyncio.run(scene())
    assert len({request.messages for request in seen}) == len(seen) == 2
