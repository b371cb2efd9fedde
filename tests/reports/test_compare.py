"""Runs compared: what is found in runs whose outcomes are known, and what is refused."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from heartloop.errors import UsageError
from heartloop.journal.records import EventKey, Reserve, Settle
from heartloop.journal.sqlite import SqliteJournal
from heartloop.reports.comparable import NotComparable
from heartloop.reports.compare import compare
from heartloop.reports.comparison import Comparison, Contrast
from heartloop.reports.showing import show_comparison
from heartloop.runs.config import ArmConfig, ModelConfig
from heartloop.types import Budget, Problem
from tests.cli.command import heartloop
from tests.support.made_runs import Made, Step, made_problems, made_run

HEART = ArmConfig("heart", "heart", "majority", max_rounds=2)
TWINS = replace(HEART, name="twins", rotation="neutral:alternating")
RESAMPLE = ArmConfig("resample", "resample", "majority", max_rounds=3)
Outcome = Callable[[ArmConfig, Problem], Made | None]


def flat(made: Callable[[ArmConfig, int], bool | None]) -> Outcome:
    """One attempt a problem, right as ``made`` says of arm and the problem's number."""

    def outcome(arm: ArmConfig, problem: Problem) -> Made:
        return Made([Step(made(arm, int(problem.id[1:6])))])

    return outcome


def of(found: Comparison, a: str, b: str, metric: str = "accuracy") -> Contrast:
    [one] = [c for c in found.contrasts if {c.a, c.b} == {a, b} and c.metric == metric]
    return one


def test_one_trial_a_question_gives_mcnemar_on_the_declared_pair(tmp_path: Path) -> None:
    """36 both, 12 only HEART, 2 only its twin: p 0.0129, and Newcombe's published interval."""

    def right(arm: ArmConfig, k: int) -> bool:
        return k < 36 or (36 <= k < 48 if arm.name == "heart" else 48 <= k < 50)

    run = made_run(tmp_path / "run", [TWINS, HEART, RESAMPLE], made_problems(50), flat(right))
    found = compare([run])
    primary = found.primary
    assert primary is not None
    assert (primary.a, primary.b, primary.family, primary.unit, primary.units) == (
        "heart", "twins", "primary", "question", 50,
    )  # fmt: skip
    assert primary.difference == pytest.approx(0.2)
    assert primary.interval == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert primary.p == primary.p_adjusted == pytest.approx(0.01294, abs=1e-5)
    assert (primary.wins, primary.losses) == (12, 2)
    assert primary.equivalence is not None
    assert primary.equivalence.equivalent is False
    assert any("primary by default" in note.text for note in found.notes)
    others = [c for c in found.contrasts if not c.primary]
    assert {c.family for c in others} == {"exploratory"}
    assert len(others) == 2


def test_repeats_of_a_question_are_one_unit(tmp_path: Path) -> None:
    chances = random.Random(1)
    rate = {k: chances.random() for k in range(40)}

    def outcome(arm: ArmConfig, problem: Problem) -> Made:
        draw = random.Random(f"{arm.name}/{problem.id}").random()
        return Made([Step(draw < rate[int(problem.id[1:6])])])

    run = made_run(tmp_path / "run", [HEART, TWINS], made_problems(40, repeats=4), outcome)
    found = compare([run])
    assert [(arm.questions, arm.trials, arm.method) for arm in found.arms] == [
        (40, 160, "bootstrap of questions")
    ] * 2
    assert all(cell.interval is None for cell in found.cells)
    primary = of(found, "heart", "twins")
    assert (primary.unit, primary.units) == ("question", 40)
    assert "sign-flip" in primary.method
    assert primary.interval is not None
    assert primary.interval[0] < primary.difference < primary.interval[1]  # type: ignore[operator]


