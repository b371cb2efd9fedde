"""The order of a run's problems: the data's, or one for each seed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.engine.events import LoopEvent, ProblemSolved
from heartloop.errors import UnknownName, UsageError
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.order import permuted
from heartloop.runs.run import Run
from heartloop.types import Budget, Problem
from tests.support.made_runs import made_problems

ARMS = tuple(
    ArmConfig(f"{name}/s{seed}", strategy, "majority", max_rounds=2, seed=seed)
    for seed in (0, 7)
    for name, strategy in (("one", "chain_of_thought"), ("two", "resample"))
)
COUNT = 9
PINNED = {0: [3, 4, 2, 7, 6, 5, 1, 0], 1: [4, 6, 0, 2, 7, 1, 5, 3]}


def config(order: str, arms: tuple[ArmConfig, ...] = ARMS, budget: Budget = Budget()) -> RunConfig:
    return RunConfig(
        models={"generator": ModelConfig("scripted/echo", concurrency=1)},
        arms=arms,
        active=1,
        share_first=True,
        order=order,
        budget=budget,
    )


def worked(run: Run) -> list[tuple[str, str]]:
    """(arm, problem) in the order in which they ended, one at a time."""
    ended: list[tuple[str, str]] = []

    def told(event: LoopEvent) -> None:
        if isinstance(event, ProblemSolved):
            ended.append((event.arm, event.solution.problem_id))

    asyncio.run(run.execute(told))
    return ended


def of(ended: list[tuple[str, str]], arm: str) -> list[str]:
    return [problem for name, problem in ended if name == arm]


def expected(problems: list[Problem], seed: int) -> list[str]:
    places = permuted([(place, problem.id) for place, problem in enumerate(problems)], seed)
    return [problems[place].id for place in places]


def test_each_seed_has_an_order_of_its_own_that_its_arms_share(tmp_path: Path) -> None:
    problems = made_problems(COUNT)
    with Run.create(tmp_path / "run", config("seed"), problems) as run:
        ended = worked(run)
        # Shared first attempts are forgotten once the arms of their seed are through.
        assert run._engine is not None
        assert not run._engine.shared_done
    for seed in (0, 7):
        assert of(ended, f"one/s{seed}") == of(ended, f"two/s{seed}") == expected(problems, seed)
    assert of(ended, "one/s0") != of(ended, "one/s7")
    # Side by side: the first problems of all seeds, then the second ones.
    assert [arm for arm, _ in ended] == [arm.name for arm in ARMS] * COUNT


def test_the_datas_order_is_the_same_for_all(tmp_path: Path) -> None:
    problems = made_problems(COUNT)
    with Run.create(tmp_path / "run", config("data"), problems) as run:
        ended = worked(run)
    assert ended == [(arm.name, problem.id) for problem in problems for arm in ARMS]


def test_a_run_goes_on_in_its_order_and_keeps_it_when_problems_are_added(tmp_path: Path) -> None:
    problems = made_problems(COUNT)
    with Run.create(tmp_path / "run", config("seed", budget=Budget(calls=16)), problems) as run:
        worked(run)
    with Run.open(tmp_path / "run") as run:
        assert run.config.order == "seed"
        with pytest.raises(UsageError, match="order"):
            run.extend(config("data"))
        more = [Problem(f"q{k}", f"And {k}?", str(k)) for k in range(4)]
        run.extend(config("seed"), more)
        ended = worked(run)
    whole = expected([*problems, *more], 0)
    assert of(ended, "two/s0") == [id for id in whole if id in of(ended, "two/s0")]
    assert {problem.id for problem in more} <= set(of(ended, "two/s0"))


def test_runs_of_before_there_was_a_choice_are_in_the_datas_order() -> None:
    kept = config("seed").to_dict()
    del kept["order"]
    assert RunConfig.from_dict(kept).order == "data"


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(UnknownName, match="order"):
        config("shuffled").check()


def test_the_order_is_pinned() -> None:
    """Runs that were begun go on in it, so it can't change with HeartLoop's versions."""
    places = [(k, f"p{k}") for k in range(8)]
    assert list(permuted(places, 0)) == PINNED[0]
    assert list(permuted(places, 1)) == PINNED[1]


@given(st.sets(st.text(), max_size=12), st.sets(st.text(), max_size=12), st.integers(0, 2**63 - 1))
def test_two_problems_keep_their_order_whatever_others_there_are(
    some: set[str], others: set[str], seed: int
) -> None:
    ids = sorted(some)
    everything = sorted(some | others)
    alone = [ids[k] for k in permuted(enumerate(ids), seed)]
    among = [everything[k] for k in permuted(enumerate(everything), seed)]
    assert sorted(alone) == ids
    assert [id for id in among if id in some] == alone
