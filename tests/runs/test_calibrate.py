"""Calibration: settings read off a larger run, chosen without fooling oneself, with intervals that cover."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from heartloop.cli import app
from heartloop.engine.results import solution_to_result
from heartloop.engine.serial import attempt_to_dict
from heartloop.errors import UnknownName, UsageError
from heartloop.journal.records import Event, EventKey
from heartloop.judges import judge_from_name
from heartloop.runs.calibrate import calibrate, calibrated
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.judging import judge_run_sync
from heartloop.runs.run import Run
from heartloop.runs.settings import Case, Setting, outcomes
from heartloop.simulation.crowds import CROWDS, RIGHT, Crowd
from heartloop.strategies.stopping import stop_from_spec
from heartloop.types import Attempt, Problem, Solution, StopReason, Usage, Verdict

pytest.importorskip("scipy", reason="the extra [report] is not installed")


def made(answers: list[str], branches: list[tuple[str, int]]) -> Case:
    attempts = tuple(
        Attempt(
            "p",
            branch,
            round,
            f"{branch}.{round}",
            answer,
            usage=Usage(1, 9),
            score=Verdict(answer == "1", "t"),
        )
        for answer, (branch, round) in zip(answers, branches, strict=True)
    )
    return Case(Problem("p", "?", reference="1"), attempts)


def tried(case: Case, shape: str | None, *settings: Setting, width: int = 1) -> list[tuple[bool, int]]:
    async def same(a: str, b: str) -> bool:
        return a == b

    judges = {s.judge: judge_from_name(s.judge) for s in settings}
    rules = {s.stop: stop_from_spec(s.stop) for s in settings if s.stop is not None}
    found = asyncio.run(outcomes(case, settings, shape, judges, rules, same, width))
    assert all(o.tokens == 10 * o.calls for o in found)
    return [(o.right, o.calls) for o in found]


# --- smaller settings ----------------------------------------------------------------------------------


def test_independent_attempts_are_cut_to_fewer_rounds_and_stopped_by_rules() -> None:
    case = made(["1", "2", "2", "2", "1", "1"], [(str(k), k + 1) for k in range(6)])
    full, two, stable, one = tried(
        case,
        "independent",
        Setting("majority", None, 1, 6),
        Setting("majority", None, 1, 4),
        Setting("majority", "stability:rounds=3", 1, 6),
        Setting("majority", None, 1, 1),
    )
    assert full == (True, 6)  # a tie: the answer found first
    assert two == (False, 4)
    assert stable == (False, 4)  # 2, 2, 2
    assert one == (True, 1)


def test_rounds_of_several_attempts_are_cut_as_a_whole() -> None:
    case = made(["1", "2", "2", "2"], [("0", 1), ("1", 1), ("2", 2), ("3", 2)])
    assert tried(
        case, "independent", Setting("majority", None, 2, 1), Setting("majority", None, 2, 2), width=2
    ) == [(True, 2), (False, 4)]


def test_lines_share_the_first_attempt_and_are_cut_in_both_ways() -> None:
    places = [("0", 1), ("0", 2), ("1", 2), ("0", 3), ("1", 3)]
    case = made(["2", "2", "1", "2", "1"], places)
    found = tried(
        case,
        "lines",
        Setting("majority", None, 1, 3),
        Setting("majority", None, 2, 3),
        Setting("majority", None, 2, 2),
        Setting("majority", "stability:rounds=2", 1, 3),
    )
    assert [calls for _, calls in found] == [3, 5, 3, 2]
    assert found[0] == (False, 3)


def test_a_judge_that_calls_a_model_is_refused_with_the_way_to_do_it() -> None:
    case = made(["1", "2"], [("0", 1), ("1", 2)])
    with pytest.raises(UsageError, match=r"heartloop judge.*--judgements"):
        tried(case, "independent", Setting("pairwise", None, 1, 2))


# --- choosing ------------------------------------------------------------------------------------------


def cases(crowd: Crowd, count: int, width: int = 8, seed: int = 0) -> list[Case]:
    return [Case(d.problem, d.attempts) for d in crowd.draw(count, width, seed)]


def arm(**settings: Any) -> ArmConfig:
    return ArmConfig("r", "resample", "majority", **{"max_rounds": 8, **settings})


def test_it_takes_what_pays_and_stops_where_more_does_not() -> None:
    informed = calibrated(cases(CROWDS["informative confidence"], 150), arm(), "m")
    assert informed.setting.judge.startswith(("weighted", "deepconf"))
    assert informed.figures.gain.low > 0.1
    hopeless = Crowd("wrong mode", right=300, wrong=700, resisted=0)
    worse = calibrated(cases(hopeless, 100), arm(), "m")
    assert worse.setting.rounds == 1  # every vote makes it worse
    assert worse.figures.gain.low <= 0 <= worse.figures.gain.high


def test_the_estimate_is_not_the_accuracy_of_the_best_of_many() -> None:
    """On pure noise, the best of many settings looks good; the nested estimate knows better."""
    noise = Crowd("noise", right=500, wrong=500, tempted=1, resisted=1)
    optimism, errors = [], []
    for seed in range(6):
        found = calibrated(cases(noise, 40, 4, seed), arm(max_rounds=4), "m", seed=seed)
        true = 0.5 if found.setting.rounds <= 2 else None
        optimism.append(found.figures.apparent[found.figures.best] - found.figures.accuracy.value)
        if true is not None:
            errors.append(found.figures.accuracy.value - true)
    assert sum(optimism) / len(optimism) > 0.02


def test_intervals_cover_at_a_reduced_size() -> None:
    from heartloop_benchmarks.perf.calibrate_coverage import covered, pool_of

    table, first = pool_of(CROWDS["correlated errors"], 500)
    found = covered(table, first, problems=60, runs=30)
    assert found.accuracy >= 0.8  # 0.95 less nearly four standard errors at 30 runs
    assert found.gain >= 0.8
    assert abs(found.bias) < 0.05
    assert found.optimism > found.bias


def test_few_problems_and_too_small_a_budget_are_refused() -> None:
    with pytest.raises(UsageError, match="too few"):
        calibrated(cases(CROWDS["easy"], 10), arm(), "m")
    with pytest.raises(UsageError, match="cheapest takes"):
        calibrated(cases(CROWDS["easy"], 30), arm(), "m", most_tokens=5)
    cheap = calibrated(cases(CROWDS["easy"], 60), arm(), "m", most_tokens=500)
    assert cheap.figures.tokens.value <= 500


# --- a recorded run ------------------------------------------------------------------------------------


def recorded(folder: Path, count: int = 40, **settings: Any) -> Path:
    """A run's journal with drawn attempts in it, as a run would have left them."""
    config = RunConfig(models={"generator": ModelConfig("scripted/echo")}, arms=(arm(**settings),))
    drawn = CROWDS["informative confidence"].draw(count, 8)
    with Run.create(folder, config, [d.problem for d in drawn]) as run:

        async def fill() -> None:
            for d in drawn:
                made = [replace(a, score=None) for a in d.attempts]
                await run.journal.write(
                    *(
                        Event(EventKey("r", a.problem_id, a.branch, "attempt", 0), "", attempt_to_dict(a))
                        for a in made
                    )
                )
                verdict = Verdict(d.attempts[0].answer == RIGHT, "t")
                solution = Solution(
                    d.problem.id, made[0].answer, made[0], d.attempts, StopReason.ROUNDS, verdict=verdict
                )
                await run.journal.write(solution_to_result("r", solution))

        asyncio.run(fill())
    return folder