def test_seeds_of_a_grid_are_repeats_and_runs_pool(tmp_path: Path) -> None:
    cells = [
        replace(arm, name=f"{arm.name}/s{seed}", label=arm.name, seed=seed)
        for arm in (HEART, TWINS)
        for seed in (0, 1)
    ]
    random_ = flat(lambda arm, k: random.Random(f"{arm.name}{arm.seed}{k}").random() < 0.5)
    grid = made_run(tmp_path / "grid", cells, made_problems(30), random_)
    more = made_run(tmp_path / "more", [HEART, TWINS], made_problems(30), random_, seed=2)
    found = compare([grid, more])
    assert [(arm.arm, arm.seeds, arm.questions, arm.trials) for arm in found.arms] == [
        ("heart", 3, 30, 90),
        ("twins", 3, 30, 90),
    ]
    assert {(cell.run, cell.seed) for cell in found.cells} == {("grid", 0), ("grid", 1), ("more", 2)}
    assert of(found, "heart", "twins").units == 30


def test_what_is_the_same_in_two_runs_comes_out_the_same_whoever_is_asked(tmp_path: Path) -> None:
    """Arms in one run or in two: the same figures, but for the runs' names."""
    outcome = flat(lambda arm, k: (k * 7 + len(arm.name)) % 3 > 0)
    both = made_run(tmp_path / "both", [HEART, TWINS], made_problems(20), outcome)
    one = made_run(tmp_path / "one", [HEART], made_problems(20), outcome)
    two = made_run(tmp_path / "two", [TWINS], made_problems(20), outcome)
    a, b = compare([both]).to_dict(), compare([one, two]).to_dict()
    for kind in ("arms", "contrasts", "curves", "by_round", "flips", "drift", "costs"):
        assert a[kind] == b[kind], kind
    assert compare([both]).to_dict() == a  # seeded
    assert json.loads(json.dumps(a)) == a


# --- families ------------------------------------------------------------------------------------------


def test_what_the_run_declares_is_primary_and_its_families_are_adjusted_by_holm(tmp_path: Path) -> None:
    arms = [HEART, TWINS, RESAMPLE, replace(RESAMPLE, name="more", max_rounds=4)]
    rates = {"heart": 5, "twins": 8, "resample": 4, "more": 7}
    benchmark = {
        "primary": {"a": "resample", "b": "more", "judge": "majority", "spec": "majority", "setting": "S2"},
        "families": [
            {
                "name": "affect",
                "method": "holm",
                "contrasts": [
                    {"a": "heart", "b": "twins", "judge": "majority"},
                    {"a": "heart", "b": "resample", "judge": "majority"},
                    {"a": "heart", "b": "gone", "judge": "majority"},
                ],
            }
        ],
        "margin": 0.1,
    }
    run = made_run(
        tmp_path / "run", arms, made_problems(60), flat(lambda arm, k: k % 10 < rates[arm.name]),
        benchmark=benchmark,
    )  # fmt: skip
    found = compare([run])
    assert found.primary is not None
    assert (found.primary.a, found.primary.b) == ("resample", "more")
    family = [c for c in found.contrasts if c.family == "affect" and c.metric == "accuracy"]
    assert [(c.a, c.b) for c in family] == [("heart", "twins"), ("heart", "resample")]
    small, large = sorted(c.p or 0.0 for c in family)
    assert sorted(c.p_adjusted or 0.0 for c in family) == pytest.approx(
        sorted([min(1.0, 2 * small), max(min(1.0, 2 * small), large)])
    )
    assert found.primary.equivalence is not None
    assert found.primary.equivalence.margin == 0.1
    assert any("gone" in note.text for note in found.notes if note.level == "warning")
    # Whoever compares may name another, and is seen to have done so after the run.
    named = compare([run], primary="heart:twins")
    assert named.primary is not None
    assert (named.primary.a, named.primary.b) == ("heart", "twins")
    assert any("was named when comparing" in note.text for note in named.notes)


def test_without_a_twin_nothing_is_primary(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [HEART, RESAMPLE], made_problems(5), flat(lambda arm, k: k > 2))
    found = compare([run])
    assert found.primary is None
    assert any("no primary contrast" in note.text for note in found.notes)


