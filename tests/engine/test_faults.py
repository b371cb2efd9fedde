"""The engine against a failing server in a process of its own: everything ends, and the books are true."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from heartloop import Budget, HeartLoop, Model, Problem, RetryPolicy, Sampling, Solution, StopReason, Verdict
from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.ledger import Ledger
from heartloop.engine.limiter import ConcurrencyLimiter
from heartloop.engine.rates import Rates
from heartloop.errors import CallTimeout, RateLimited
from heartloop.journal.reader import JournalReader
from heartloop.types import Request, Spend

SERVER = Path(__file__).parents[1] / "support" / "fault_server.py"
FIVE_FAULTS = ("500", "reset", "malformed", "truncated", "hang")
QUICK = RetryPolicy(attempts=12, first_wait=0.02, max_wait=0.3)


@contextmanager
def server(*options: object, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, str(SERVER), "--port", str(port), *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline().split()[1])
    finally:
        process.kill()
        process.wait()


async def same_text(a: str, b: str, kind: str) -> bool:
    return a == b


async def by_text(problem: Problem, answer: str | None) -> Verdict:
    return Verdict(answer == problem.reference, "text")


def loop(port: int, journal: Path, name: str = "test-model", **of_model: object) -> HeartLoop:
    model = Model(
        name,
        base_url=f"http://127.0.0.1:{port}/v1",
        sampling=Sampling(max_tokens=60),
        **of_model,  # type: ignore[arg-type]
    )
    return HeartLoop(
        model,
        strategy="resample",
        judge="oracle",
        max_rounds=3,
        journal=journal,
        retry=QUICK,
        verify=by_text,
        equivalent=same_text,
    )


def sums(count: int) -> list[Problem]:
    return [Problem(f"p{n}", f"What is {n} + {n}?", reference=str(2 * n)) for n in range(count)]


def logged(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_against_server(journal: Path, log: Path) -> None:
    """What the server saw is what the ledger says, to the call; its tokens lie within the ledger's."""
    events = logged(log)
    arrived = sum(event["event"] == "arrived" for event in events)
    tokens = sum(int(str(event.get("tokens", 0))) for event in events if event["event"] != "arrived")
    with JournalReader(journal) as reader:
        totals = reader.charges()
    assert totals.open.calls == 0
    assert totals.confirmed.calls + totals.assumed.calls + totals.released.calls == arrived
    assert totals.confirmed.tokens <= tokens <= totals.confirmed.tokens + totals.assumed.tokens


@pytest.mark.parametrize(
    ("name", "hedge"), [("test-model", False), ("test-model", True), ("vllm/test-model", False)]
)
def test_five_kinds_of_faults_and_limits_end_no_problem_and_no_account(
    tmp_path: Path, name: str, hedge: bool
) -> None:
    log, journal = tmp_path / "log.jsonl", tmp_path / "j.sqlite"
    rates = [part for fault in FIVE_FAULTS for part in ("--rate", f"{fault}=0.05")]
    limits = ("--rpm", 6_000, "--tpm", 120_000)

    # Importing it can take longer than these tries may: they would be charged, and the server never see them.
    importlib.import_module("openai")

    async def scene(port: int) -> list[Solution]:
        async with asyncio.timeout(50):
            async with loop(port, journal, name, concurrency=32, attempt_timeout=1.5, hedge=hedge) as held:
                return await held.solve_many(sums(120))

    with server(*rates, *limits, "--delay-ms", 5, 40, "--wrong", 0.3, "--log", log) as (_, port):
        solutions = asyncio.run(scene(port))
    assert [s.error for s in solutions if s.stop_reason is StopReason.FAILED] == []
    assert len(solutions) == 120
    seen = {str(event["fault"]) for event in logged(log)}
    assert {*FIVE_FAULTS, "429", "ok"} <= seen
    check_against_server(journal, log)


def test_limits_that_are_known_are_kept_to(tmp_path: Path) -> None:
    log, journal = tmp_path / "log.jsonl", tmp_path / "j.sqlite"

    async def scene(port: int) -> list[Solution]:
        async with loop(
            port, journal, concurrency=64, requests_per_minute=3_000, tokens_per_minute=60_000
        ) as held:
            return await held.solve_many(sums(150))

    with server("--rpm", 3_300, "--tpm", 66_000, "--delay-ms", 5, 20, "--log", log) as (_, port):
        start = time.monotonic()
        solutions = asyncio.run(scene(port))
        seconds = time.monotonic() - start
    assert all(s.stop_reason is StopReason.VERIFIED for s in solutions)
    events = [event for event in logged(log) if event["event"] == "arrived"]
    assert sum(event["fault"] == "429" for event in events) <= 0.1 * len(events)
    assert seconds < 20
    check_against_server(journal, log)


