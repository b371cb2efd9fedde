"""When waves leave, what comes of their calls, and what they cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop import HeartLoop, Model, Problem, RetryPolicy
from heartloop.backends.waves import TakesWaves, WaveLook
from heartloop.engine import waves
from heartloop.engine.ledger import Account
from heartloop.engine.prices import Price
from heartloop.engine.session import Session
from heartloop.errors import (
    BadRequest,
    BadResponse,
    BatchEnded,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    ModelNotFound,
    ServerError,
    UsageError,
)
from heartloop.journal.records import Settle
from heartloop.strategies.resample import Resample
from heartloop.types import Budget, Completion, Sampling, Solution, StopReason
from tests.loop.helpers import QUICK, by_text, run, same_text
from tests.support.virtual_time import run_virtually
from tests.support.wave_backend import MemoryWaves, said

LINGER = 0.05


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{n}", f"question {n}") for n in range(count)]


def solve(
    backend: MemoryWaves,
    count: int = 1,
    *,
    during: Callable[[HeartLoop], Awaitable[Any]] | None = None,
    model: dict[str, Any] | None = None,
    **given: Any,
) -> list[Solution]:
    async def main() -> list[Solution]:
        options = {"strategy": "chain_of_thought", "retry": QUICK, "verify": by_text, "equivalent": same_text}
        made = Model(backend.name, backend=backend, sampling=Sampling(max_tokens=16), **(model or {}))
        async with HeartLoop(made, **{**options, **given}) as loop:
            work = asyncio.ensure_future(loop.solve_many(problems(count)))
            if during is not None:
                await during(loop)
            return await work

    return run_virtually(main())


# --- when they leave ----------------------------------------------------------------------------------------


def test_it_is_told_apart_from_backends_that_answer_at_once() -> None:
    assert isinstance(MemoryWaves(), TakesWaves)


def test_all_first_attempts_go_in_one_wave_and_branches_too() -> None:
    backend = MemoryWaves()
    solutions = solve(backend, 30, strategy=Resample(max_rounds=1, width=3))
    assert backend.sizes == [90]
    assert all(solution.calls == 3 for solution in solutions)


class _Lengths:
    """As many rounds as the problem's number, one call each, and a pause of its own before each."""

    name = "lengths"

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    async def solve(self, problem: Problem, session: Session) -> Solution:
        attempt = await session.respond()
        for _ in range(int(problem.id[1:])):
            await asyncio.sleep(self.pause * int(problem.id[1:]))
            attempt = await session.respond([attempt])
        return session.finish(attempt, StopReason.ROUNDS)


def test_a_wave_whose_calls_are_all_answered_is_not_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """The run ends with its last answer, a moment before the wave is said to have ended."""
    backend = MemoryWaves(seconds=5.0)

    async def main() -> None:
        async with HeartLoop(Model("w", backend=backend), strategy="chain_of_thought", retry=QUICK) as loop:
            await loop.solve_many(problems(3))

    run_virtually(main())
    assert backend.cancelled == []
    assert caplog.text == ""


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_strategies_of_different_lengths_share_their_waves(pause: float) -> None:
    backend = MemoryWaves(seconds=5.0)
    solve(backend, 6, strategy=_Lengths(pause))
    # p0 has one call, p5 six: nobody who pauses (for a verifier, say) is left behind.
    assert backend.sizes == [6, 5, 4, 3, 2, 1]


def test_a_wave_does_not_wait_for_who_waits_for_the_ledger() -> None:
    backend = MemoryWaves()
    solutions = solve(backend, 10, budget=Budget(calls=7))
    assert backend.sizes == [7]
    assert Counter(s.stop_reason for s in solutions) == {StopReason.ROUNDS: 7, StopReason.BUDGET: 3}

    # Room for three at a time by tokens, since worst cases are reserved: several waves, nobody stuck.
    backend = MemoryWaves()
    bound = backend.prompt_tokens_bound
    backend.prompt_tokens_bound = lambda messages: min(bound(messages), 84)  # type: ignore[method-assign]
    solutions = solve(backend, 10, budget=Budget(tokens=330))
    assert sum(backend.sizes) == 10
    assert backend.sizes[0] == 3
    assert {s.stop_reason for s in solutions} == {StopReason.ROUNDS}