# --- what is coupled -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "tested"), [(5, False), (6, True)])
def test_a_bandit_makes_the_run_the_unit_and_too_few_runs_give_no_p(
    tmp_path: Path, seeds: int, tested: bool
) -> None:
    arms = [replace(HEART, rotation="adaptive"), TWINS]
    runs = [
        made_run(
            tmp_path / f"run{seed}", arms, made_problems(30),
            flat(lambda arm, k, s=seed: random.Random(f"{arm.name}{k}{s}").random() < len(arm.rotation) / 30),
            seed=seed,
        )
        for seed in range(seeds)
    ]  # fmt: skip
    one = of(compare(runs), "heart", "twins")
    assert (one.unit, one.units) == ("run", seeds)
    assert (one.p is not None, one.interval is not None) == (tested, tested)
    assert one.difference is not None
    assert "learns from one problem to the next" in one.why
    assert ("a test needs 6 at least" in one.why) is not tested


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        ([("data", 0), ("data", 1)], "the same order in every run"),
        ([("seed", 0), ("seed", 1)], None),
        ([("seed", 0), ("seed", 0), ("seed", 1)], "2 orders in 3 runs"),
    ],
)
def test_runs_of_coupled_problems_in_one_order_are_said_to_be_so(
    tmp_path: Path, orders: list[tuple[str, int]], said: str | None
) -> None:
    arms = [replace(HEART, rotation="adaptive"), TWINS]
    problems, right = made_problems(6), flat(lambda arm, k: k % 2 == 0)
    runs = [
        made_run(tmp_path / f"run{k}", arms, problems, right, seed=seed, order=order)
        for k, (order, seed) in enumerate(orders)
    ]
    notes = [note.text for note in compare(runs).notes if "influence each other came in" in note.text]
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]


def test_cells_of_one_run_differ_in_order_where_each_seed_has_its_own(tmp_path: Path) -> None:
    arms = [
        replace(HEART, name=f"heart/majority/s{seed}", label="heart", rotation="adaptive", seed=seed)
        for seed in (0, 1)
    ]
    for order, notes in (("data", 1), ("seed", 0)):
        run = made_run(tmp_path / order, arms, made_problems(6), flat(lambda arm, k: k % 2 == 0), order=order)
        assert sum("influence each other came in" in n.text for n in compare([run]).notes) == notes


def test_much_that_is_only_assumed_is_said(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [HEART, TWINS], made_problems(50), flat(lambda arm, k: k % 2 == 0))
    assert not any("assumed" in note.text for note in compare([run]).notes)
    lost = EventKey("twins", "p00000", "0", "completion", 1)
    with SqliteJournal.open(run / "journal.sqlite") as journal:
        journal.post(
            Reserve(9_999, lost, 1, "test-model", 50, 5e-5, 20, "generator"),
            Settle(9_999, "assumed", None, 50, 5e-5, reason="killed"),
        )
    [note] = [note for note in compare([run]).notes if "assumed" in note.text]
    assert note.level == "warning"
    assert note.text.startswith("only assumed tokens (twins 3.2% of all of the arm's)")


def test_a_budget_that_problems_share_couples_them_only_where_it_bound(tmp_path: Path) -> None:
    def outcome(arm: ArmConfig, problem: Problem) -> Made:
        if problem.id == "p00009" and arm.name == "twins":
            return Made([Step(True)], stop_reason="budget", ended_by="arm")
        return Made([Step(int(problem.id[1:]) % 2 == 0)])

    run = made_run(tmp_path / "run", [HEART, TWINS, RESAMPLE], made_problems(12), outcome)
    found = compare([run])
    assert of(found, "heart", "twins").unit == "run"
    assert of(found, "heart", "twins").p is None
    assert of(found, "heart", "resample").unit == "question"
    assert any("too few runs" in note.text for note in found.notes)


# --- unknown, unfinished, cut --------------------------------------------------------------------------


