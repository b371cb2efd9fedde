"""`heartloop budget`: other limits for a run that is at work, from another process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from heartloop.errors import HeartLoopError, UsageError
from heartloop.journal.sqlite import SqliteJournal
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.rebudget import ANSWER_NAME, ASKED_NAME, ask
from heartloop.runs.run import JOURNAL_NAME, Run
from tests.cli.command import heartloop, process, sums
from tests.support.fault_server import FaultServer


@contextmanager
def working(
    tmp_path: Path, server: FaultServer, problems: int, *more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A run that has begun to ask; killed at the end, if it is still there."""
    data = sums(tmp_path / "data.jsonl", problems)
    call = ["--model", "test-model", "--base-url", server.base_url, "--strategy", "single_pass", *more]
    run = process("run", "--data", data, "--out", tmp_path / "run", *call, "--max-tokens", "64", "--json")
    try:
        while not server.calls and run.poll() is None:
            time.sleep(0.01)
        yield run
    finally:
        run.kill()
        run.communicate()


def test_a_working_run_has_its_limits_raised_and_lowered(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with FaultServer(delay_ms=(60, 60)) as server:
        more = ["-c", "1", "--budget-calls", "30", "--budget-tokens", "1000000"]
        with working(tmp_path, server, 400, *more) as run:
            done = heartloop("budget", out, "--budget-calls", "40", "--json")
            assert done.code == 0, done.err
            assert done.json["budget"] == {"tokens": 1_000_000, "calls": 40, "seconds": None, "usd": None}
            for name in (ASKED_NAME, ANSWER_NAME):
                assert not (out / name).exists()

            refused = heartloop("budget", out, "--budget-usd", "1")
            assert refused.code == 2
            assert "that of 'test-model' is unknown" in refused.err
            assert run.wait(timeout=60) == 3
        assert len(server.calls) == 40
        # What was set is what the run goes on with.
        assert heartloop("resume", out).code == 3
        assert len(server.calls) == 40
        with FaultServer(delay_ms=(60, 60)) as server:
            (tmp_path / "other").mkdir()
            with working(tmp_path / "other", server, 400, "-c", "1") as run:
                lowered = heartloop("budget", tmp_path / "other" / "run", "--budget-calls", "1")
                assert "limits are now: 1 calls" in lowered.out
                assert run.wait(timeout=60) == 3
            assert len(server.calls) < 100


def test_where_nobody_is_at_work_it_says_what_to_do(tmp_path: Path) -> None:
    assert "no run here" in heartloop("budget", tmp_path, "--budget-calls", "1").err
    config = RunConfig({"generator": ModelConfig("scripted/echo")}, (ArmConfig("a", "single_pass"),))
    SqliteJournal.create(tmp_path / JOURNAL_NAME, meta={"config": config.to_dict()}).close()
    done = heartloop("budget", tmp_path, "--budget-calls", "1")
    assert done.code == 2
    assert "heartloop resume" in done.err
    assert not (tmp_path / ASKED_NAME).exists()
    assert "no limit given" in heartloop("budget", tmp_path).err
    assert "seconds must be positive" in heartloop("budget", tmp_path, "--budget-seconds", "-1").err


def test_a_process_that_takes_no_limits_is_not_waited_for_in_vain(tmp_path: Path) -> None:
    journal = SqliteJournal.create(tmp_path / JOURNAL_NAME, meta={})
    try:
        with pytest.raises(HeartLoopError, match="did not take the limits"):
            ask(tmp_path, tmp_path / JOURNAL_NAME, {"calls": 3}, patience=0.1)
        assert not (tmp_path / ASKED_NAME).exists()
    finally:
        journal.close()


def test_the_shares_of_a_benchmarks_arms_are_not_broken(tmp_path: Path) -> None:
    config = RunConfig({"generator": ModelConfig("scripted/echo")}, (ArmConfig("a", "single_pass"),))
    shared = replace(config, benchmark={"name": "gsm8k"})
    with Run.create(tmp_path / "run", shared, []) as run, pytest.raises(UsageError, match="equal shares"):
        run.change_limits({"calls": 5})
    with Run.create(tmp_path / "plain", config, []) as run:
        run.change_limits({"calls": 5})
        run.change_limits({"tokens": 7})
        assert (run.config.budget.calls, run.config.budget.tokens) == (5, 7)
        with pytest.raises(UsageError, match="no 'cals'"):
            run.change_limits({"cals": 5})