def test_a_wave_leaves_when_it_is_full() -> None:
    backend = MemoryWaves(wave_calls=4)
    solve(backend, 10)
    assert backend.sizes == [4, 4, 2]
    backend = MemoryWaves()
    solve(backend, 10, model={"wave_size": 3})
    assert backend.sizes == [3, 3, 3, 1]
    size = len(backend.waves[0].lines[0].line)
    backend = MemoryWaves(wave_bytes=2 * size + 3)
    solve(backend, 5)
    assert all(sum(len(line.line) for line in wave.lines) <= backend.wave_bytes for wave in backend.waves)
    assert backend.sizes == [2, 2, 1]


def test_a_call_that_no_wave_can_hold_fails_alone() -> None:
    backend = MemoryWaves(wave_bytes=40)
    [solution] = solve(backend, 1)
    assert solution.stop_reason is StopReason.FAILED
    assert "bytes" in str(solution.error)
    assert backend.waves == []


def test_a_wave_waits_so_long_and_no_longer() -> None:
    class Slow:
        name = "slow"

        async def solve(self, problem: Problem, session: Session) -> Solution:
            if problem.id == "p0":
                await asyncio.sleep(1000)
            return session.finish(await session.respond(), StopReason.ROUNDS)

    backend = MemoryWaves()
    solve(backend, 3, strategy=Slow(), model={"wave_seconds": 60.0})
    assert backend.sizes == [2, 1]
    assert backend.waves[0].at == pytest.approx(60.0, abs=0.1)
    assert backend.waves[1].at == pytest.approx(1000.0, abs=0.2)


def test_a_shared_first_attempt_blocks_the_arms_that_wait_for_it() -> None:
    from heartloop.engine.engine import Engine
    from heartloop.engine.solving import Arm
    from heartloop.judges import judge_from_name
    from heartloop.responders.chat import ChatResponder
    from heartloop.strategies import strategy_from_name
    from heartloop.strategies.prompts import Prompts

    backend = MemoryWaves()

    async def main() -> None:
        engine = Engine(
            {"m": Model("waves", backend=backend)}, share_first=True, equivalent=same_text, send_seeds=False
        )
        arms = [
            Arm(
                name,
                strategy_from_name("resample", max_rounds=2, width=1),
                judge_from_name("majority"),
                ChatResponder(),
                Prompts.default(),
            )
            for name in "ab"
        ]
        await asyncio.gather(*(engine.solve(p, arm) for p in problems(4) for arm in arms))
        await engine.aclose()

    run_virtually(main())
    assert backend.sizes[0] == 4
    assert backend.waves[0].at < 1


# --- time ---------------------------------------------------------------------------------------------------


def test_nothing_limits_how_long_a_wave_takes() -> None:
    backend = MemoryWaves(seconds=86_000.0)
    backend.poll_seconds = (5.0, 60.0)
    solutions = solve(backend, 3, model={"attempt_timeout": 0.1})
    assert backend.sizes == [3]
    assert all(s.answer == "1" for s in solutions)


def test_a_budget_of_seconds_ends_the_problem_and_leaves_the_call() -> None:
    now = [0.0]
    backend = MemoryWaves(seconds=1e5)

    async def during(loop: HeartLoop) -> None:
        await asyncio.sleep(1.0)
        engine = loop._engine
        assert engine is not None
        engine.ledger.run.clock = lambda: now[0] + 1e9
        engine.ledger.run.opened = 0.0
        engine.gateway.set_budget(Budget(seconds=10))

    async def main() -> Solution:
        made = Model("waves", backend=backend)
        budget = Budget(seconds=1e6)
        async with HeartLoop(made, strategy="chain_of_thought", verify=by_text, budget=budget) as loop:
            work = asyncio.ensure_future(loop.solve_many(problems(1)))
            await during(loop)
            [solution] = await work
            account: Account = loop._engine.ledger.run  # type: ignore[union-attr]
            assert account.open.calls == 1
            return solution

    assert run_virtually(main()).stop_reason is StopReason.BUDGET


def test_a_limit_of_seconds_that_is_set_while_a_wave_is_out_holds_for_who_waits() -> None:
    backend = MemoryWaves(seconds=None)

    async def main() -> Solution:
        made = Model("waves", backend=backend)
        async with HeartLoop(made, strategy="chain_of_thought", verify=by_text) as loop:
            work = asyncio.ensure_future(loop.solve_many(problems(1)))
            await asyncio.sleep(1.0)
            engine = loop._engine
            assert engine is not None
            engine.set_budget(Budget(tokens=10**9))
            await asyncio.sleep(1.0)
            assert not work.done()
            engine.set_budget(Budget(seconds=1e-6))
            async with asyncio.timeout(5):
                [solution] = await work
            assert engine.ledger.run.open.calls == 1
            return solution

    assert run_virtually(main()).stop_reason is StopReason.BUDGET