def test_unknown_stays_unknown_and_a_cap_that_allowed_nothing_is_not_right(tmp_path: Path) -> None:
    def outcome(arm: ArmConfig, problem: Problem) -> Made | None:
        number = int(problem.id[1:])
        if number == 0:
            return Made([Step(None)])  # the grader could not tell
        if number == 1:
            return Made([], stop_reason="failed")
        if number == 2:
            return Made([], stop_reason="budget", ended_by="problem p00002")
        if number == 3:
            return Made([], stop_reason="budget", ended_by="run")
        return None if number == 4 else Made([Step(True)])

    run = made_run(tmp_path / "run", [HEART], made_problems(10), outcome)
    found = compare([run])
    [arm], [cell] = found.arms, found.cells
    assert (arm.trials, arm.unknown, arm.accuracy) == (6, 3, pytest.approx(5 / 6))
    assert (cell.finished, cell.pending, cell.scored, cell.correct) == (9, 1, 6, 5)
    said = " ".join(note.text for note in found.notes)
    assert "1 problems are not finished" in said
    assert "between 55.6% and 88.9%" in said
    assert "1 problems failed" in said
    # The problem whose cap allowed nothing is not right in any figure.
    assert (arm.first, arm.best_possible) == (pytest.approx(5 / 6), pytest.approx(5 / 6))
    [first] = found.by_round
    assert (first.trials, first.found, first.censored) == (6, pytest.approx(5 / 6), 1)
    assert first.found_at_most == 1.0


def test_a_first_attempt_without_verdict_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    def outcome(arm: ArmConfig, problem: Problem) -> Made:
        # Attempts of a round end in any order: the second was made first.
        return Made(
            [Step(True, branch="1"), Step(None if problem.id == "p00000" else True, branch="0")], True
        )

    found = compare([made_run(tmp_path / "run", [replace(RESAMPLE, width=2)], made_problems(3), outcome)])
    assert found.arms[0].first == 1.0
    assert found.drift[0].trials == 2


def test_unknown_prices_stay_unknown(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [HEART], made_problems(4), flat(lambda arm, k: True), price=None)
    found = compare([run])
    assert found.arms[0].usd is found.costs[0].usd is found.runs[0].usd is None
    assert found.costs[0].usd_per_correct is None
    assert found.costs[0].tokens == 4 * 30
    assert {curve.x for curve in found.curves} == {"tokens", "depth"}


# --- along the rounds ----------------------------------------------------------------------------------

LOOP = replace(HEART, max_rounds=3)


def looped(arm: ArmConfig, problem: Problem) -> Made:
    number = int(problem.id[1:])
    anger, joy = ("anger", 2), ("happiness", 3)

    def cued(correct: bool, cue: tuple[str, int]) -> Step:
        return Step(correct, cue[1], emotion=cue[0], affective=arm.name != "twins")

    if number < 4:  # right, and talked out of it
        return Made([Step(True), cued(False, anger), cued(False, joy)])
    if number < 7:  # put right in the second round
        return Made([Step(False), cued(True, anger), cued(True, joy)])
    if number < 9:  # cut by the budget after the first
        return Made([Step(False)], stop_reason="budget", ended_by="problem x")
    return Made([Step(False), cued(False, anger), cued(True, joy)], correct=False)  # found, not chosen


def test_rounds_flips_and_drift(tmp_path: Path) -> None:
    found = compare([made_run(tmp_path / "run", [LOOP], made_problems(10), looped)])
    assert [
        (r.round, r.at_work, r.found, r.correct, r.censored, round(r.found_at_most, 9))
        for r in found.by_round
    ] == [
        (1, 10, 0.4, 0.4, 0, 0.4),
        (2, 8, 0.7, 0.3, 2, 0.9),
        (3, 8, 0.8, 0.4, 2, 1.0),
    ]
    assert [
        (f.round, f.emotion, f.wrong_to_right, f.right_to_wrong, f.right_to_right, f.wrong_to_wrong)
        for f in found.flips
    ] == [(2, "anger", 3, 4, 0, 1), (3, "happiness", 1, 0, 3, 4)]
    [drift] = found.drift
    assert (drift.first_right, drift.lost, drift.gained, drift.found, drift.missed) == (4, 4, 3, 8, 5)
    assert drift.lost_share == 1.0
    assert drift.lost_interval is not None
    assert drift.lost_interval[0] < 1.0


