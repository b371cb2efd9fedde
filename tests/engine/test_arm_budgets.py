"""Limits of arms: never overrun, restored on resume, and nobody waits for ever or for another arm."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop import (
    Budget,
    Completion,
    Model,
    Problem,
    Request,
    RetryPolicy,
    Sampling,
    Solution,
    StopReason,
    Usage,
)
from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.dispatch import Lane
from heartloop.engine.engine import Engine
from heartloop.engine.ledger import Account
from heartloop.engine.solving import Arm
from heartloop.errors import BadRequest, RateLimited, ServerError, UsageError
from heartloop.journal.sqlite import SqliteJournal
from heartloop.judges import judge_from_name
from heartloop.responders.chat import ChatResponder
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.run import Run
from heartloop.strategies import strategy_from_name
from heartloop.strategies.prompts import Prompts
from heartloop.types import Spend
from tests.support.virtual_time import run_virtually

PROMPT, MOST = 60, 40
WORST = PROMPT + MOST
STRATEGIES = ("resample", "heart", "self_consistency", "self_reflection", "single_pass")


class Backend(ScriptedBackend):
    """Prompts of at most 60 tokens; with 40 of ``max_tokens``, a worst case of 100."""

    def prompt_tokens_bound(self, messages: object) -> int:
        return PROMPT


def model(backend: Backend, concurrency: int) -> Model:
    return Model("m", backend=backend, concurrency=concurrency, sampling=Sampling(max_tokens=MOST))


async def same(a: str, b: str, kind: str) -> bool:
    return a == b


def arm(strategy: str, name: str | None = None, rounds: int = 3, judge: str = "majority") -> Arm:
    return Arm(
        name or strategy,
        strategy_from_name(strategy, max_rounds=rounds),
        judge_from_name(judge),
        ChatResponder(),
        Prompts.default(),
    )


def hazardous(seed: int, failures: float) -> Callable[[Request], Any]:
    """Answers of any cost, and failures of any kind. The same request need not be answered alike."""
    rng = random.Random(seed)

    def script(request: Request) -> Any:
        if rng.random() < failures:
            return rng.choice([ServerError("down", status=500), RateLimited("slow"), BadRequest("no")])
        usage = None if rng.random() < 0.05 else Usage(rng.randint(1, PROMPT), rng.randint(0, MOST))
        return Completion(f"\\boxed{{{rng.randrange(3)}}}", usage=usage)

    return script


def account_of(engine: Engine, arm: str) -> Account:
    claims = engine.arm_account(arm)
    assert claims is not None
    return claims.account


def within(account: Account) -> None:
    """What is charged and what is reserved, together, against the limits."""
    budget, held = account.budget, account.charged + account.open
    assert budget.tokens is None or held.tokens <= budget.tokens, account
    assert budget.calls is None or held.calls <= budget.calls, account


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{n}", f"What is {n}?") for n in range(count)]


async def work_on(engine: Engine, arms: Sequence[Arm], count: int, active: int) -> list[Solution]:
    """As a run does: so many at once, the arms of a problem side by side."""
    pending = iter([(problem, each) for problem in problems(count) for each in arms])
    found: list[Solution] = []

    async def worker() -> None:
        for problem, each in pending:
            found.append(await engine.solve(problem, each))

    async with asyncio.TaskGroup() as group:
        for _ in range(active):
            group.create_task(worker())
    return found


limits = st.one_of(
    st.builds(Budget, tokens=st.integers(1, 40 * WORST)),
    st.builds(Budget, calls=st.integers(1, 40)),
    st.builds(Budget, tokens=st.integers(WORST, 30 * WORST), calls=st.integers(1, 30)),
)


@settings(max_examples=80)
@given(
    budget=limits,
    run_budget=st.one_of(st.just(Budget()), limits),
    problem_budget=st.one_of(st.just(Budget()), st.builds(Budget, calls=st.integers(1, 4))),
    strategies=st.lists(st.sampled_from(STRATEGIES), min_size=1, max_size=3, unique=True),
    share=st.booleans(),
    failures=st.sampled_from([0.0, 0.2, 0.5]),
    concurrency=st.integers(1, 8),
    active=st.integers(1, 12),
    seed=st.integers(0, 9999),
)
def test_no_limit_is_ever_overrun_and_everybody_ends(
    budget: Budget,
    run_budget: Budget,
    problem_budget: Budget,
    strategies: list[str],
    share: bool,
    failures: float,
    concurrency: int,
    active: int,
    seed: int,
) -> None:
    answer = hazardous(seed, failures)
    overrun: list[str] = []  # told at the end: an error raised in a call is one problem's failure

    def script(request: Request) -> Any:
        try:
            for account in accounts():
                within(account)
        except AssertionError as error:
            overrun.append(str(error))
        return answer(request)

    def accounts() -> list[Account]:
        return [engine.ledger.run, *(claims.account for claims in engine._arm_accounts.values())]

    delays = random.Random(seed)
    backend = Backend(script, latency=lambda request: delays.random())
    engine = Engine(
        {
            "generator": Model(
                "m", backend=backend, concurrency=concurrency, sampling=Sampling(max_tokens=MOST)
            )
        },
        budget=run_budget,
        arm_budget=budget,
        problem_budget=problem_budget,
        share_first=share,
        retry=RetryPolicy(attempts=3, first_wait=0.1, max_wait=1.0),
        equivalent=same,
    )
    found = run_virtually(work_on(engine, [arm(name) for name in strategies], 8, active))
    assert len(found) == 8 * len(strategies)
    assert not overrun
    for account in accounts():
        within(account)
        assert (account.open.tokens, account.open.calls, account.claims) == (0, 0, 0)
    assert not engine.gateway.claims
    if not share and run_budget.unlimited:
        total = sum(claims.account.charged.tokens for claims in engine._arm_accounts.values())
        assert engine.ledger.run.charged.tokens == total


@settings(max_examples=30)
@given(
    share=st.booleans(),
    greedy=st.sampled_from(["heart", "self_consistency", "resample"]),
    concurrency=st.integers(1, 6),
    active=st.integers(1, 20),
    seed=st.integers(0, 999),
)
def test_an_arm_that_has_spent_its_share_takes_nothing_from_another(
    share: bool, greedy: str, concurrency: int, active: int, seed: int
) -> None:
    """One that needs no more than its limit at the worst gets all it needs, beside one that wants more."""
    rng = random.Random(seed)
    backend = Backend(
        lambda request: Completion("\\boxed{1}", usage=Usage(rng.randint(1, PROMPT), rng.randint(1, MOST))),
        latency=lambda request: rng.random(),
    )
    engine = Engine(
        {
            "generator": Model(
                "m", backend=backend, concurrency=concurrency, sampling=Sampling(max_tokens=MOST)
            )
        },
        arm_budget=Budget(tokens=10 * WORST),
        share_first=share,
        equivalent=same,
    )
    arms = [arm(greedy, rounds=6), arm("single_pass", "modest")]
    run_virtually(work_on(engine, arms, 10, active))
    modest = engine._arm_accounts["modest"].account
    assert modest.charged.calls == 10
    [spent] = [a.account for name, a in engine._arm_accounts.items() if name != "modest"]
    assert spent.charged.tokens > 9 * WORST  # and the other has used up what it had


def test_what_ended_it_is_said() -> None:
    backend = Backend(lambda request: Completion("\\boxed{1}", usage=Usage(10, 10)))

    async def scene() -> list[Solution]:
        engine = Engine(
            {"generator": Model("m", backend=backend)}, arm_budget=Budget(calls=2), equivalent=same
        )
        return await work_on(engine, [arm("resample")], 1, 1)

    [solution] = asyncio.run(scene())
    assert (solution.stop_reason, len(solution.attempts)) == (StopReason.BUDGET, 2)
    assert solution.error == "the arm's budget of 2 calls has 0 left, and the next call may need 1"


def test_seconds_are_the_runs_for_every_arm() -> None:
    backend = Backend(lambda request: "\\boxed{1}", latency=4.0)

    async def scene() -> tuple[list[Solution], Engine]:
        loop = asyncio.get_running_loop()
        engine = Engine(
            {"generator": Model("m", backend=backend)}, equivalent=same, arm_budget=Budget(seconds=10)
        )
        for account in (engine.ledger.run, *(engine.arm_account(n).account for n in ("a", "b"))):  # type: ignore[union-attr]
            account.clock, account.opened = loop.time, loop.time()
        return await work_on(engine, [arm("resample", "a", 9), arm("resample", "b", 9)], 1, 2), engine

    found, _ = run_virtually(scene())
    assert [(s.stop_reason, len(s.attempts)) for s in found] == [(StopReason.BUDGET, 2)] * 2


# --- shared first attempts ---------------------------------------------------------------------------


def sharing(budget: Budget, backend: Backend, journal: SqliteJournal | None = None, **more: Any) -> Engine:
    return Engine(
        {"generator": model(backend, 4)},
        arm_budget=budget,
        share_first=True,
        journal=journal,
        equivalent=same,
        **more,
    )


def test_shared_first_attempts_count_in_full_for_each_arm_and_once_for_the_run() -> None:
    backend = Backend(lambda request: Completion("\\boxed{1}", usage=Usage(20, 10)))

    async def scene() -> Engine:
        engine = sharing(Budget(tokens=5000), backend)
        await work_on(engine, [arm("single_pass", name) for name in "abc"], 5, 6)
        return engine

    engine = asyncio.run(scene())
    assert len(backend.requests) == engine.ledger.run.charged.calls == 5
    for claims in engine._arm_accounts.values():
        assert (claims.account.charged.tokens, claims.account.charged.calls) == (150, 5)


def test_a_problems_limit_holds_for_first_attempts_made_side_by_side() -> None:
    backend = Backend(lambda request: Completion("\\boxed{1}", usage=Usage(20, 10)), latency=0.01)

    async def scene() -> list[Solution]:
        engine = sharing(Budget(), backend, problem_budget=Budget(calls=2))
        return await work_on(engine, [arm("self_consistency", rounds=5)], 3, 3)

    found = run_virtually(scene())
    assert [solution.calls for solution in found] == [2, 2, 2]
    assert len(backend.requests) == 6


class Killed(BaseException):
    pass


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("moment", range(1, 24, 4))
def test_accounts_are_restored_and_limits_hold_through_a_kill(
    tmp_path: Path, share: bool, moment: int
) -> None:
    path = tmp_path / "journal.sqlite"
    arms = [arm("resample", rounds=4), arm("heart", rounds=4), arm("single_pass")]
    budget, count = Budget(tokens=12 * WORST, calls=15), 6
    limit: list[int] = [moment]

    def script(request: Request) -> Any:
        limit[0] -= 1
        if not limit[0]:
            raise Killed
        drawn = blake2b(repr(request.as_dict()).encode(), digest_size=2).digest()
        return Completion("\\boxed{1}", usage=Usage(1 + drawn[0] % PROMPT, drawn[1] % MOST))

    async def process() -> dict[str, Account]:
        journal = SqliteJournal.open(path) if path.exists() else SqliteJournal.create(path, meta={})
        journal.close_open_reservations()
        try:
            engine = sharing(budget, Backend(script, latency=0.001), journal)
            engine.share_first = share
            begun = {each.name: account_of(engine, each.name) for each in arms}
            for name, account in begun.items():
                within(account)
                own = journal.charges(name)
                confirmed, assumed = journal.taken(name)
                tokens = own.confirmed.tokens + own.assumed.tokens + confirmed.tokens + assumed.tokens
                assert account.charged.tokens == tokens
            await work_on(engine, arms, count, 5)
            await journal.write()
            for account in begun.values():
                within(account)
            return begun
        finally:
            journal.close()

    with pytest.raises(BaseExceptionGroup):
        asyncio.run(process())
    limit[0] = 10_000
    first = asyncio.run(process())
    again = asyncio.run(process())
    for name, account in again.items():
        assert account.charged == first[name].charged
    if share:
        assert any(account.charged.tokens for account in first.values())


# --- order ---------------------------------------------------------------------------------------------


def lane_under(budget: Budget) -> tuple[Engine, Lane, Account]:
    backend = Backend(lambda request: "\\boxed{1}")
    engine = Engine({"generator": Model("m", backend=backend, concurrency=100_000, adaptive=False)})
    return engine, engine.gateway.lane("generator"), engine.ledger.account("arm", budget)


def test_small_calls_of_an_arm_do_not_keep_a_large_one_out() -> None:
    async def scene() -> list[str]:
        engine, lane, account = lane_under(Budget(tokens=100))
        other = engine.ledger.account("arm", Budget(tokens=100))
        order: list[str] = []

        async def call(name: str, tokens: int, of: Account) -> None:
            reservation = await lane.admit(Spend(tokens, 1), (of,), problem=name)
            order.append(name)
            await asyncio.sleep(1)
            engine.ledger.settle(reservation, "confirmed", Spend(0, 1))
            lane.release()

        async with asyncio.TaskGroup() as group:
            for name, tokens, of in [
                ("first", 60, account),
                ("large", 90, account),
                *((f"small{n}", 30, account) for n in range(4)),
                ("other", 100, other),
            ]:
                group.create_task(call(name, tokens, of))
        return order

    assert run_virtually(scene())[:3] == ["first", "other", "large"]


def test_many_that_wait_for_one_arm_cost_the_others_little(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    original = Account.lacking

    def counted(self: Account, cost: Spend) -> Any:
        nonlocal looked
        looked += 1
        return original(self, cost)

    async def scene() -> None:
        nonlocal looked
        engine, lane, account = lane_under(Budget(calls=1))
        free = engine.ledger.account("arm", Budget(calls=10_000))
        first = await lane.admit(Spend(1, 1), (account,), problem="first")
        waiting = [
            asyncio.ensure_future(lane.admit(Spend(1, 1), (account,), problem=str(n))) for n in range(2000)
        ]
        await asyncio.sleep(0.1)
        monkeypatch.setattr(Account, "lacking", counted)
        for n in range(500):
            reservation = await lane.admit(Spend(1, 1), (free,), problem=f"free{n}")
            engine.ledger.settle(reservation, "confirmed", Spend(1, 1))
            lane.release()
        monkeypatch.undo()
        assert looked < 20 * 500
        assert lane.waiting == 2000
        engine.ledger.settle(first, "confirmed", Spend(1, 1))
        lane.release()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome).__name__ for outcome in outcomes} == {"BudgetExhausted"}
        assert lane.waiting == 0

    run_virtually(scene())


# --- as a run's setting --------------------------------------------------------------------------------


def test_limits_for_arms_that_share_must_be_there_from_the_beginning(tmp_path: Path) -> None:
    config = RunConfig(
        {"generator": ModelConfig("scripted/echo")},
        (ArmConfig("heart"), ArmConfig("resample")),
        share_first=True,
    )
    limited = replace(config, arm_budget=Budget(calls=5))
    with Run.create(tmp_path / "run", config, problems(2)) as run, pytest.raises(UsageError, match="shared"):
        run.extend(limited)
    with Run.create(tmp_path / "other", limited, problems(2)) as run:
        run.extend(replace(limited, arm_budget=Budget(calls=50)))
        assert run.config.arm_budget == Budget(calls=50)