# --- what becomes of calls ----------------------------------------------------------------------------------


def spent(solve_with: Callable[[HeartLoop], Awaitable[Any]], backend: MemoryWaves, **given: Any) -> Account:
    """The run's account after some work."""

    async def main() -> Account:
        made = Model("waves", backend=backend, sampling=Sampling(max_tokens=16), **given.pop("model", {}))
        options = {"strategy": "chain_of_thought", "retry": QUICK, "verify": by_text, "equivalent": same_text}
        async with HeartLoop(made, **{**options, **given}) as loop:
            await solve_with(loop)
            assert loop._engine is not None
            return loop._engine.ledger.run

    return run_virtually(main())


def test_errors_of_single_lines_are_told_by_cause_and_tried_again_in_the_next_wave() -> None:
    def answer(request: Any, n: int) -> Any:
        number = int(str(request.messages[-1].content).rpartition("question ")[2][0])
        if n == 0:
            return [ServerError("500"), BatchEnded("expired"), None, BadRequest("400"), said("\\boxed{1}")][
                number
            ]
        return said("\\boxed{1}")

    backend = MemoryWaves(answer)
    found: list[Solution] = []

    async def work(loop: HeartLoop) -> None:
        found.extend(await loop.solve_many(problems(5)))

    account = spent(work, backend)
    assert backend.sizes == [5, 3]
    assert [s.stop_reason for s in found].count(StopReason.FAILED) == 1
    assert "400" in str(found[3].error)
    # 4 answers of 5 tokens; the line without a result may have been billed: its worst case is assumed.
    assert account.confirmed.tokens == 20
    assert account.assumed.calls == 1
    assert account.confirmed.calls == 4 + 3  # 500, expired and 400 cost a call each
    assert account.open.calls == account.open.tokens == 0


def test_a_call_that_never_works_is_given_up() -> None:
    backend = MemoryWaves(lambda request, n: ServerError("always"))
    [solution] = solve(backend, 1)
    assert solution.stop_reason is StopReason.FAILED
    assert backend.sizes == [1] * QUICK.attempts


def test_a_cancelled_strategy_takes_its_call_out_of_the_wave_being_collected() -> None:
    backend = MemoryWaves()

    async def work(loop: HeartLoop) -> None:
        tasks = [asyncio.ensure_future(loop.solve(problem)) for problem in problems(3)]
        await asyncio.sleep(LINGER / 2)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    account = spent(work, backend)
    assert backend.sizes == [2]
    assert (account.confirmed.calls, account.open.calls, account.assumed.calls) == (2, 0, 0)


def test_a_call_whose_strategy_was_cancelled_at_the_server_is_charged_and_found_again() -> None:
    backend = MemoryWaves(seconds=10.0)

    async def work(loop: HeartLoop) -> None:
        task = asyncio.ensure_future(loop.solve(problems(1)[0]))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert loop._engine is not None
        assert loop._engine.ledger.run.open.calls == 1
        again = await loop.solve(problems(1)[0])
        assert again.answer == "1"

    account = spent(work, backend)
    assert backend.sizes == [1]
    assert (account.confirmed.calls, account.open.calls, account.assumed.calls) == (1, 0, 0)


def test_without_a_journal_what_is_left_at_the_server_is_cancelled_there() -> None:
    backend = MemoryWaves(seconds=None)

    async def work(loop: HeartLoop) -> None:
        task = asyncio.ensure_future(loop.solve(problems(1)[0]))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    spent(work, backend)
    assert backend.cancelled == ["w0"]


# --- waves that the server will not have --------------------------------------------------------------------


def test_lines_that_validation_refuses_fail_and_the_rest_is_sent_again() -> None:
    backend = MemoryWaves()
    backend.looks[0] = WaveLook(True, refused_lines={1: BadRequest("line 2 is odd"), 3: BadRequest("line 4")})
    found: list[Solution] = []

    async def work(loop: HeartLoop) -> None:
        found.extend(await loop.solve_many(problems(5)))

    account = spent(work, backend)
    assert backend.sizes == [5, 3]
    assert [s.stop_reason is StopReason.FAILED for s in found] == [False, True, False, True, False]
    assert (account.confirmed.calls, account.assumed.calls, account.open.calls) == (3, 0, 0)


