"""Several servers as one backend: who gets a call, who is taken out, and that nothing is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from heartloop import HeartLoop, Problem, RetryPolicy, errors
from heartloop.backends import Backend, OpenAIBackend, ReplicaSet, ScriptedBackend, VllmBackend, make_backend
from heartloop.backends.vllm_metrics import VllmMetrics
from heartloop.types import Completion, Message, Request, Sampling, Solution, Verdict
from tests.support import fault_server
from tests.support.loopback import Handler, listening
from tests.support.simulated_vllm import SimulatedVllm
from tests.support.virtual_time import run_virtually

T = TypeVar("T")


def ask(text: str = "Hi", n: int = 0) -> Request:
    return Request("m", (Message("user", text),), Sampling(max_tokens=8, seed=n))


class Server:
    """A replica that does what it is told: ``mood`` is an error to raise, or None."""

    real, max_concurrency, context_tokens = False, None, None

    def __init__(
        self, name: str = "m", mood: errors.BackendError | None = None, seconds: float = 0.1
    ) -> None:
        self.name, self.mood, self.seconds = name, mood, seconds
        self.calls = self.probes = self.running = 0
        self.closed = False

    async def complete(self, request: Request) -> Completion:
        self.calls += 1
        self.running += 1
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        if self.mood is not None:
            raise self.mood
        return Completion("fine")

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return 100

    async def aclose(self) -> None:
        self.closed = True


class Probed(Server):
    async def probe(self) -> None:
        self.probes += 1
        if self.mood is not None:
            raise self.mood


def on(work: Callable[[ReplicaSet], Coroutine[Any, Any, T]], *servers: Any, **options: Any) -> T:
    """``work`` on virtual time; no task is left behind."""

    async def main() -> T:
        replicas = ReplicaSet(servers, clock=asyncio.get_running_loop().time, **options)
        try:
            return await work(replicas)
        finally:
            await replicas.aclose()
            await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert {task.get_coro().__qualname__ for task in left} <= {"run_virtually.<locals>.bounded"}, left  # type: ignore[union-attr]

    return run_virtually(main(), at_most=10_000)


async def tried(replicas: ReplicaSet, request: Request, times: int = 10) -> Completion:
    """As the gateway does it: the same request again while the error is retryable."""
    for _ in range(times - 1):
        try:
            return await replicas.complete(request)
        except errors.RetryableError:
            await asyncio.sleep(0.05)
    return await replicas.complete(request)


# --- what it is ------------------------------------------------------------------------------------------


def test_it_is_a_backend_made_of_backends() -> None:
    scripted = [
        ScriptedBackend(lambda r: "x", name="m", max_concurrency=n, context_tokens=n * 100) for n in (2, 3)
    ]
    replicas = ReplicaSet(scripted)
    assert isinstance(replicas, Backend)
    assert (replicas.name, replicas.real, replicas.max_concurrency, replicas.context_tokens) == (
        "m",
        False,
        5,
        200,
    )
    assert [r.name for r in replicas.replicas] == ["m#1", "m#2"]
    assert ReplicaSet([scripted[0], Server()]).max_concurrency is None


def test_what_cannot_be_a_set() -> None:
    with pytest.raises(errors.UsageError, match="at least one"):
        ReplicaSet([])
    with pytest.raises(errors.UsageError, match="a, b"):
        ReplicaSet([Server("a"), Server("b")])
    with pytest.raises(errors.UsageError, match="positive"):
        ReplicaSet([Server()], probe_first=0)


def test_calls_are_spread_and_closing_closes_all() -> None:
    async def work(replicas: ReplicaSet) -> None:
        await asyncio.gather(*(replicas.complete(ask(f"question {n}")) for n in range(100)))
        assert sum(r.calls for r in replicas.replicas) == 100
        assert all(r.in_flight == 0 and r.queue == 0 for r in replicas.replicas)

    servers = [Server(), Server()]
    on(work, *servers)
    assert all(40 <= server.calls <= 60 for server in servers)
    assert all(server.closed for server in servers)


def test_turns_of_one_conversation_stay_where_they_began() -> None:
    async def work(replicas: ReplicaSet) -> None:
        async def line(n: int) -> None:
            messages = (Message("user", f"{n} " * 800),)
            for _ in range(4):
                answer = await replicas.complete(Request("m", messages, Sampling(max_tokens=8)))
                messages = (*messages, Message("assistant", answer.text), Message("user", "again"))

        await asyncio.gather(*(line(n) for n in range(12)))

    servers = [SimulatedVllm(says_cached=said) for said in (True, False)]
    for server in servers:
        server.name = "m"
    on(work, *servers)
    assert all(server.answered >= 12 for server in servers)
    # Three of four turns can find all but the newest words; some are moved, since a queue costs more.
    assert sum(s.hits for s in servers) > 0.65 * sum(s.queries for s in servers)


# --- health ----------------------------------------------------------------------------------------------


def test_one_that_refuses_connections_is_out_at_once_and_probed_back_at_growing_intervals() -> None:
    async def work(replicas: ReplicaSet) -> None:
        servers[0].mood = errors.ConnectionFailed("refused")
        done = await asyncio.gather(*(tried(replicas, ask(f"q{n}")) for n in range(20)))
        assert all(c.text == "fine" for c in done)
        before = servers[0].calls
        first, second = replicas.replicas
        assert (first.up, second.up) == (False, True)
        assert first.error == "refused"
        assert "1 of 2 up" in repr(replicas)
        for n in range(50):
            await replicas.complete(ask(f"r{n}"))
        assert servers[0].calls == before  # not one call was spent on it
        await asyncio.sleep(300)
        assert 15 < servers[0].probes < 35  # 0.25, 0.5, ... 15, 15, 15
        servers[0].mood = None
        await asyncio.sleep(20)
        assert replicas.replicas[0].up
        await asyncio.gather(*(replicas.complete(ask(f"s{n}")) for n in range(20)))
        assert servers[0].calls > before

    servers = [Probed(), Probed()]
    on(work, *servers)


@pytest.mark.parametrize(
    "error",
    [
        errors.ServerError("500"),
        errors.ConnectionLost("reset"),
        errors.CallTimeout("late"),
        errors.BadResponse("garbled"),
    ],
)
def test_three_failures_in_a_row_take_one_out_single_ones_do_not(error: errors.BackendError) -> None:
    async def work(replicas: ReplicaSet) -> None:
        for n in range(13):  # every second call fails
            servers[0].mood = error if n % 2 else None
            with pytest.raises(type(error)) if n % 2 else open("/dev/null"):  # noqa: ASYNC230
                await replicas.complete(ask(f"a{n}"))
        assert replicas.replicas[0].up
        servers[0].mood = error
        for n in range(3):
            assert replicas.replicas[0].up
            with pytest.raises(type(error)):
                await replicas.complete(ask(f"b{n}"))
        assert not replicas.replicas[0].up

    servers = [Probed()]
    on(work, *servers)


@pytest.mark.parametrize(
    "error", [errors.RateLimited("429"), errors.BadRequest("400"), errors.ContextOverflow("long")]
)
def test_what_is_no_fault_of_the_replica_leaves_it_in(error: errors.BackendError) -> None:
    async def work(replicas: ReplicaSet) -> None:
        for n in range(10):
            with pytest.raises(type(error)):
                await replicas.complete(ask(f"a{n}"))
        assert all(r.up for r in replicas.replicas)

    on(work, Probed(mood=error), Probed(mood=error))


@pytest.mark.parametrize(
    "error", [errors.ModelNotFound("no such model"), errors.AuthenticationFailed("the key was refused")]
)
def test_one_that_would_end_the_run_is_taken_out_while_another_is_up(error: errors.BackendError) -> None:
    """One was started again with another model, or a proxy says 404 in its place."""

    async def work(replicas: ReplicaSet) -> None:
        for n in range(20):
            assert (await tried(replicas, ask(f"a{n}"), times=2)).text == "fine"
        assert [r.up for r in replicas.replicas] == [False, True]
        assert servers[0].calls == 1
        servers[1].mood = error  # the last one is believed
        with pytest.raises(type(error)):
            await tried(replicas, ask("b"), times=2)

    servers = [Probed(mood=error), Probed()]
    on(work, *servers)


def test_one_that_had_not_the_model_comes_back_only_with_it() -> None:
    listed = ["another"]

    class Vllm(Handler):
        def do_GET(self) -> None:
            self.answer(json.dumps({"data": [{"id": name} for name in listed]}).encode())

        def do_POST(self) -> None:
            self.content()
            self.answer(b'{"error": {"message": "no such model"}}', 404)

    async def main(url: str) -> None:
        backend = VllmBackend("m", base_url=url)
        await backend.probe()
        with pytest.raises(errors.ModelNotFound):
            await backend.complete(ask())
        with pytest.raises(errors.ModelNotFound, match="another"):
            await backend.probe()
        listed.append("m")
        await backend.probe()
        await backend.aclose()

    with listening(Vllm) as root:
        asyncio.run(main(f"{root}/v1"))


def test_a_retry_lands_elsewhere_even_before_the_replica_is_out() -> None:
    async def work(replicas: ReplicaSet) -> None:
        for n in range(30):
            line = (Message("user", "long " * 500), Message("assistant", "x"), Message("user", f"{n}"))
            request = Request("m", line, Sampling(max_tokens=8))  # the prefix ties all of them to one replica
            before = [server.calls for server in servers]
            await tried(replicas, request, times=2)
            made = [server.calls - b for server, b in zip(servers, before, strict=True)]
            assert made in ([1, 1], [0, 1])

    servers = [Probed(mood=errors.ServerError("500")), Probed()]
    on(work, *servers)


def test_a_hedge_and_what_follows_a_cancelled_call_go_elsewhere() -> None:
    async def work(replicas: ReplicaSet) -> None:
        for n in range(10):
            request = ask("the same long beginning " * 100, n)
            first = asyncio.create_task(replicas.complete(request))
            await asyncio.sleep(0.01)
            before = [r.in_flight for r in replicas.replicas]
            assert sorted(before) == [0, 1]
            hedge = asyncio.create_task(replicas.complete(request))
            await asyncio.sleep(0.01)
            assert [r.in_flight for r in replicas.replicas] == [1, 1]
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert [r.in_flight for r in replicas.replicas] == [1 - b for b in before]
            assert (await hedge).text == "fine"
            late = asyncio.create_task(replicas.complete(request))
            await asyncio.sleep(0.01)
            late.cancel()  # an attempt timeout of the gateway's
            there = next(i for i, r in enumerate(replicas.replicas) if r.in_flight)
            await asyncio.gather(late, return_exceptions=True)
            again = asyncio.create_task(replicas.complete(request))
            await asyncio.sleep(0.01)
            assert replicas.replicas[1 - there].in_flight == 1
            await again

    on(work, Server(), Server())


def test_with_none_up_the_error_is_real_and_so_is_the_return() -> None:
    async def work(replicas: ReplicaSet) -> None:
        for server in servers:
            server.mood = errors.ConnectionFailed("refused")
        for n in range(8):
            with pytest.raises(errors.ConnectionFailed, match="refused"):
                await replicas.complete(ask(f"{n}"))
        assert not any(r.up for r in replicas.replicas)
        assert all(server.calls == 4 for server in servers)  # tried in turn
        servers[1].mood = None
        assert (await tried(replicas, ask(), times=2)).text == "fine"  # not later than the next probe
        assert [r.up for r in replicas.replicas] == [False, True]

    servers = [Server(), Server()]
    on(work, *servers, probe_first=1000, probe_max=1000)
    servers = [Probed(), Probed()]
    on(work, *servers, probe_first=1000, probe_max=1000)


def test_one_that_is_well_when_probed_and_fails_every_call_is_left_alone_ever_longer() -> None:
    class Sham(Probed):
        async def probe(self) -> None:
            self.probes += 1

    servers = [Sham(mood=errors.ServerError("broken", status=500), seconds=0.001), Probed(seconds=0.05)]

    async def work(replicas: ReplicaSet) -> None:
        async def worker(number: int) -> None:
            for n in range(400):
                assert (await tried(replicas, ask(n=number * 1000 + n))).text == "fine"

        await asyncio.gather(*(worker(number) for number in range(8)))
        assert servers[0].calls <= 40  # of 3 200, in which 20 s pass
        servers[0].mood, before = None, servers[0].calls
        await asyncio.sleep(30)
        assert all(r.up for r in replicas.replicas)
        for n in range(20):
            await replicas.complete(ask(f"another question: {n}"))
        assert servers[0].calls > before + 3
        # It has answered: now single failures are its own again.
        servers[0].mood = errors.ServerError("a fault", status=500)
        await asyncio.gather(*(replicas.complete(ask("x" * n)) for n in range(2)), return_exceptions=True)
        assert all(r.up for r in replicas.replicas)

    on(work, *servers)


def test_one_that_cannot_be_probed_gets_a_call_now_and_then() -> None:
    async def work(replicas: ReplicaSet) -> None:
        servers[0].mood = errors.ConnectionFailed("refused")
        for n in range(600):
            await tried(replicas, ask(f"{n}"), times=2)
            await asyncio.sleep(0.1)
        assert not replicas.replicas[0].up
        assert 3 <= servers[0].calls <= 40
        servers[0].mood = None
        for n in range(300):
            await replicas.complete(ask(f"back {n}"))
            await asyncio.sleep(0.1)
        assert replicas.replicas[0].up

    servers = [Server(), Server()]
    on(work, *servers)


def test_what_it_had_begun_before_does_not_bring_it_back() -> None:
    """A server that shuts down refuses new calls, and still answers those that it has."""

    async def work(replicas: ReplicaSet) -> None:
        leaving = servers[0]
        early = [asyncio.create_task(replicas.complete(ask(f"{n}"))) for n in range(6)]
        await asyncio.sleep(0.01)
        assert leaving.calls
        leaving.mood, leaving.seconds = errors.ConnectionFailed("refused"), 0.0
        late = [asyncio.create_task(tried(replicas, ask(f"late {n}"))) for n in range(6)]
        await asyncio.sleep(0.02)
        assert not replicas.replicas[0].up
        await asyncio.gather(*early, *late)
        assert not replicas.replicas[0].up

    class Leaving(Server):
        """Answers what it has when it is told to leave, whatever its mood."""

        async def complete(self, request: Request) -> Completion:
            if self.mood is not None:
                self.calls += 1
                raise self.mood
            self.calls += 1
            await asyncio.sleep(self.seconds)
            return Completion("the last")

    servers = [Leaving(), Server()]
    on(work, *servers, probe_first=1000, probe_max=1000)


# --- gauges ----------------------------------------------------------------------------------------------


class Measured(Probed):
    """Says that it has calls of others, and counts how often it is asked."""

    def __init__(self, running: int = 0, waiting: int = 0) -> None:
        super().__init__()
        self.gauges = VllmMetrics(running, waiting, prompt_tokens=1000, cache_tokens=10_000)
        self.looks = 0
        self.deaf = False

    async def metrics(self) -> VllmMetrics:
        self.looks += 1
        if self.deaf:
            raise errors.CallTimeout("no answer")
        return VllmMetrics(
            self.gauges.running + self.running, self.gauges.waiting, prompt_tokens=self.gauges.prompt_tokens
        )


class Leaving(Measured):
    """Closes its port at ``at``, and keeps the calls that it has: answers them after ``seconds``."""

    at = 2.0

    def _listens(self) -> None:
        if asyncio.get_running_loop().time() >= self.at:
            raise errors.ConnectionFailed("refused")

    async def complete(self, request: Request) -> Completion:
        self._listens()
        return await super().complete(request)

    async def metrics(self) -> VllmMetrics:
        self._listens()
        return await super().metrics()

    async def probe(self) -> None:
        self._listens()


@pytest.mark.parametrize(("seconds", "kept"), [(8.0, True), (10_000.0, False)])
def test_calls_at_one_that_went_away_are_made_elsewhere(seconds: float, kept: bool) -> None:
    """As vLLM does at SIGTERM: one that still answers what it had is left to, one that does not is left."""

    async def work(replicas: ReplicaSet) -> float:
        calls = [tried(replicas, ask(f"a{n}"), times=3) for n in range(8)]
        assert {answer.text for answer in await asyncio.gather(*calls)} == {"fine"}
        return asyncio.get_running_loop().time()

    leaving, other = Leaving(), Measured()
    leaving.seconds, other.seconds = seconds, 1.0
    took = on(work, leaving, other)
    assert leaving.calls > 0
    assert other.calls == (8 - leaving.calls if kept else 8)
    assert took < 20


def test_gauges_show_the_work_of_others_and_are_left_alone_when_idle() -> None:
    async def work(replicas: ReplicaSet) -> None:
        await replicas.prepare()
        first, second = replicas.replicas
        assert (first.running, first.waiting, second.waiting) == (4, 10, 0)
        assert first.queue > second.queue == 0
        await asyncio.gather(*(replicas.complete(ask(f"{n}")) for n in range(8)))
        assert servers[0].calls < servers[1].calls
        assert (await replicas.metrics()).waiting == 10
        assert replicas.queue() == (12, 10)  # as last polled: eight of ours, four of others
        await asyncio.sleep(5)
        looks = servers[0].looks
        await asyncio.sleep(500)
        assert servers[0].looks == looks
        assert replicas.queue() is None  # that was long ago
        for server in servers:
            server.seconds = 20
        await replicas.complete(ask("one long call"))
        assert 15 <= servers[0].looks - looks <= 25

    servers = [Measured(4, 10), Measured()]
    on(work, *servers)


def test_calls_of_ours_are_not_taken_for_those_of_others() -> None:
    async def work(replicas: ReplicaSet) -> None:
        calls = [asyncio.create_task(replicas.complete(ask(f"{n}"))) for n in range(40)]
        for _ in range(100):
            await asyncio.sleep(0.05)
            for replica in replicas.replicas:
                assert replica.queue <= replica.in_flight * 12
            if len(calls) < 400:
                calls += [asyncio.create_task(replicas.complete(ask(f"{len(calls)} {n}"))) for n in range(5)]
        await asyncio.gather(*calls)

    servers = [Measured(), Measured()]
    for server in servers:
        server.seconds = 0.7
    on(work, *servers, poll_seconds=0.11)


def test_one_that_answers_nobody_is_found_out_by_its_gauges() -> None:
    async def work(replicas: ReplicaSet) -> None:
        servers[0].seconds, servers[0].deaf, servers[0].mood = 1e6, True, errors.CallTimeout("hangs")
        stuck = [asyncio.create_task(replicas.complete(ask(f"{n}"))) for n in range(4)]
        await asyncio.sleep(10)
        assert [r.up for r in replicas.replicas] == [False, True]
        for n in range(10):
            await replicas.complete(ask(f"more {n}"))
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)

    servers = [Measured(), Measured()]
    on(work, *servers)


# --- processes -------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A fault server as a process, to be killed and started again on its port."""

    def __init__(self, log: Path, *more: str) -> None:
        self.port, self.log, self.more = free_port(), log, more
        self.start()

    def start(self) -> None:
        command = [sys.executable, fault_server.__file__, "--port", str(self.port), "--log", str(self.log)]
        self.process = subprocess.Popen([*command, *self.more], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("READY")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def arrived(self) -> int:
        return self.log.read_text().count('"arrived"') if self.log.exists() else 0


async def by_text(problem: Problem, answer: str | None) -> Verdict:
    return Verdict(answer == problem.reference, "text")


async def same_text(a: str, b: str, kind: str) -> bool:
    return a == b


def test_kill_9_of_a_replica_costs_no_problem_and_it_is_used_again_when_it_returns(tmp_path: Path) -> None:
    pair = [Process(tmp_path / f"{n}.jsonl", "--delay-ms", "10", "40", "--wrong", "0.3") for n in range(2)]
    problems = [Problem(f"p{n}", f"What is {n} + {n}?", str(2 * n)) for n in range(500)]
    backend = make_backend("vllm/test-model", base_url=",".join(server.url for server in pair))
    assert isinstance(backend, ReplicaSet)
    events: list[str] = []

    async def main() -> list[Solution]:
        solved: list[Solution] = []
        retry = RetryPolicy(attempts=6, first_wait=0.05, max_wait=0.5)
        loop = HeartLoop(
            backend, strategy="heart", verify=by_text, equivalent=same_text, retry=retry, concurrency=16
        )
        async with loop, asyncio.timeout(60):
            async for solution in loop.stream(problems):
                solved.append(solution)
                if len(solved) == 60:
                    pair[0].kill()
                    events.append(f"killed after {pair[0].arrived()}")
                if len(solved) == 200:
                    assert [r.up for r in backend.replicas] == [False, True]
                    events.append(str(pair[0].arrived()))
                    pair[0].start()
                    while not all(r.up for r in backend.replicas):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
        return solved

    try:
        solved = asyncio.run(main())
    finally:
        for server in pair:
            server.kill()
    assert len(solved) == 500
    assert Counter(s.stop_reason.value for s in solved if s.error is not None) == {}
    assert sum(s.correct is True for s in solved) > 400
    assert pair[0].arrived() > int(events[1]) + 20  # used again
    assert backend.replicas[0].failures < 60  # nobody insisted on it


def test_faults_at_both_replicas_lose_no_problem(tmp_path: Path) -> None:
    rates = [
        part for kind in ("500", "reset", "malformed", "truncated") for part in ("--rate", f"{kind}=0.05")
    ]
    pair = [
        Process(tmp_path / f"{n}.jsonl", "--delay-ms", "1", "10", "--seed", str(n), *rates) for n in range(2)
    ]
    problems = [Problem(f"p{n}", f"What is {n} + 1?", str(n + 1)) for n in range(200)]

    async def main() -> list[Solution]:
        backend = ReplicaSet([VllmBackend("test-model", base_url=server.url) for server in pair])
        retry = RetryPolicy(attempts=8, first_wait=0.01, max_wait=0.1)
        loop = HeartLoop(backend, verify=by_text, equivalent=same_text, retry=retry, concurrency=32)
        async with loop, asyncio.timeout(60):
            return [solution async for solution in loop.stream(problems)]

    try:
        solved = asyncio.run(main())
    finally:
        for server in pair:
            server.kill()
    assert [s.problem_id for s in solved if s.correct is not True] == []


def test_openai_backends_can_be_replicas_too() -> None:
    async def main() -> None:
        replicas = ReplicaSet([OpenAIBackend("test-model", base_url=s.base_url) for s in (one, two)])
        request = Request("test-model", (Message("user", "What is 1 + 1?"),))
        done = [await tried(replicas, request, times=3) for _ in range(10)]
        assert all("2" in c.text for c in done)
        await replicas.aclose()

    with fault_server.FaultServer(["500", "500"]) as one, fault_server.FaultServer() as two:
        asyncio.run(main())
