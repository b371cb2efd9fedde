"""Named sets of arms, and what a run with stimuli reports."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from heartloop.emotions import rotation_from_spec
from heartloop.errors import UnknownName, UsageError
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.data import read_problems
from heartloop.runs.dry_run import dry_run
from heartloop.runs.presets import PRESETS, preset_arms
from heartloop.runs.run import Run
from heartloop.runs.summary import ArmSummary
from heartloop.strategies.prompts import Prompts
from heartloop.types import Problem
from tests.cli.command import heartloop, sums
from tests.support.fault_server import FaultServer

MODELS = {"generator": ModelConfig("test-model", base_url="http://127.0.0.1:9/v1")}


def test_the_affect_arms_differ_in_one_thing_each() -> None:
    arms = preset_arms("affect", ArmConfig("run", judge="oracle", max_rounds=4, rotation="random@strong"))
    assert [(arm.name, arm.strategy, arm.rotation) for arm in arms] == [
        ("bare_retry", "bare_retry", "random@strong"),
        ("phrase", "heart", "phrase@strong"),
        ("twins", "heart", "neutral:random@strong"),
        ("irrelevant", "heart", "irrelevant:random@strong"),
        ("heart", "heart", "random@strong"),
    ]
    assert {(arm.judge, arm.max_rounds, arm.width, arm.stop) for arm in arms} == {("oracle", 4, 1, None)}
    assert all(rotation_from_spec(arm.rotation).name.endswith("@strong") for arm in arms)


@pytest.mark.parametrize(("rounds", "width"), [(6, 1), (3, 2), (2, 1), (1, 1)])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("judge", ["oracle", "majority"])
def test_no_arm_of_a_preset_makes_more_attempts_than_heart(
    preset: str, rounds: int, width: int, judge: str
) -> None:
    base = ArmConfig("run", judge=judge, max_rounds=rounds, width=width)
    prompts = Prompts.default()
    most = 1 + (rounds - 1) * width
    for arm in preset_arms(preset, base):
        arm.arm(prompts, MODELS)
        found = asyncio.run(
            dry_run(RunConfig(models=MODELS, arms=(arm,)), [Problem("p", "What is 2 + 2?", reference="4")])
        )
        notes = ("critique", "note to yourself", "Distill")
        attempts = [r for _, r in found.requests if not any(n in str(r.messages[-1].content) for n in notes)]
        assert len(attempts) <= most
        if preset == "affect":
            assert len(attempts) == most


def test_bad_presets_are_refused() -> None:
    with pytest.raises(UnknownName, match="affect, baselines"):
        preset_arms("effect", ArmConfig("run"))
    with pytest.raises(UsageError, match="leave --strategy rsa out"):
        preset_arms("affect", ArmConfig("run", strategy="rsa"))


def test_a_memory_without_labels_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    for rotation, said in (("memory", "memory:FOLDER"), (f"memory:{tmp_path}", "no run here")):
        arm = ArmConfig("run", judge="majority", rotation=rotation)
        with pytest.raises(UsageError, match=said):
            RunConfig(models=MODELS, arms=(arm,)).check()
    ArmConfig("run", judge="oracle", rotation="memory").arm(Prompts.default(), MODELS)


def test_the_five_arms_from_the_command_line(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 3)
    with FaultServer(wrong=0.5, delay_ms=(0, 1)) as server:
        options = ["--model", "test-model", "--base-url", server.base_url, "--arms", "affect"]
        done = heartloop(
            "run", "--data", data, *options, "--max-rounds", "3", "--out", tmp_path / "run", "--json"
        )
    assert done.code == 0, done.err
    assert [arm["name"] for arm in done.json["arms"]] == [
        "bare_retry",
        "phrase",
        "twins",
        "irrelevant",
        "heart",
    ]
    assert [arm["calls"] for arm in done.json["arms"]] == [9] * 5
    assert done.json["calls"] == 3 + 5 * 3 * 2  # first attempts are shared


def test_the_mean_over_stimuli_counts_each_alike_and_is_not_the_best() -> None:
    arm = ArmSummary("a", 0, 0, 0, 0, None, (), 0, 0, {}, 0, 0, {"s/1": (9, 9), "s/2": (0, 1), "s/3": (0, 0)})
    assert arm.mean_over_conditions == 0.5


def test_a_run_with_stimuli_says_which_and_reports_their_mean(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 6)
    folder = tmp_path / "run"
    with FaultServer(delay_ms=(0, 1)) as server:
        models = {"generator": ModelConfig("test-model", base_url=server.base_url)}
        arm = ArmConfig("ep", "emotion_prompt", "majority", max_rounds=1)
        with Run.create(folder, RunConfig(models=models, arms=(arm,)), read_problems(data)) as run:
            found = asyncio.run(run.execute()).to_dict()["arms"][0]
    assert found["mean_over_conditions"] == 1.0
    assert sum(row["scored"] for row in found["conditions"].values()) == 6
    assert 2 <= len(found["conditions"]) <= 6
    assert "mean over the stimuli drawn" in " ".join(heartloop("show", folder).out.split())
    exported = [json.loads(line) for line in heartloop("export", folder).out.splitlines()]
    drawn = [row for row in exported if "stimulus:emotion_prompt" in json.dumps(row)]
    assert len(drawn) == 6
    assert all(f'"propensity": {1 / 11}' in json.dumps(row) for row in drawn)