def test_a_wave_refused_as_a_whole_fails_its_calls_by_cause() -> None:
    backend = MemoryWaves()
    backend.looks[0] = WaveLook(True, refused=BadRequest("this endpoint takes no batches"))
    assert [s.stop_reason for s in solve(backend, 3)] == [StopReason.FAILED] * 3
    backend = MemoryWaves()
    backend.looks[0] = WaveLook(True, refused=ModelNotFound("no such model"))
    with pytest.raises(ModelNotFound):
        solve(backend, 3)


def test_a_wave_that_is_too_much_goes_in_halves_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "FIRST_AGAIN", 30.0)
    backend = MemoryWaves()
    too_much = WaveLook(True, refused=ServerError("too many enqueued tokens"), too_much=True)
    backend.looks |= {0: too_much, 1: too_much}
    solutions = solve(backend, 8)
    assert all(s.answer == "1" for s in solutions)
    assert backend.sizes[0] == 8
    # Then one after the other: 4 are refused once more, 2 are taken, and the rest may be larger again.
    assert backend.sizes[1:3] == [4, 2]
    assert sum(backend.sizes[2:]) == 8
    assert backend.waves[1].at >= 30.0
    run = Counter(line.id for n, wave in enumerate(backend.waves) if n > 1 for line in wave.lines)
    assert set(run.values()) == {1}
    assert len(run) == 8


def test_submissions_that_fail_before_anything_began_are_tried_again_and_cost_nothing() -> None:
    backend = MemoryWaves()
    backend.submit_errors = [ServerError("503"), ConnectionFailed("refused")]

    async def work(loop: HeartLoop) -> None:
        await loop.solve_many(problems(2))

    account = spent(work, backend)
    assert backend.sizes == [2]
    assert account.charged.calls == 2


def test_a_creation_whose_answer_was_lost_is_looked_for_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Resetting(MemoryWaves):
        async def submit(self, wave: str, lines: Any, note: Any) -> str:
            await super().submit(wave, lines, note)
            raise ConnectionFailed("reset after it was created")

    backend = Resetting()
    assert [s.answer for s in solve(backend, 3)] == ["1"] * 3
    assert backend.sizes == [3]


@pytest.mark.parametrize("error", [CallTimeout("no answer to the upload"), ConnectionLost("reset")], ids=str)
def test_a_wave_that_never_began_costs_nothing_whatever_went_wrong(error: Exception) -> None:
    backend = MemoryWaves()
    backend.submit_errors = [error] * 1000

    async def work(loop: HeartLoop) -> None:
        assert {s.stop_reason for s in await loop.solve_many(problems(3))} == {StopReason.FAILED}

    account = spent(work, backend)
    assert backend.sizes == []
    assert account.charged.tokens == account.charged.calls == account.open.calls == 0


def test_a_server_that_can_not_begin_any_wave_is_given_up() -> None:
    class Refusing(MemoryWaves):
        tries = 0

        async def submit(self, wave: str, lines: Any, note: Any) -> str:
            self.tries += 1
            await note({"file": wave})
            raise ServerError("500, every time")

    backend = Refusing()
    [solution] = solve(backend)
    assert solution.stop_reason is StopReason.FAILED
    assert 1 < backend.tries <= QUICK.attempts**2


def test_a_wave_that_is_landing_is_not_delivered_twice_by_who_collects(tmp_path: Path) -> None:
    backend = MemoryWaves(seconds=None)

    async def main() -> Account:
        made = Model("waves", backend=backend, sampling=Sampling(max_tokens=16))
        async with HeartLoop(
            made, strategy="chain_of_thought", verify=by_text, journal=tmp_path / "journal"
        ) as loop:
            work = asyncio.ensure_future(loop.solve_many(problems(3)))
            while not backend.waves:  # noqa: ASYNC110 - of a plain attribute
                await asyncio.sleep(0.001)
            engine = loop._engine
            assert engine is not None
            [flight] = engine.gateway.waves[0].flights
            write, writing = engine.journal.write, asyncio.Event()

            async def noticed(*records: Any) -> None:
                if any(isinstance(record, Settle) for record in records):
                    writing.set()
                await write(*records)

            engine.journal.write = noticed  # type: ignore[method-assign]
            backend.waves[0].ended.set()
            await writing.wait()
            await engine.gateway.collect_waves()
            assert flight.ended
            assert [solution.answer for solution in await work] == ["1"] * 3
            return engine.ledger.run

    account = run(main(), 20)
    assert account.confirmed.calls == 3
    assert account.open.calls == 0