def test_there_is_pass_at_k_for_independent_samples_only(tmp_path: Path) -> None:
    def outcome(arm: ArmConfig, problem: Problem) -> Made:
        return Made([Step(k == int(problem.id[1:]) % 3, k + 1, branch=str(k)) for k in range(3)])

    gated = replace(RESAMPLE, name="gated", judge="oracle")
    stopped = replace(RESAMPLE, name="stopped", stop="agreement")
    arms = [RESAMPLE, gated, stopped, LOOP]
    found = compare([made_run(tmp_path / "run", arms, made_problems(9), outcome)])
    passes = [(m.arm, m.metric, round(m.value or 0, 6)) for m in found.metrics if m.metric[:4] == "pass"]
    assert passes == [
        ("resample", "pass@1", 0.333333),
        ("resample", "pass@2", 0.666667),
        ("resample", "pass@3", 1.0),
    ]
    said = " ".join(note.text for note in found.notes)
    assert "gated: no pass@k, since an oracle stopped the sampling" in said
    assert "stopped: no pass@k, since a stop rule" in said


def test_there_is_no_pass_at_k_where_a_judge_without_references_ended_the_sampling(tmp_path: Path) -> None:
    def outcome(arm: ArmConfig, problem: Problem) -> Made:
        steps = [Step(False), Step(True, 2, branch="1"), Step(True, 3, branch="2")]
        return Made(steps[: 2 + int(problem.id[1:]) % 2], stop_reason="verified")

    found = compare([made_run(tmp_path / "run", [RESAMPLE], made_problems(6), outcome)])
    assert not [m for m in found.metrics if m.metric.startswith("pass@")]
    assert any("no pass@k, since the judge ended" in note.text for note in found.notes)


# --- equal compute -------------------------------------------------------------------------------------


def test_curves_charge_everything_and_hold_what_would_have_been_returned(tmp_path: Path) -> None:
    found = compare([made_run(tmp_path / "run", [LOOP, RESAMPLE], made_problems(10), looped)])
    [tokens] = [c for c in found.curves if c.arm == "heart" and c.x == "tokens"]
    at = {x: y for x, y, _, _ in tokens.points}
    # After the first attempt four are right; a second answer does not outvote a first one; the end counts.
    assert at[30] == at[60] == pytest.approx(0.4)
    assert at[90] == pytest.approx(0.3)
    [depth] = [c for c in found.curves if c.arm == "heart" and c.x == "depth"]
    assert [(x, y) for x, y, _, _ in depth.points] == [
        (0, 0.0), (1, pytest.approx(0.4)), (2, pytest.approx(0.4)), (3, pytest.approx(0.3))
    ]  # fmt: skip
    for curve in found.curves:
        assert all(low <= y <= high for _, y, low, high in curve.points)


def test_bands_are_not_certain_where_all_answers_are_alike(tmp_path: Path) -> None:
    """Three right of three: Wilson's 44%. Before the first attempt there is nothing, for certain."""
    run = made_run(tmp_path / "run", [TWINS, HEART], made_problems(3), flat(lambda arm, k: True))
    found = compare([run])
    bands = {c.arm: c.points for c in found.curves if c.x == "depth"}
    assert bands["heart"][0] == (0, 0.0, 0.0, 0.0)
    assert bands["heart"][1] == (1, 1.0, pytest.approx(0.438, abs=1e-3), 1.0)
    assert bands["heart - twins"][1] == (
        1,
        0.0,
        pytest.approx(-0.562, abs=1e-3),
        pytest.approx(0.562, abs=1e-3),
    )


def test_an_accepted_answer_is_held_from_then_on(tmp_path: Path) -> None:
    def outcome(arm: ArmConfig, problem: Problem) -> Made:
        steps = [Step(False, verdict=False), Step(True, 2, emotion="fear", verdict=True)]
        return Made(steps, stop_reason="verified")

    arm = replace(HEART, judge="oracle")
    found = compare([made_run(tmp_path / "run", [arm], made_problems(6), outcome)])
    [tokens] = [c for c in found.curves if c.x == "tokens"]
    assert tokens.points[0][:2] == (30, 0.0)
    assert tokens.points[-1][:2] == (60, 1.0)


# --- affect and propensities ---------------------------------------------------------------------------