def test_a_server_that_is_killed_and_comes_back_costs_no_problem(tmp_path: Path) -> None:
    journal = tmp_path / "j.sqlite"
    logs = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]

    async def scene(first: subprocess.Popen[str], port: int) -> list[Solution]:
        async with asyncio.timeout(40):
            async with loop(port, journal, concurrency=16) as held:
                work = asyncio.create_task(held.solve_many(sums(100)))
                while not logs[0].exists() or len(logged(logs[0])) < 60:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                os.kill(first.pid, signal.SIGKILL)
                await asyncio.to_thread(first.wait)
                await asyncio.sleep(0.3)
                with server("--delay-ms", 5, 40, "--log", logs[1], port=port):
                    return await work

    with server("--delay-ms", 5, 40, "--log", logs[0]) as (first, port):
        solutions = asyncio.run(scene(first, port))
    assert all(s.stop_reason is StopReason.VERIFIED for s in solutions)
    arrived = sum(event["event"] == "arrived" for log in logs for event in logged(log))
    with JournalReader(journal) as reader:
        totals = reader.charges()
    charged = totals.confirmed.calls + totals.assumed.calls + totals.released.calls
    # What the dead server had in its socket, unread, is charged and was never seen.
    assert arrived <= charged <= arrived + 16
    assert totals.open.calls == 0


def test_ten_thousand_waiting_calls_are_cancelled_at_once(tmp_path: Path) -> None:
    log, journal = tmp_path / "log.jsonl", tmp_path / "j.sqlite"

    async def scene(port: int) -> float:
        model = Model("test-model", base_url=f"http://127.0.0.1:{port}/v1", concurrency=8)
        held = HeartLoop(
            model,
            strategy="single_pass",
            journal=journal,
            active=10_000,
            verify=by_text,
            equivalent=same_text,
        )
        async with asyncio.timeout(50), held:
            work = asyncio.create_task(held.solve_many(sums(10_000)))
            while not log.exists() or len(logged(log)) < 8:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert held._engine is not None
            lane = held._engine.gateway.lane("generator")
            while lane.waiting < 10_000 - 8:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            start = time.monotonic()
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert lane.waiting == lane.limiter.running == 0
            return time.monotonic() - start

    with server("--rate", "hang=1", "--log", log) as (_, port):
        assert asyncio.run(scene(port)) < 15
        deadline = time.monotonic() + 5
        while sum(e["event"] == "cancelled" for e in logged(log)) < 8 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert sum(event["event"] == "cancelled" for event in logged(log)) == 8
    check_against_server(journal, log)


async def most_allowed(limiter: ConcurrencyLimiter, work: asyncio.Task[list[Solution]]) -> int:
    """The most calls at once that were allowed while ``work`` went on."""
    most = 0
    while not work.done():
        most = max(most, limiter.allowed)
        await asyncio.sleep(0.002)
    return most


def test_a_storm_of_429s_is_survived_and_speed_comes_back() -> None:
    async def scene() -> None:
        storm = True

        def script(request: Request) -> str | Exception:
            return RateLimited("slow down", retry_after=0.02) if storm else "\\boxed{1}"

        backend = ScriptedBackend(script, latency=0.002)
        held = HeartLoop(Model(backend=backend, concurrency=32), strategy="single_pass", active=400)
        async with asyncio.timeout(30), held:
            work = asyncio.create_task(held.solve_many([f"question {n}" for n in range(3_000)]))
            await asyncio.sleep(0.01)
            assert held._engine is not None
            limiter = held._engine.gateway.lane("generator").limiter
            while limiter.allowed > 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            storm = False
            assert await most_allowed(limiter, work) >= 16
            assert all(s.stop_reason is StopReason.ROUNDS for s in work.result())

    asyncio.run(scene())


def test_a_clock_that_goes_backwards_stops_nothing_and_gives_nothing_away() -> None:
    now = [1_000.0]

    def clock() -> float:
        return now[0]

    ledger = Ledger(Budget(seconds=60, tokens=1_000), clock=clock)
    limiter = ConcurrencyLimiter(4, adaptive=True, clock=clock)
    rates = Rates(60_000, clock=clock)
    limiter.pause(5)
    now[0] -= 3_600
    assert ledger.run.elapsed == 0
    assert ledger.room(Spend(10, 1), ())[0].value == "now"
    assert rates.wait(10) == 0
    rates.take(5_000)
    assert 0 < rates.wait(10) < 10
    now[0] += 3_600 + 6
    assert limiter.has_room()
    assert rates.wait(10) == 0
    limiter.acquire()
    limiter.answered(-5.0, limiter.sent)
    limiter.release()
    assert limiter.has_room()


def test_a_deaf_server_lowers_concurrency_and_a_healed_one_raises_it() -> None:
    async def scene() -> None:
        deaf = True

        def script(request: Request) -> str | Exception:
            return CallTimeout("nothing") if deaf else "\\boxed{1}"

        backend = ScriptedBackend(script, latency=0.002)
        retry = RetryPolicy(attempts=500, first_wait=0.005, max_wait=0.01)
        held = HeartLoop(
            Model(backend=backend, concurrency=32), strategy="single_pass", active=200, retry=retry
        )
        async with asyncio.timeout(30), held:
            work = asyncio.create_task(held.solve_many([f"question {n}" for n in range(3_000)]))
            await asyncio.sleep(0.01)
            assert held._engine is not None
            limiter = held._engine.gateway.lane("generator").limiter
            while limiter.allowed > 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            deaf = False
            assert await most_allowed(limiter, work) >= 16

    asyncio.run(scene())