def test_the_command_reads_a_run_and_says_what_to_run(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", 60)
    asked = CliRunner().invoke(app, ["calibrate", str(folder), "--json"])
    assert asked.exit_code == 0, asked.output
    data = orjson.loads(asked.stdout)
    assert data["problems"] == 60
    assert data["flags"][:2] == ["--strategy", "resample"]
    low, high = data["accuracy"]["interval_95"]
    assert low < data["accuracy"]["value"] < high
    shown = CliRunner().invoke(app, ["calibrate", str(folder), "-j", "majority"])
    assert shown.exit_code == 0, shown.output
    assert "heartloop run --strategy resample --judge majority" in shown.stdout
    assert "[arm]" in shown.stdout


def test_judges_that_were_paid_for_are_candidates_with_their_cost(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", 25)
    judge_run_sync(folder, ["weighted:power=3"], out=tmp_path / "judged")
    found = calibrate(
        folder, judges=["majority"], stops=["stability:rounds=2"], judgements=tmp_path / "judged"
    )
    places = [k for k, s in enumerate(found.settings) if s.judge == "weighted:power=3"]
    assert len(places) == 1
    full = Setting("weighted:power=3", None, 1, 8)
    assert found.settings[places[0]] == full
    assert found.figures.apparent[places[0]] > found.first
    with pytest.raises(UsageError, match="--judgements"):
        calibrate(tmp_path / "judged")
    with pytest.raises(UsageError, match="heartloop judge"):
        calibrate(folder, judgements=recorded(tmp_path / "other", 25))


def test_runs_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    gated = recorded(tmp_path / "gated", 3)
    with Run.open(gated) as run:
        config = replace(run.config, arms=(replace(run.config.arms[0], judge="oracle"),))
        run.journal.set_meta("config", config.to_dict())
    with pytest.raises(UsageError, match="oracle's yes"):
        calibrate(gated)
    stopped = recorded(tmp_path / "stopped", 3, stop="stability:rounds=2")
    with pytest.raises(UsageError, match="stop rule"):
        calibrate(stopped)
    with pytest.raises(UnknownName, match="arm"):
        calibrate(stopped, arm="other")
    with pytest.raises(UsageError, match="reference"):
        calibrate(recorded(tmp_path / "plain", 3), judges=["oracle"])
