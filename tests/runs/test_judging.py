"""``heartloop judge``: other judges over a recorded run's attempts, and nothing generated."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from heartloop import HeartLoop
from heartloop.backends.scripted import ScriptedBackend
from heartloop.errors import UnknownName, UsageError
from heartloop.journal.reader import JournalReader
from heartloop.journal.sqlite import SqliteJournal
from heartloop.reports.judging import Figure
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.data import read_problems
from heartloop.runs.judging import judge_run_sync, open_rejudging
from heartloop.runs.run import Run, journal_in
from tests.cli.command import heartloop, sums
from tests.support.fault_server import FaultServer

PROBLEMS = 12
ARMS = (
    ArmConfig("resample", "resample", "majority", max_rounds=1, width=5),
    ArmConfig("heart", "heart", "oracle", max_rounds=3, score_after=True),
)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer(wrong=0.5, seed=3) as running:
        yield running


@pytest.fixture(scope="module")
def recorded(server: FaultServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two arms; the tests only read it."""
    folder = tmp_path_factory.mktemp("recorded")
    return made(folder / "run", server, sums(folder / "data.jsonl", PROBLEMS))


def made(folder: Path, server: FaultServer, data: Path, arms: tuple[ArmConfig, ...] = ARMS) -> Path:
    config = RunConfig(
        {"generator": ModelConfig("test-model", base_url=server.base_url, concurrency=4)}, arms
    )
    with Run.create(folder, config, read_problems(data)) as run:
        asyncio.run(run.execute())
    return folder


def test_judges_choose_among_the_recorded_attempts_and_nothing_is_generated(
    recorded: Path, server: FaultServer, tmp_path: Path
) -> None:
    before = len(server.calls)
    own = heartloop("show", recorded, "--json").json["arms"]
    done = heartloop(
        "judge", recorded, "-j", "majority", "-j", "synthesis", "--out", tmp_path / "j", "--json"
    )
    assert done.code == 0, done.err
    judged = {(one["arm"], one["judge"]): one for one in done.json["judged"]}
    assert list(judged) == [(arm.name, judge) for arm in ARMS for judge in ("majority", "synthesis")]

    by_majority = judged["resample", "majority"]
    assert (by_majority["problems"], by_majority["chosen"]) == (PROBLEMS, own[0]["solved"])
    assert by_majority["calls"] == 0
    sent = sum(one["calls"] for one in judged.values())
    assert len(server.calls) - before == sent == done.json["run"]["calls"] > 0
    for one in judged.values():
        assert one["oracle"] >= max(one["first"], one["chosen"])
        assert one["mixed"] > 0
        assert 0 < one["mixed_random"] < one["mixed"]
    # The first and any attempt are the same for all judges of an arm; for HEART they are its rounds'.
    assert judged["heart", "majority"]["first"] == own[1]["by_round"][0]["right"]
    for arm in ARMS:
        assert judged[arm.name, "majority"]["oracle"] == judged[arm.name, "synthesis"]["oracle"]


def test_judgements_are_a_run_that_is_shown_resumed_and_exported(
    recorded: Path, server: FaultServer, tmp_path: Path
) -> None:
    out = tmp_path / "j"
    assert heartloop("judge", recorded, "-j", "pointwise:votes=2", "--out", out).code == 0
    sent = len(server.calls)
    exported = heartloop("export", out).out
    page = heartloop("show", out, "p1").out
    assert "resample@pointwise:votes=2" in page
    assert page.count("boxed") >= 5  # the attempts are there in full
    assert heartloop("resume", out).code == 0
    again = heartloop("judge", recorded, "-j", "pointwise:votes=2", "--out", out)
    assert again.code == 0
    assert len(server.calls) == sent
    assert heartloop("export", out).out == exported
    # In another folder the same again, to the byte.
    assert heartloop("judge", recorded, "-j", "pointwise:votes=2", "--out", tmp_path / "k").code == 0
    assert heartloop("export", tmp_path / "k").out == exported


def test_the_attempts_are_the_recorded_ones_without_what_was_thought_of_them(
    recorded: Path, tmp_path: Path
) -> None:
    judge_run_sync(recorded, ["majority"], out=tmp_path / "j")
    with JournalReader(journal_in(recorded)) as old, JournalReader(journal_in(tmp_path / "j")) as new:
        for arm in ARMS:
            made = {e.key.branch: e.data for e in old.events(arm.name, "p3") if e.key.kind == "attempt"}
            kept = {
                e.key.branch: e.data
                for e in new.events(f"{arm.name}@majority", "p3")
                if e.key.kind == "attempt"
            }
            assert kept == made
            assert not any({"verdict", "score"} & data.keys() for data in kept.values())


