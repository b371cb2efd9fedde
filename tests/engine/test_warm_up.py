"""What a backend needs before its first call is no part of that call."""

from __future__ import annotations

import asyncio

from heartloop import HeartLoop, Model, RetryPolicy, StopReason
from heartloop.backends import ScriptedBackend
from heartloop.types import Request


class Slow(ScriptedBackend):
    """Takes longer to get ready than a call may."""

    warmed = 0

    async def warm_up(self) -> None:
        await asyncio.sleep(0.3)
        self.warmed += 1


def test_getting_ready_happens_once_and_counts_against_no_time_limit() -> None:
    def script(request: Request) -> str:
        return "\\boxed{1}"

    async def scene() -> None:
        backend = Slow(script)
        model = Model(backend=backend, attempt_timeout=0.2)
        async with HeartLoop(model, strategy="single_pass", retry=RetryPolicy(attempts=1)) as loop:
            solutions = await loop.solve_many(["one?", "two?", "three?"])
        assert [s.stop_reason for s in solutions] == [StopReason.ROUNDS] * 3
        assert backend.warmed == 1

    asyncio.run(scene())
