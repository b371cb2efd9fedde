"""A server that goes away: its calls wait for it, and what is in vain is seldom. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from heartloop import HeartLoop, Model, Problem, RetryPolicy, Solution, StopReason
from heartloop.backends.replicas import ReplicaSet
from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.gauges import gauges_of
from heartloop.errors import (
    BackendError,
    BackendUnreachable,
    ConnectionFailed,
    ConnectionLost,
    QuotaExceeded,
    RateLimited,
    ServerError,
)
from heartloop.types import Request
from tests.support.virtual_time import run_virtually

Script = Callable[[float], BackendError | None]

DEFAULT = RetryPolicy()


def refused() -> BackendError:
    return ConnectionFailed("refused")


def loading() -> BackendError:
    return ServerError("Loading model", status=503)


def limited() -> BackendError:
    return RateLimited("slow down", status=429)


class Server(ScriptedBackend):
    """Answers in a second, unless ``script(seconds since the first call)`` has an error to give."""

    def __init__(self, script: Script) -> None:
        self.times: list[float] = []
        self.failed = 0
        self._fault = script
        self._seconds = 1.0
        super().__init__(self._reply, latency=lambda request: self._seconds, name="m")

    def _reply(self, request: object) -> str | Exception:
        now = asyncio.get_running_loop().time()
        self.times.append(now)
        error = self._fault(now - self.times[0])
        self.failed += error is not None
        self._seconds = 1.0 if error is None else 0.01
        return "\\boxed{1}" if error is None else error


def between(begin: float, end: float, error: Callable[[], BackendError]) -> Script:
    return lambda now: error() if begin <= now < end else None


async def solved(
    backend: object, problems: int = 300, retry: RetryPolicy = DEFAULT, **of_model: object
) -> list[Solution]:
    model = Model(backend=backend, concurrency=16, **of_model)  # type: ignore[arg-type]
    async with HeartLoop(model, strategy="single_pass", retry=retry) as held:
        return await held.solve_many([Problem(f"p{n}", f"question number {n}.") for n in range(problems)])


@pytest.mark.parametrize("error", [refused, loading, limited])
@pytest.mark.parametrize("seconds", [3.0, 60.0, 600.0])
def test_an_outage_costs_no_problem_and_few_calls(error: Callable[[], BackendError], seconds: float) -> None:
    server = Server(between(5.0, 5.0 + seconds, error))
    solutions = run_virtually(solved(server))
    assert {s.stop_reason for s in solutions} == {StopReason.ROUNDS}
    # Those that were on their way, then one at a time.
    assert server.failed <= 16 + 25 + seconds / 10
    # A quarter of the outage later at most, and never more than some seconds, it is found to be back.
    back = min(t for t in server.times if t >= server.times[0] + 5.0 + seconds)
    assert back - server.times[0] - 5.0 - seconds <= min(0.3 * seconds + 1, 12)


@pytest.mark.parametrize("error", [lambda: ServerError("x", status=500), lambda: ConnectionLost("reset")])
def test_half_a_minute_in_which_everything_breaks_costs_no_problem(error: Callable[[], BackendError]) -> None:
    server = Server(between(5.0, 35.0, error))
    solutions = run_virtually(solved(server))
    assert {s.stop_reason for s in solutions} == {StopReason.ROUNDS}
    assert server.failed <= 16 + 25


def test_a_call_that_breaks_the_server_ends_after_its_tries_though_it_is_the_last() -> None:
    async def scene() -> float:
        (solution,) = await solved(Server(between(0.0, 1e9, lambda: ServerError("x", status=500))), 1)
        assert solution.stop_reason is StopReason.FAILED
        return asyncio.get_running_loop().time()

    assert run_virtually(scene()) < 30


def test_a_model_that_is_being_loaded_when_the_run_begins_is_waited_for() -> None:
    solutions = run_virtually(solved(Server(between(0.0, 120.0, loading))))
    assert {s.stop_reason for s in solutions} == {StopReason.ROUNDS}


@pytest.mark.parametrize("error", [refused, loading])
def test_a_server_that_stays_away_ends_the_run_and_no_problem(error: Callable[[], BackendError]) -> None:
    async def scene() -> float:
        server = Server(between(5.0, 1e9, error))
        with pytest.raises(BackendUnreachable, match="15 minutes"):
            await solved(server)
        return asyncio.get_running_loop().time()

    assert 900 < run_virtually(scene()) < 960


def test_a_server_that_wants_to_hear_nothing_for_hours_ends_the_run_at_once() -> None:
    async def scene() -> float:
        server = Server(between(5.0, 1e9, lambda: RateLimited("daily limit", retry_after=30_000.0)))
        with pytest.raises(QuotaExceeded, match="30,000 s"):
            await solved(server)
        return asyncio.get_running_loop().time()

    assert run_virtually(scene()) < 10


def test_whoever_looks_sees_that_nothing_leaves() -> None:
    async def scene() -> float:
        server = Server(between(5.0, 65.0, refused))
        async with HeartLoop(Model(backend=server, concurrency=16), strategy="single_pass") as held:
            work = asyncio.create_task(held.solve_many([f"question number {n}." for n in range(300)]))
            paused = 0.0
            while not work.done():
                await asyncio.sleep(1.3)
                assert held._engine is not None
                (lane,) = gauges_of(held._engine).lanes
                paused = max(paused, lane.paused)
            return paused

    assert 3 < run_virtually(scene()) <= 10


def test_whoever_does_not_want_to_wait_for_a_server_is_told_after_the_usual_tries() -> None:
    impatient = RetryPolicy(outage_patience=0.0)

    async def scene() -> float:
        solutions = await solved(Server(between(0.5, 1e9, loading)), 32, impatient)
        assert {s.stop_reason for s in solutions[16:]} == {StopReason.FAILED}
        return asyncio.get_running_loop().time()

    assert run_virtually(scene()) < 60


def test_a_call_that_the_server_dies_of_is_not_tried_for_ever_while_others_are_answered() -> None:
    async def scene() -> list[Solution]:
        def script(request: Request) -> str | Exception:
            return loading() if "number 7." in str(request.messages) else "\\boxed{1}"

        return await solved(ScriptedBackend(script, latency=0.1, name="m"), 3_000)

    solutions = run_virtually(scene())
    assert [s.problem_id for s in solutions if s.stop_reason is StopReason.FAILED] == ["p7"]


def test_single_faults_open_nothing() -> None:
    faults = [refused, loading, lambda: ConnectionLost("reset"), lambda: ServerError("x", status=500)]

    async def scene() -> float:
        calls = iter(range(10**6))

        def script(now: float) -> BackendError | None:
            number = next(calls)
            return faults[number // 8 % 4]() if number % 8 == 7 else None

        solutions = await solved(Server(script), 400, adaptive=False)
        assert all(s.stop_reason is StopReason.ROUNDS for s in solutions)
        return asyncio.get_running_loop().time()

    assert run_virtually(scene()) < 60  # 34 at 16 a second


def test_a_replica_that_is_away_while_another_serves_is_no_outage() -> None:
    async def scene() -> float:
        replicas = ReplicaSet([Server(between(5.0, 1e9, refused)), Server(lambda now: None)])
        solutions = await solved(replicas, 320, adaptive=False)
        assert all(s.stop_reason is StopReason.ROUNDS for s in solutions)
        return asyncio.get_running_loop().time()

    assert run_virtually(scene()) < 26  # 20 at 16 a second, and the wait before the second try


def test_the_rate_of_a_server_that_only_says_no_is_found() -> None:
    """Ten requests a second, in windows of one; nothing is said of when to come back."""

    async def scene() -> tuple[float, Server]:
        window = [0, 0]

        def script(now: float) -> BackendError | None:
            if int(now) != window[0]:
                window[:] = [int(now), 0]
            window[1] += 1
            return None if window[1] <= 10 else limited()

        server = Server(script)
        solutions = await solved(server, 600)
        assert all(s.stop_reason is StopReason.ROUNDS for s in solutions)
        return asyncio.get_running_loop().time(), server

    seconds, server = run_virtually(scene())
    assert seconds < 90  # 60 at the full rate
    assert server.failed < 600
