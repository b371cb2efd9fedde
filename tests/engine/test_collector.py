"""The garbage collector is left alone, but for while problems are in work."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from heartloop import HeartLoop, Model, Problem
from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.collector import RELAXED
from heartloop.types import Request


@pytest.fixture(autouse=True)
def _threshold() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def seen_while_working(problems: int = 3) -> set[int]:
    found: set[int] = set()

    def script(request: Request) -> str:
        found.add(gc.get_threshold()[0])
        return "\\boxed{1}"

    async def scene() -> None:
        model = Model(backend=ScriptedBackend(script))
        async with HeartLoop(model, judge="oracle") as loop, HeartLoop(model, judge="oracle") as other:
            work = [Problem(str(n), "What is 1?", reference="1") for n in range(problems)]
            await asyncio.gather(loop.solve_many(work), other.solve_many(work))

    asyncio.run(scene())
    return found


def test_it_is_asked_less_often_while_problems_are_in_work_and_as_before_afterwards() -> None:
    gc.set_threshold(700, 11, 12)
    assert seen_while_working() == {RELAXED}
    assert gc.get_threshold() == (700, 11, 12)


@pytest.mark.parametrize("own", [0, RELAXED + 1, 50_000])
def test_a_setting_of_ones_own_stays(own: int) -> None:
    gc.set_threshold(own, 10, 10)
    assert seen_while_working() == {own}
    assert gc.get_threshold()[0] == own


def test_it_is_restored_after_a_failure() -> None:
    gc.set_threshold(700, 10, 10)

    def script(request: Request) -> str:
        raise RuntimeError("broken")

    async def scene() -> None:
        async with HeartLoop(Model(backend=ScriptedBackend(script)), judge="majority") as loop:
            with pytest.raises(RuntimeError, match="broken"):
                await loop.solve("What is 1?")

    asyncio.run(scene())
    assert gc.get_threshold()[0] == 700
