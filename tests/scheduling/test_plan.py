"""`heartloop plan`: from a journal to a forecast."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from heartloop.cli import app
from heartloop.engine.scheduler import BreadthFirst
from heartloop.errors import UnknownName, UsageError
from heartloop.runs.config import ArmConfig
from heartloop.runs.plan import Plan, plan
from heartloop.simulation import POPULATIONS, Sample, World, simulate
from heartloop.simulation.predict import Pilot, foresee, quantile
from tests.scheduling.helpers import write_pilot

ROUNDS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pilot(tmp_path_factory.mktemp("pilot"), POPULATIONS["mixed"].draw(50, ROUNDS, 0), ROUNDS)


def accuracies(made: Plan, scheduler: str) -> list[float]:
    return [row.accuracy for row in made.rows if row.scheduler == scheduler]


def test_a_plan_says_what_to_expect_under_each_scheduler(folder: Path) -> None:
    made = plan(folder, budgets=[10_000, 20_000, 10**9], problems=60, draws=40)
    assert (made.pilot_problems, made.problems, made.oracle, made.rounds) == (50, 60, True, ROUNDS)
    for scheduler in ("breadth_first", "depth_first", "adaptive"):
        found = accuracies(made, scheduler)
        assert len(found) == 3
        assert found == sorted(found)
    assert all(0 <= row.low <= row.accuracy <= row.high <= 1 for row in made.rows)
    # With all the tokens it wants, order no longer matters.
    assert len({round(accuracies(made, name)[-1], 9) for name in ("breadth_first", "adaptive")}) == 1


def test_the_forecast_of_a_full_run_is_near_what_the_pilot_reached(folder: Path) -> None:
    world = POPULATIONS["mixed"].draw(50, ROUNDS, 0)
    reached = sum(any(sample.correct for sample in course) for course in world) / 50
    (row,) = plan(folder, budgets=[10**9], schedulers=["breadth_first"], draws=100).rows
    assert row.low <= reached <= row.high
    assert row.accuracy == pytest.approx(reached, abs=0.06)


def test_the_same_seed_gives_the_same_plan(folder: Path) -> None:
    one, other, third = (plan(folder, problems=40, draws=20, seed=seed) for seed in (1, 1, 2))
    assert one == other != third


def test_a_larger_pilot_and_a_larger_run_make_narrower_intervals(tmp_path: Path) -> None:
    def width(pilot: int, problems: int) -> float:
        world = POPULATIONS["broad"].draw(pilot, ROUNDS, 5)
        where = tmp_path / f"{pilot}-{problems}"
        if not where.exists():
            write_pilot(where, world, ROUNDS)
        (row,) = plan(where, budgets=[10**9], schedulers=["breadth_first"], problems=problems, draws=100).rows
        return row.high - row.low

    assert width(20, 40) > width(200, 40) > width(200, 400) > 0


def test_rounds_that_the_pilot_never_saw_follow_the_law_and_are_uncertain(tmp_path: Path) -> None:
    world = POPULATIONS["broad"].draw(60, ROUNDS, 2)
    whole = write_pilot(tmp_path / "whole", world, ROUNDS)
    cut = write_pilot(tmp_path / "cut", world, ROUNDS, cut_at=2)
    asked = {"budgets": [10**9], "schedulers": ["breadth_first"], "draws": 100}
    known, unknown = plan(whole, **asked), plan(cut, **asked)  # type: ignore[arg-type]
    assert known.incomplete == 0 < unknown.incomplete
    seen_by_two = sum(any(sample.correct for sample in course[:2]) for course in world) / 60
    assert unknown.rows[0].accuracy > seen_by_two
    assert unknown.rows[0].accuracy == pytest.approx(known.rows[0].accuracy, abs=0.1)


def test_a_pilot_scored_afterwards_is_foreseen_by_votes(tmp_path: Path) -> None:
    world = POPULATIONS["mixed"].draw(40, ROUNDS, 3)
    folder = write_pilot(tmp_path / "run", world, ROUNDS, oracle=False)
    made = plan(folder, budgets=[10**9], schedulers=["breadth_first"], draws=60)
    assert not made.oracle
    reached = simulate(world, BreadthFirst(), oracle=False).accuracy_at(10**9)
    assert made.rows[0].low <= reached <= made.rows[0].high


@pytest.mark.parametrize("all_right", [True, False])
def test_a_strategy_that_tries_once_is_foreseen_to_try_once(tmp_path: Path, all_right: bool) -> None:
    world = [
        [Sample(100, all_right or i % 3 == 0, "right" if all_right or i % 3 == 0 else "w")] for i in range(60)
    ]
    arm = ArmConfig("main", "single_pass", "oracle", max_rounds=6)
    folder = write_pilot(tmp_path / "run", world, 6, arm=arm)
    made = plan(folder, budgets=[10**9], schedulers=["breadth_first"], draws=60)
    assert (made.rounds, made.full_tokens) == (1, 60 * 100)
    reached = 1.0 if all_right else 1 / 3
    assert made.rows[0].accuracy == pytest.approx(reached, abs=0.1)


def test_a_strategy_that_makes_all_in_one_round_is_foreseen_so(tmp_path: Path) -> None:
    arm = ArmConfig("main", "self_consistency", "oracle", max_rounds=6)
    world = POPULATIONS["broad"].draw(40, 1, 1)
    made = plan(write_pilot(tmp_path / "run", world, 6, arm=arm), budgets=[10**9], draws=20)
    assert made.rounds == 1


def test_a_line_that_nobody_judges_ends_with_its_last_answer(tmp_path: Path) -> None:
    """The votes are right and the last rounds wrong."""
    course = [Sample(100, True, "right"), Sample(100, True, "right"), Sample(100, False, "w")]
    world = [course, [Sample(100, False, "v"), *course[1:]]] * 20
    arm = ArmConfig("main", "heart", "oracle", max_rounds=3, score_after=True)
    folder = write_pilot(tmp_path / "run", world, 3, oracle=False, arm=arm)
    made = plan(folder, budgets=[8_000, 10**9], schedulers=["breadth_first"], draws=60)
    assert made.last
    half, whole = accuracies(made, "breadth_first")
    assert half > whole + 0.1  # a problem that the budget cuts has the most votes' answer
    assert whole < 0.05
    votes = ArmConfig("main", "heart", "majority", max_rounds=3)
    made = plan(write_pilot(tmp_path / "votes", world, 3, oracle=False, arm=votes), budgets=[10**9], draws=20)
    assert not made.last
    assert made.rows[0].accuracy > 0.3


def test_nothing_but_failures_and_nothing_but_successes(tmp_path: Path) -> None:
    for right in (True, False):
        world: World = [[Sample(50, right, "right" if right else "w")] * 3 for _ in range(30)]
        (row,) = foresee(
            Pilot([course[:1] if right else course for course in world], oracle=True, rounds=3),
            budgets=[10**9],
            schedulers={"adaptive": None},
            problems=50,
            draws=40,
        )
        assert (row.accuracy > 0.95) if right else (row.accuracy < 0.1)
        assert row.high > row.low or right


def test_quantiles_are_those_of_one_more_draw() -> None:
    ordered = [float(i) for i in range(1, 20)]
    assert [quantile(ordered, share) for share in (0.05, 0.5, 0.95)] == [1.0, 10.0, 19.0]


# --- the command --------------------------------------------------------------------------------------


def test_the_command_prints_a_table_or_json(folder: Path) -> None:
    run = CliRunner()
    table = run.invoke(app, ["plan", str(folder), "--budget-tokens", "20000", "--draws", "20"])
    assert table.exit_code == 0
    assert "adaptive" in table.output
    assert "20,000" in table.output
    done = run.invoke(
        app,
        [
            "plan",
            str(folder),
            "--budget-tokens",
            "9000",
            "--budget-tokens",
            "20000",
            "--draws",
            "20",
            "--json",
        ],
    )
    rows = orjson.loads(done.output)["rows"]
    assert [(row["scheduler"], row["budget_tokens"]) for row in rows[:2]] == [
        ("breadth_first", 9000),
        ("breadth_first", 20000),
    ]
    assert all(row["interval_90"][0] <= row["accuracy"] <= row["interval_90"][1] for row in rows)


def test_what_cannot_be_planned_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="adaptive"):
        plan(folder, schedulers=["best"])
    with pytest.raises(UnknownName, match="main"):
        plan(folder, arm="other")
    with pytest.raises(UsageError, match="no run here"):
        plan(tmp_path)
    with pytest.raises(UsageError, match="known to be right or wrong"):
        plan(write_pilot(tmp_path / "empty", [], ROUNDS))
    with pytest.raises(UsageError, match="at least 1"):
        plan(folder, budgets=[0])