def test_judges_are_added_to_what_is_there_and_a_budget_is_kept(
    recorded: Path, server: FaultServer, tmp_path: Path
) -> None:
    out = tmp_path / "j"
    before = len(server.calls)
    short = heartloop("judge", recorded, "-j", "synthesis", "--out", out, "--budget-calls", "3", "--json")
    assert short.code == 3
    assert len(server.calls) - before == 3
    assert sum(one["unfinished"] for one in short.json["judged"]) > 0
    rest = heartloop(
        "judge",
        recorded,
        "-j",
        "synthesis",
        "-j",
        "majority",
        "--out",
        out,
        "--budget-calls",
        "1000",
        "--json",
    )
    assert rest.code == 0
    assert [one["judge"] for one in rest.json["judged"]] == ["synthesis", "synthesis", "majority", "majority"]
    assert not any(one["unfinished"] for one in rest.json["judged"])
    alone = heartloop("judge", recorded, "-j", "synthesis", "--out", tmp_path / "k", "--json").json
    assert rest.json["judged"][:2] == alone["judged"]
    assert rest.json["run"]["calls"] == alone["run"]["calls"]  # nothing was paid twice


def test_one_arm_and_another_model_for_the_judge(recorded: Path, tmp_path: Path) -> None:
    with FaultServer(models=("critic",)) as other:
        found = judge_run_sync(
            recorded,
            ["synthesis"],
            out=tmp_path / "j",
            arms=["resample"],
            models={"generator": ModelConfig("critic", base_url=other.base_url)},
        )
        assert {call["body"]["model"] for call in other.calls} == {"critic"}
    # It adds without mistakes, and finds the right answer wherever a candidate has it.
    [one] = found
    assert (one.arm, one.judge, one.chosen) == ("resample", "synthesis", one.oracle)
    assert one.kept == Figure(1.0, 1.0, 1.0)
    with pytest.raises(UsageError, match="other models"):
        open_rejudging(
            recorded, ["usc"], out=tmp_path / "j", models={"generator": ModelConfig("third", base_url="x")}
        )


def test_a_run_that_stopped_at_an_oracles_yes_is_refused(server: FaultServer, tmp_path: Path) -> None:
    arm = ArmConfig("heart", "heart", "oracle", max_rounds=3)
    folder = made(tmp_path / "run", server, sums(tmp_path / "data.jsonl", 2), (arm,))
    done = heartloop("judge", folder, "-j", "majority")
    assert done.code == 2
    assert "stopped at an oracle's yes" in done.err
    assert "--score-after" in done.err
    assert not (tmp_path / "run-judged").exists()