def test_a_claim_about_affect_takes_cues_for_random_too(tmp_path: Path) -> None:
    """One phrase does all the harm: over questions it looks certain, over phrases it is not."""

    def outcome(arm: ArmConfig, problem: Problem) -> Made:
        number = int(problem.id[1:])
        cue = f"fear-{number % 8}"
        charged = arm.name == "heart"
        right = not (charged and number % 8 == 0)
        return Made([Step(True), Step(right, 2, emotion="fear", cue=cue, affective=charged)])

    found = compare([made_run(tmp_path / "run", [HEART, TWINS], made_problems(160), outcome)])
    accuracy, affect = of(found, "heart", "twins"), of(found, "heart", "twins", "affect")
    assert accuracy.p is not None
    assert accuracy.p < 1e-5
    assert affect.difference == pytest.approx(accuracy.difference)
    assert affect.p is not None
    assert affect.p > 0.2
    assert affect.interval is not None
    assert affect.interval[1] > 0
    assert "8 cues" in affect.why
    assert any(m.metric == "affect, crossed bootstrap" for m in found.metrics)


def test_weighting_by_logged_chances_takes_the_choice_of_moments_out(tmp_path: Path) -> None:
    """Anger is drawn when the problem is hard; it does as well as joy. Counting would say otherwise."""

    def outcome(arm: ArmConfig, problem: Problem) -> Made:
        rng = random.Random(problem.id)
        hard = rng.random() < 0.5
        chance = 0.8 if hard else 0.2
        angry = rng.random() < chance
        emotion, propensity = ("anger", chance) if angry else ("happiness", 1 - chance)
        right = rng.random() < (0.2 if hard else 0.8)
        draw = [{"emotion": emotion, "propensity": propensity}]
        return Made([Step(False), Step(right, 2, emotion=emotion)], decisions=[("cues:0", draw)])

    arm = replace(HEART, rotation="personality:calm")
    found = compare([made_run(tmp_path / "run", [arm], made_problems(2000), outcome)])
    by_emotion = {record.emotion: record for record in found.emotions if record.kind == "emotion"}
    assert set(by_emotion) == {"anger", "happiness"}
    for record in by_emotion.values():
        assert record.exploratory
        assert record.value == pytest.approx(0.5, abs=0.05)
        assert record.effect_interval is not None
        assert record.effect_interval[0] < 0 < record.effect_interval[1]
        assert record.effective < record.draws
    [flip] = [f for f in found.flips if f.emotion == "anger"]
    assert flip.wrong_to_right / (flip.wrong_to_right + flip.wrong_to_wrong) < 0.4  # what counting says


# --- what is refused -----------------------------------------------------------------------------------


def _two(tmp_path: Path, **second: Any) -> list[Path]:
    problems = second.pop("problems", made_problems(6))
    arms = second.pop("arms", [TWINS])
    outcome = flat(lambda arm, k: k > 2)
    return [
        made_run(tmp_path / "one", [HEART], made_problems(6), outcome),
        made_run(tmp_path / "two", arms, problems, outcome, **second),
    ]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"problems": made_problems(7)}, "has 6 problems and two 7"),
        ({"problems": [replace(p, reference="0") for p in made_problems(6)]}, "different problems"),
        (
            {"models": {"generator": ModelConfig("other")}},
            "the model.*: generator.name is .test-model. and .other",
        ),
        (
            {"models": {"generator": ModelConfig("test-model", max_tokens=9)}},
            "generator.max_tokens is 2048 and 9",
        ),
        ({"problem_budget": Budget(tokens=100)}, "the caps: problem_budget.tokens"),
        ({"arm_budget": Budget(calls=100)}, "the caps: arm_budget.calls"),
        ({"prompts": {}}, "the prompts"),
        ({"benchmark": {"name": "gpqa", "options": {"repeats": 4}}}, "the benchmark or its options"),
        ({"arms": [replace(TWINS, grader="exact")]}, "different graders"),
        ({"arms": [replace(HEART, max_rounds=5)]}, "has max_rounds 2 in one and 5 in two"),
    ],
)
def test_runs_that_differ_in_something_else_are_refused(
    tmp_path: Path, second: dict[str, Any], said: str
) -> None:
    runs = _two(tmp_path, **second)
    with pytest.raises(NotComparable, match=said):
        compare(runs)