# --- money --------------------------------------------------------------------------------------------------


def test_tokens_cost_the_batch_price() -> None:
    def of(price: Price) -> float | None:
        async def work(loop: HeartLoop) -> None:
            await loop.solve_many(problems(1))

        backend = MemoryWaves(lambda request, n: said("\\boxed{1}", 1000, 16))
        backend.prompt_tokens_bound = lambda messages: 1000  # type: ignore[method-assign]
        return spent(work, backend, model={"price": price}).confirmed.usd

    assert of(Price(2.0, 10.0)) == pytest.approx((1000 * 1.0 + 16 * 5.0) / 1e6)
    assert of(Price(2.0, 10.0, batch=0.25)) == pytest.approx((1000 * 0.5 + 16 * 2.5) / 1e6)
    assert Model("batch/gpt-4o").known_price() == Price(1.25, 5.0, 0.625)
    assert Model("gpt-4o", batch=True).known_price() == Price(1.25, 5.0, 0.625)
    assert Model("vllm-batch/m", price=Price(2.0, 4.0)).known_price() == Price(2.0, 4.0)


_OUTCOMES = st.sampled_from(["answer", "long", "no usage", "missing", "expired", "500", "400", "bad"])


@settings(max_examples=40)
@given(
    outcomes=st.lists(_OUTCOMES, min_size=1, max_size=12),
    tokens=st.integers(100, 3000),
    calls=st.integers(1, 20),
    size=st.integers(1, 9),
    width=st.integers(1, 3),
)
def test_limits_hold_whatever_becomes_of_the_calls(
    outcomes: list[str], tokens: int, calls: int, size: int, width: int
) -> None:
    made = Counter[str]()

    def answer(request: Any, n: int) -> Any:
        what = outcomes[sum(made.values()) % len(outcomes)]
        made[what] += 1
        return {
            "answer": said("\\boxed{1}"),
            "long": said("\\boxed{2}", 80, 16),
            "no usage": Completion("\\boxed{3}"),
            "missing": None,
            "expired": BatchEnded("expired"),
            "500": ServerError("500"),
            "400": BadRequest("400"),
            "bad": BadResponse("no choices"),
        }[what]

    backend = MemoryWaves(answer)
    backend.prompt_tokens_bound = lambda messages: 84  # type: ignore[method-assign]
    found: list[Solution] = []

    async def work(loop: HeartLoop) -> None:
        found.extend(await loop.solve_many(problems(6)))

    account = spent(
        work,
        backend,
        model={"wave_size": size},
        budget=Budget(tokens=tokens, calls=calls),
        strategy=Resample(max_rounds=2, width=width),
    )
    assert len(found) == 6
    assert account.charged.tokens <= tokens
    assert account.charged.calls <= calls
    assert account.open.calls == account.open.tokens == 0
    assert account.charged.calls == sum(backend.sizes)
    assert account.assumed.calls == made["missing"] + made["bad"] + made["no usage"]


# --- settings that can't work -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said_of_it"),
    [
        ({"concurrency": 4}, "concurrency"),
        ({"hedge": True, "requests_per_minute": 5.0}, "requests_per_minute and hedge"),
        ({"wave_size": 0}, "wave_size"),
        ({"wave_seconds": 0.0}, "wave_seconds"),
    ],
)
def test_settings_that_batches_know_nothing_of_are_refused(given: dict[str, Any], said_of_it: str) -> None:
    with pytest.raises(UsageError, match=said_of_it):
        Model("waves", backend=MemoryWaves(), **given).make_backend()


@pytest.mark.parametrize("name", ["vllm/m", "local/smollm2-135m", "scripted/echo"])
def test_models_without_batches_say_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match="vllm-batch"):
        Model(name, batch=True).make_backend()


def test_retries_of_the_default_policy_do_not_run_out_of_patience_in_a_day() -> None:
    backend = MemoryWaves(
        lambda request, n: ServerError("429", status=429) if n < 2 else said("\\boxed{1}"), seconds=80_000.0
    )
    backend.poll_seconds = (60.0, 60.0)
    [solution] = solve(backend, 1, retry=RetryPolicy())
    assert solution.answer == "1"
    assert backend.sizes == [1, 1, 1]
