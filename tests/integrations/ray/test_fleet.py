"""Whole runs on several engines in this process: the same results, one budget, deaths that cost nothing."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.models import Model
from heartloop.errors import AuthenticationFailed, HeartLoopError, UsageError
from heartloop.integrations.ray import head as heads
from heartloop.integrations.ray.executor import FleetExecutor
from heartloop.journal.export import canonical
from heartloop.journal.reader import JournalReader
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.run import JOURNAL_NAME, Run
from heartloop.runs.summary import Summary
from heartloop.types import Budget, Problem, Request, text_of
from tests.support.local_fleet import LocalFleet

PROBLEMS, ROUNDS = 40, 3
ARMS = (
    ArmConfig("heart", judge="oracle", max_rounds=ROUNDS),
    ArmConfig("resample", strategy="resample", judge="majority", max_rounds=ROUNDS),
)
MODEL = ModelConfig("scripted/echo", max_tokens=32, concurrency=12)


def config(**more: Any) -> RunConfig:
    given: dict[str, Any] = {"models": {"generator": MODEL}, "arms": ARMS, "share_first": True, **more}
    return RunConfig(**given)


def problems(count: int = PROBLEMS) -> list[Problem]:
    return [Problem(id=f"p{i}", question=f"What is {i} + {i}?", reference=str(2 * i)) for i in range(count)]


class Served:
    """One provider that all workers ask; it remembers each request."""

    def __init__(self, seconds: float = 0.002) -> None:
        self.requests: list[Request] = []
        self.peak = 0
        self.seconds = seconds
        self.backends: list[ScriptedBackend] = []

    def model(self, given: ModelConfig) -> Model:
        backend = ScriptedBackend(self.answer, name="scripted/served", latency=self.begin)
        self.backends.append(backend)
        return replace(given.model(), name="", backend=backend)

    @property
    def running(self) -> int:
        return sum(backend.running for backend in self.backends)

    def begin(self, request: Request) -> float:
        self.requests.append(request)
        self.peak = max(self.peak, self.running)
        return self.seconds

    def answer(self, request: Request) -> str | Exception:
        said = text_of(request.messages[-1].content)
        return f"{len(said)} words, so \\boxed{{{len(said) % 7}}}"


def work(
    folder: Path,
    settings: RunConfig,
    served: Served,
    *,
    workers: int = 3,
    beside: Callable[[Run, LocalFleet], Coroutine[Any, Any, None]] | None = None,
    resume: bool = False,
) -> tuple[Summary, LocalFleet]:
    fleet = LocalFleet(workers, served.model)

    async def go() -> Summary:
        with Run.open(folder) if resume else Run.create(folder, settings, problems()) as run:
            run.executor = FleetExecutor(fleet)
            other = None if beside is None else asyncio.create_task(beside(run, fleet))
            try:
                async with asyncio.timeout(20):
                    return await run.execute()
            finally:
                if other is not None:
                    other.cancel()

    return asyncio.run(go()), fleet


def alone(folder: Path, settings: RunConfig, served: Served) -> Summary:
    """The same on one engine, in the ordinary way."""
    fleet = LocalFleet(1, served.model)
    with Run.create(folder, settings, problems()) as run:
        run._model = fleet.make_model  # type: ignore[method-assign]
        return asyncio.run(run.execute())


def exported(folder: Path) -> list[bytes]:
    return list(canonical(folder / JOURNAL_NAME))


def charges(folder: Path) -> dict[str, tuple[int, int]]:
    """By state: calls and tokens in the journal."""
    query = "SELECT state, sum(calls), sum(tokens) FROM settlements GROUP BY state"
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        return {state: (calls, tokens) for state, calls, tokens in connection.execute(query)}


def open_reservations(folder: Path) -> int:
    query = "SELECT count(*) FROM reservations WHERE id NOT IN (SELECT id FROM settlements)"
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        return int(connection.execute(query).fetchone()[0])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


def killer(seed: int, deaths: int) -> Callable[[Run, LocalFleet], Coroutine[Any, Any, None]]:
    rng = random.Random(seed)

    async def kill(run: Run, fleet: LocalFleet) -> None:
        for _ in range(deaths):
            await asyncio.sleep(rng.uniform(0.01, 0.06))
            if fleet.peers:
                rng.choice(list(fleet.peers.values())).kill()

    return kill


def test_three_engines_find_what_one_finds_to_the_byte(tmp_path: Path) -> None:
    one, three = Served(), Served()
    alone(tmp_path / "one", config(), one)
    summary, fleet = work(tmp_path / "three", config(), three)
    assert exported(tmp_path / "three") == exported(tmp_path / "one")
    assert len(three.requests) == len(one.requests)  # what arms share is still paid once
    assert fleet.begun == 3
    assert summary.pending == 0
    assert three.peak <= 12
    assert open_reservations(tmp_path / "three") == 0


def test_seeds_in_orders_of_their_own_find_what_one_engine_finds(tmp_path: Path) -> None:
    """A problem comes once for each seed then, and is at one worker at a time, whoever dies."""
    arms = tuple(replace(arm, name=f"{arm.name}/s{seed}", seed=seed) for seed in (0, 1, 2) for arm in ARMS)
    settings = config(arms=arms, order="seed", active=PROBLEMS)
    one, three = Served(), Served(0.004)
    alone(tmp_path / "one", settings, one)
    summary, fleet = work(tmp_path / "three", settings, three, beside=killer(1, 6))
    assert fleet.begun > 3
    assert summary.pending == 0
    assert exported(tmp_path / "three") == exported(tmp_path / "one")
    known = charges(tmp_path / "three")
    assert known["confirmed"][0] == len(one.requests)
    assert open_reservations(tmp_path / "three") == 0


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_die_lose_and_repeat_nothing_that_was_confirmed(tmp_path: Path, seed: int) -> None:
    calm, shaken = Served(), Served(0.005)
    alone(tmp_path / "calm", config(), calm)
    summary, fleet = work(tmp_path / "shaken", config(), shaken, beside=killer(seed, 12))
    assert fleet.begun > 4
    assert summary.pending == 0
    assert exported(tmp_path / "shaken") == exported(tmp_path / "calm")
    known = charges(tmp_path / "shaken")
    confirmed, lost = known["confirmed"][0], known.get("assumed", (0, 0))[0]
    assert confirmed == len(calm.requests)
    # Whatever was asked twice had been asked by a worker that died before it could tell the answer.
    assert len(shaken.requests) <= confirmed + lost
    assert open_reservations(tmp_path / "shaken") == 0


@pytest.mark.parametrize(
    ("limit", "amount"), [("calls", 97), ("tokens", 9_000), ("usd", 0.02)], ids=["calls", "tokens", "usd"]
)
def test_one_budget_holds_over_all_engines_and_is_used_up(tmp_path: Path, limit: str, amount: float) -> None:
    model = replace(MODEL, price=(2.0, 2.0))
    served = Served(0.003)
    settings = config(models={"generator": model}, budget=Budget(**{limit: amount}))  # type: ignore[arg-type]
    summary, _ = work(tmp_path / "run", settings, served, workers=4, beside=killer(5, 6))
    known = charges(tmp_path / "run")
    calls, tokens = (sum(part) for part in zip(*known.values(), strict=True))
    spent = {"calls": calls, "tokens": tokens, "usd": 2 * tokens / 1e6}[limit]
    worst = {"calls": 1, "tokens": 700, "usd": 1400 / 1e6}[limit]
    assert amount - worst <= spent <= amount + 1e-9
    assert len(served.requests) <= calls
    assert summary.pending == 0
    assert summary.to_dict()["stop_reasons"]["budget"] > 0
    assert f"the run's budget of {amount:,} {limit}" in str(summary.budget_ended)


def test_limits_of_arms_and_models_hold_over_all_engines(tmp_path: Path) -> None:
    served = Served()
    model = replace(MODEL, budget=Budget(calls=120))
    settings = config(models={"generator": model}, arm_budget=Budget(calls=70))
    work(tmp_path / "run", settings, served, workers=3)
    assert len(served.requests) <= 120
    with JournalReader(tmp_path / "run" / JOURNAL_NAME) as journal:
        for arm in ARMS:
            taken, assumed = journal.taken(arm.name)
            own = journal.charges(arm.name).confirmed.calls
            assert 65 <= own + taken.calls + assumed.calls <= 70


def test_a_budget_of_seconds_passes_for_all_engines_alike(tmp_path: Path) -> None:
    served = Served(0.2)
    summary, _ = work(tmp_path / "run", config(budget=Budget(seconds=1.0)), served)
    assert summary.pending == 0
    assert "seconds" in str(summary.budget_ended)
    assert len(served.requests) < PROBLEMS * ROUNDS
    again = len(served.requests)
    # Earlier processes count: nothing is left for this one.
    work(tmp_path / "run", config(), served, resume=True)
    assert len(served.requests) == again


def test_a_drained_run_goes_on_on_one_engine_and_the_other_way_round(tmp_path: Path) -> None:
    async def drain(run: Run, fleet: LocalFleet) -> None:
        await until(lambda: run.live.done >= 10)
        run.drain()

    calm, served = Served(), Served(0.005)
    alone(tmp_path / "calm", config(), calm)
    summary, _ = work(tmp_path / "run", config(), served, beside=drain)
    assert summary.interrupted
    assert summary.pending > 0
    assert "assumed" not in charges(tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        run._model = served.model  # type: ignore[method-assign]

        async def some() -> None:
            task = asyncio.create_task(run.execute())
            await until(lambda: run.live.done >= 30)
            run.drain()
            await task

        asyncio.run(some())
    summary, _ = work(tmp_path / "run", config(), served, resume=True)
    assert summary.pending == 0
    assert exported(tmp_path / "run") == exported(tmp_path / "calm")
    assert len(served.requests) == len(calm.requests)


def test_cancelling_charges_what_is_in_flight_as_assumed(tmp_path: Path) -> None:
    async def cancel(run: Run, fleet: LocalFleet) -> None:
        await until(lambda: served.running > 0)
        run.cancel()

    served = Served(30.0)
    summary, _ = work(tmp_path / "run", config(), served, beside=cancel)
    assert summary.interrupted
    assert charges(tmp_path / "run")["assumed"][0] == len(served.requests)


def test_a_raised_budget_reaches_all_engines_while_they_work(tmp_path: Path) -> None:
    async def raise_it(run: Run, fleet: LocalFleet) -> None:
        await until(lambda: run.refresh().calls >= 20)
        run.set_budget(Budget(calls=100_000))

    served = Served(0.01)
    summary, _ = work(tmp_path / "run", config(budget=Budget(calls=60)), served, beside=raise_it)
    assert "budget" not in summary.to_dict()["stop_reasons"]


def test_a_bad_key_ends_the_run_and_says_so(tmp_path: Path) -> None:
    class Refusing(Served):
        def answer(self, request: Request) -> str | Exception:
            return AuthenticationFailed("the key is refused")

    with pytest.raises(AuthenticationFailed, match="the key is refused"):
        work(tmp_path / "run", config(), Refusing())
    assert Run.open(tmp_path / "run").live.done == 0


def test_workers_that_only_die_end_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "LOOK", 0.01)

    async def kill_all(run: Run, fleet: LocalFleet) -> None:
        while True:
            await asyncio.sleep(0)
            for peer in list(fleet.peers.values()):
                peer.kill()

    with pytest.raises(HeartLoopError, match=r"died one after the other .* killed by the test"):
        work(tmp_path / "run", config(), Served(), beside=kill_all)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (config(scheduler="adaptive"), "learns from all problems"),
        (config(arms=(replace(ARMS[0], rotation="adaptive"),)), "learns from all problems"),
        (config(arms=(replace(ARMS[0], rotation="memory"),)), "learns from all problems"),
    ],
)
def test_what_would_learn_from_all_problems_is_refused(
    tmp_path: Path, settings: RunConfig, match: str
) -> None:
    served = Served()
    with pytest.raises(UsageError, match=match):
        work(tmp_path / "run", settings, served)
    assert served.requests == []


def test_workers_are_not_more_than_the_models_limits_can_be_divided_among(tmp_path: Path) -> None:
    served = Served()
    _, fleet = work(
        tmp_path / "run", config(models={"generator": replace(MODEL, concurrency=2)}), served, workers=5
    )
    assert fleet.begun == 2
    assert served.peak <= 2


def test_the_live_file_and_the_events_tell_of_all_engines(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    served = Served()
    with Run.create(tmp_path / "run", config(), problems()) as run:
        run.executor = FleetExecutor(LocalFleet(3, served.model))
        asyncio.run(run.execute(lambda event: seen.update([type(event).__name__])))
        live = run.refresh()
    assert seen == {"ProblemSolved": 2 * PROBLEMS}
    assert (live.done, live.calls) == (2 * PROBLEMS, len(served.requests))
    assert (tmp_path / "run" / "live.json").exists()