def test_knowing_and_not_knowing_never_meet_in_a_contrast(tmp_path: Path) -> None:
    told = replace(HEART, name="told", judge="oracle")
    single = ArmConfig("single", "chain_of_thought", "oracle")
    arms = [HEART, told, single]
    run = made_run(tmp_path / "run", arms, made_problems(6), flat(lambda arm, k: k > 2))
    found = compare([run])
    assert {(c.a, c.b) for c in found.contrasts} == {("heart", "single"), ("told", "single")}
    with pytest.raises(NotComparable, match="is told by an oracle which answers are right"):
        compare([run], primary="told:heart")
    with pytest.raises(UsageError, match=r"names no two arms.*heart, told, single"):
        compare([run], primary="told:nobody")
    with pytest.raises(UsageError, match="no arm is called 'nobody'"):
        compare([run], arms=["nobody"])
    declared = made_run(
        tmp_path / "declared", arms, made_problems(6), flat(lambda arm, k: k > 2),
        benchmark={"primary": ["told", "heart"]},
    )  # fmt: skip
    with pytest.raises(NotComparable, match="told - heart, which can't be made"):
        compare([declared])


def test_a_label_under_two_judges_is_two_arms(tmp_path: Path) -> None:
    arms = [
        replace(HEART, name="heart/majority", label="heart"),
        replace(HEART, name="heart/oracle", label="heart", judge="oracle"),
        replace(TWINS, name="twins/majority", label="twins"),
    ]
    run = made_run(tmp_path / "run", arms, made_problems(6), flat(lambda arm, k: k > 2))
    found = compare([run])
    assert [arm.arm for arm in found.arms] == ["heart/majority", "heart/oracle", "twins"]
    assert [(c.a, c.b, c.primary) for c in found.contrasts] == [("heart/majority", "twins", True)]
    grid = made_run(
        tmp_path / "grid",
        [
            replace(arm, name=f"{arm.name}/{judge}", label=arm.name, judge=judge)
            for judge in ("majority", "pairwise")
            for arm in (HEART, RESAMPLE, ArmConfig("single", "chain_of_thought"))
        ],
        made_problems(6),
        flat(lambda arm, k: k > 2),
    )
    varied = {(c.a, c.b) for c in compare([grid]).contrasts}
    assert ("heart/majority", "heart/pairwise") in varied
    assert ("heart/majority", "resample/majority") in varied
    assert ("heart/majority", "resample/pairwise") not in varied  # two things at once
    assert ("single/majority", "single/pairwise") not in varied  # the same thing twice
    only = compare([run], arms=["twins", "heart/oracle"])
    assert [arm.arm for arm in only.arms] == ["heart", "twins"]


# --- the command ---------------------------------------------------------------------------------------


def test_the_command_prints_json_or_tables_and_exits_with_2_on_what_it_refuses(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [LOOP, replace(TWINS, max_rounds=3)], made_problems(10), looped)
    shown = heartloop("compare", run)
    assert shown.code == 0
    for title in ("Arms", "Contrasts", "Accuracy at equal compute", "By round", "Drift", "Flips", "Cost"):
        assert title in shown.out
    found = heartloop("compare", run, "--json", "--primary", "heart:twins", "--margin", "0.2").json
    assert set(found) == {
        "runs", "cells", "arms", "contrasts", "curves", "by_round", "flips", "drift", "emotions", "metrics",
        "costs", "notes",
    }  # fmt: skip
    assert found["contrasts"][0]["equivalence"]["margin"] == 0.2
    other = made_run(tmp_path / "other", [HEART], made_problems(9), flat(lambda arm, k: True))
    refused = heartloop("compare", run, other)
    assert (refused.code, refused.out) == (2, "")
    assert "10 problems and other 9" in refused.err
    assert heartloop("compare", run, "--margin", "3").code == 2