def test_what_cannot_be_judged_is_said(recorded: Path, server: FaultServer, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown judge 'pairwize'"):
        open_rejudging(recorded, ["pairwize"])
    with pytest.raises(UnknownName, match="unknown arm 'hart'"):
        open_rejudging(recorded, ["majority"], arms=["hart"])
    with pytest.raises(UsageError, match=r"'panel\(oracle,majority\)' knows"):
        open_rejudging(recorded, ["majority", "panel(oracle,majority)"])
    with pytest.raises(UsageError, match="no judge given"):
        open_rejudging(recorded, [])
    with pytest.raises(UsageError, match="no run here"):
        open_rejudging(tmp_path, ["majority"])
    with pytest.raises(UsageError, match="folder of their own"):
        open_rejudging(recorded, ["majority"], out=recorded)
    judge_run_sync(recorded, ["majority"], out=tmp_path / "j")
    planned = heartloop("plan", tmp_path / "j", "--arm", "heart@majority", "--budget-tokens", "1000")
    assert planned.code == 2
    assert "holds judgements" in planned.err
    with pytest.raises(UsageError, match="judge the run that it was made of"):
        open_rejudging(tmp_path / "j", ["majority"])
    other = made(tmp_path / "other", server, sums(tmp_path / "data.jsonl", 2), ARMS[:1])
    with pytest.raises(UsageError, match="holds a run of another kind"):
        open_rejudging(recorded, ["majority"], out=other)
    # The same problems, but other attempts.
    data = sums(tmp_path / "more.jsonl", PROBLEMS)
    with FaultServer(wrong=0.9, seed=5) as worse:
        changed = made(tmp_path / "changed", worse, data)
    with pytest.raises(UsageError, match="judged on other attempts"):
        open_rejudging(changed, ["majority"], out=tmp_path / "j")


@pytest.mark.parametrize("judge", ["weighted", "cascade(majority,deepconf)", "self_certainty"])
def test_a_judge_of_log_probabilities_is_refused_where_the_run_has_none(
    recorded: Path, tmp_path: Path, judge: str
) -> None:
    with pytest.raises(UsageError, match=r"needs log-probabilities.*were made without"):
        open_rejudging(recorded, ["majority", judge], out=tmp_path / "j")
    assert not (tmp_path / "j").exists()


def test_a_judge_that_failed_earlier_keeps_no_other_from_its_work(recorded: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "j", "--arm", "resample"]
    failed = heartloop("judge", recorded, "-j", "follow_up", *out)
    assert failed.code != 0
    assert "log-probabilities of prompts" in failed.err
    done = heartloop("judge", recorded, "-j", "majority", *out)
    assert done.code == 0, done.err
    assert "without its judgement" in done.out  # of the one that failed
    shown = heartloop("judge", recorded, "-j", "majority", *out, "--json").json
    unfinished = {one["judge"]: one["unfinished"] for one in shown["judged"]}
    assert unfinished["majority"] == 0 < unfinished["follow_up"]


def test_a_reward_judge_without_its_model_is_refused_before_anything_is_made(
    recorded: Path, tmp_path: Path
) -> None:
    for spec in ("reward", "panel(majority,keep_first(reward))"):
        with pytest.raises(UsageError, match="--reward-model"):
            open_rejudging(recorded, [spec], out=tmp_path / "j")
    assert not (tmp_path / "j").exists()


def test_a_journal_that_no_run_made_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def solve() -> None:
        async with HeartLoop(
            ScriptedBackend(["\\boxed{1}"]), journal=journal_at, strategy="resample"
        ) as held:
            await held.solve("Which?")

    journal_at = tmp_path / "own" / "journal.sqlite"
    journal_at.parent.mkdir()
    asyncio.run(solve())
    with pytest.raises(UsageError, match="HeartLoop of your own"):
        open_rejudging(journal_at.parent, ["majority"])


def test_a_judge_named_twice_judges_once_and_dollars_are_counted_by_a_given_price(
    recorded: Path, tmp_path: Path
) -> None:
    args = ["-j", "usc", "-j", " usc", "--arm", "resample", "--price", "1000", "1000", "--budget-usd", "4"]
    short = heartloop("judge", recorded, *args, "--out", tmp_path / "j", "--json")
    assert short.code == 3, short.err
    assert [one["judge"] for one in short.json["judged"]] == ["usc"]
    assert 0 < short.json["run"]["cost_usd"] <= 4


def test_the_folder_may_be_named_by_a_dot(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(recorded, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    with open_rejudging(".", ["majority"]) as opened:
        assert opened.run.folder == tmp_path / "run-judged"


def test_what_was_cut_off_while_attempts_were_copied_is_made_good(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "j"
    monkeypatch.setattr("heartloop.runs.judging._ATTEMPTS_AT_ONCE", 10)
    stored = SqliteJournal.add_events
    rounds = []

    def breaks(self: SqliteJournal, events: list[object]) -> int:
        rounds.append(len(events))
        if len(rounds) == 3:
            raise KeyboardInterrupt
        return stored(self, events)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteJournal, "add_events", breaks)
    with pytest.raises(KeyboardInterrupt):
        judge_run_sync(recorded, ["majority"], out=out)
    monkeypatch.undo()
    resumed = heartloop("resume", out, "--json")
    assert resumed.json["finished"] == 0  # no problem is judged on half of its attempts
    found = judge_run_sync(recorded, ["majority"], out=out)
    assert found == judge_run_sync(recorded, ["majority"], out=tmp_path / "k")


def test_unfinished_problems_are_left_out_and_taken_up_later(server: FaultServer, tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 6)
    model = ["--model", "test-model", "--base-url", server.base_url]
    more = ["--strategy", "resample", "--width", "3", "--max-rounds", "1", "-c", "1", "--active", "1"]
    run = tmp_path / "run"
    assert heartloop("run", "--data", data, "--limit", "4", "--out", run, *model, *more).code == 0
    first = heartloop("judge", run, "-j", "majority", "--json").json
    assert first["judged"][0]["problems"] == 4
    extra = sums(tmp_path / "extra.jsonl", 2, first=4)
    assert heartloop("resume", run, "--data", extra).code == 0
    second = heartloop("judge", run, "-j", "majority", "--json").json
    assert second["folder"] == str(tmp_path / "run-judged")
    assert (second["judged"][0]["problems"], second["left_out"]) == (6, 0)
    assert json.loads((tmp_path / "run-judged" / "summary.json").read_text())["finished"] == 6


def test_a_server_that_takes_no_schema_is_asked_without(recorded: Path, tmp_path: Path) -> None:
    with FaultServer(refuses=("response_format",)) as plain:
        [one] = judge_run_sync(
            recorded,
            ["pointwise"],
            out=tmp_path / "j",
            arms=["resample"],
            models={"generator": ModelConfig("test-model", base_url=plain.base_url, concurrency=1)},
        )
        taken = ["response_format" in call["body"] for call in plain.calls]
    assert (one.unfinished, taken[0]) == (0, True)
    assert not any(taken[1:])


def test_without_the_extra_all_but_the_share_is_there_and_it_says_what_to_install(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "j"
    [with_it] = judge_run_sync(recorded, ["majority"], out=out, arms=["resample"])
    for name in ("numpy", "scipy", "scipy.special"):
        monkeypatch.setitem(sys.modules, name, None)
    [without] = judge_run_sync(recorded, ["majority"], out=out, arms=["resample"])
    assert without.kept is None
    assert "pip install 'heartloop[report]'" in without.kept_why
    assert replace(without, kept=with_it.kept, kept_why=with_it.kept_why) == with_it


def test_a_share_that_cannot_be_shown_says_why(server: FaultServer, tmp_path: Path) -> None:
    with FaultServer() as good:
        folder = made(tmp_path / "run", good, sums(tmp_path / "data.jsonl", 3), ARMS[:1])
    shown = heartloop("judge", folder, "-j", "majority")
    assert shown.code == 0
    assert "gain kept: the oracle gains 0.000" in shown.out