def test_hostile_names_are_text(tmp_path: Path) -> None:
    arm = replace(HEART, name="[red]a[/red]\x1b[2Jb")
    run = made_run(tmp_path / "run", [arm], made_problems(3), flat(lambda arm, k: True))
    shown = heartloop("compare", run)
    assert shown.code == 0
    assert "[red]a" in shown.out
    assert "\x1b[2J" not in shown.out


# --- the edges ---------------------------------------------------------------------------------------


def test_runs_by_other_versions_are_said_to_be(tmp_path: Path) -> None:
    folders = [
        made_run(
            tmp_path / str(k), [HEART], made_problems(4), flat(lambda arm, k: k > 2), seed=k,
            benchmark={"versions": {"heartloop": f"0.{k}", "python": f"3.1{k}"}},
        )
        for k in (1, 2)
    ]  # fmt: skip
    [said] = [note.text for note in compare(folders).notes if "version" in note.text]
    assert "heartloop 0.1, 0.2" in said
    assert "python" not in said
    assert not [note for note in compare(folders[:1]).notes if "version" in note.text]


@pytest.mark.parametrize(
    "outcome",
    [
        lambda arm, problem: None,
        lambda arm, problem: Made([Step(None)]),
        lambda arm, problem: Made([], stop_reason="failed"),
        lambda arm, problem: None if problem.id > "p00000" else Made([Step(True)]),
    ],
    ids=["nothing finished", "nothing scored", "all failed", "one finished"],
)
def test_what_has_nothing_to_say_says_so(tmp_path: Path, outcome: Outcome) -> None:
    run = made_run(tmp_path / "run", [HEART, TWINS], made_problems(4), outcome)
    found = compare([run])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert all(contrast.p is None and contrast.why for contrast in found.contrasts)
    assert found.notes
    assert heartloop("compare", run).code == 0


def test_arms_that_know_and_arms_that_do_not_are_said_to_be_apart(tmp_path: Path) -> None:
    arms = [HEART, replace(HEART, name="told", judge="oracle")]
    found = compare([made_run(tmp_path / "run", arms, made_problems(4), flat(lambda arm, k: k > 1))])
    assert found.contrasts == ()
    assert any("no contrast is made between" in note.text for note in found.notes)


def test_a_benchmarks_own_figures_are_those_of_all_cells_of_an_arm(tmp_path: Path) -> None:
    from heartloop.journal.reader import JournalReader
    from heartloop_benchmarks.compared import metrics

    cells = [replace(HEART, name=f"heart/s{seed}", label="heart", seed=seed) for seed in (0, 1)]
    kept = {"name": "gsm8k", "options": {}}
    run = made_run(tmp_path / "run", cells, made_problems(8), flat(lambda arm, k: k % 4 > 0), benchmark=kept)
    with JournalReader(run / "journal.sqlite") as journal:
        found = metrics(kept, [(journal, cell.name) for cell in cells])
        assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (0.75, 16)
        assert metrics({"name": "not installed here"}, [(journal, "heart/s0")]) == {}


@pytest.mark.parametrize(("right", "said"), [(False, "too hard"), (True, "too easy")])
def test_arms_that_had_no_chance_to_differ_are_said_to_have_had_none(
    tmp_path: Path, right: bool, said: str
) -> None:
    run = made_run(tmp_path / "run", [TWINS, HEART], made_problems(40), flat(lambda arm, k: right))
    assert any(said in note.text and note.level == "warning" for note in compare([run]).notes)
    mixed = made_run(tmp_path / "mixed", [TWINS, HEART], made_problems(40), flat(lambda arm, k: k == 0))
    assert not any("too " in note.text for note in compare([mixed]).notes)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_tables_fit_the_terminal_and_cut_nothing(tmp_path: Path, width: int) -> None:
    arms = [TWINS, replace(HEART, name="heart/cascade/s0"), RESAMPLE]
    run = made_run(tmp_path / "run", arms, made_problems(40), flat(lambda arm, k: k % 3 == 0))
    screen = Console(file=io.StringIO(), width=width)
    show_comparison(compare([run]), screen)
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert "\u2026" not in shown
    assert "\nheart/cascade/s0 " in shown
    assert ("Too narrow for" in shown) == (width < 160)
