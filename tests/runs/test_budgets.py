"""Budgets and extensions of a run, against what the server counted."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from tests.cli.command import Done, heartloop, sums
from tests.support.fault_server import FaultServer

PROBLEMS, ROUNDS = 12, 4


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(delay_ms=(1, 10), wrong=0.3) as running:
        yield running


def run(server: FaultServer, tmp_path: Path, *more: str, name: str = "run") -> Done:
    data = sums(tmp_path / "data.jsonl", PROBLEMS)
    call = ["--model", "test-model", "--base-url", server.base_url, "--concurrency", "4"]
    call += ["--max-tokens", "64", "--max-rounds", str(ROUNDS), "--json", *more]
    return heartloop("run", "--data", data, "--out", tmp_path / name, *call)


def results(folder: Path) -> list[str]:
    """Results and completions; a shorter run's last choice stays in the record beside them."""
    lines = heartloop("export", folder).out.splitlines()
    return [line for line in lines if '"kind":"result"' in line or '"kind":"completion"' in line]


def spent(server: FaultServer) -> dict[str, float]:
    calls = list(server.calls)
    tokens = sum(call.get("tokens", 0) for call in calls)
    return {"calls": len(calls), "tokens": tokens, "usd": 2 * tokens / 1e6}


@pytest.mark.parametrize(
    ("limit", "amount", "more", "raised"),
    [
        ("calls", "17", [], "1000"),
        ("tokens", "2600", [], "1000000"),
        ("usd", "0.004", ["--price", "2", "2"], "10"),
    ],
)
def test_a_budget_is_never_overrun_and_every_problem_has_its_best_attempt(
    tmp_path: Path, server: FaultServer, limit: str, amount: str, more: list[str], raised: str
) -> None:
    done = run(server, tmp_path, f"--budget-{limit}", amount, *more)
    assert done.code == 3
    assert 0 < spent(server)[limit] <= float(amount)
    assert done.json["finished"] == PROBLEMS
    assert done.json["stop_reasons"]["budget"] > 0
    assert f"the run's budget of {float(amount) if limit == 'usd' else int(amount):,} {limit}" in str(
        done.json["budget_ended"]
    )
    for number in range(PROBLEMS):
        problem = heartloop("show", tmp_path / "run", f"p{number}", "--json").json
        [arm] = problem["arms"]
        if arm["attempts"]:
            assert arm["result"]["answer"] in [attempt["answer"] for attempt in arm["attempts"]]
        assert arm["result"]["status"] in ("budget", "done")
    again = heartloop("resume", tmp_path / "run")
    assert again.code == 3
    assert spent(server)[limit] <= float(amount)
    assert "higher limit" in again.out

    resumed = heartloop("resume", tmp_path / "run", f"--budget-{limit}", raised, "--json")
    assert resumed.code == 0
    assert resumed.json["stop_reasons"] == {"rounds": PROBLEMS}
    assert resumed.json["budget_ended"] is None
    assert len(server.calls) == PROBLEMS * ROUNDS  # nothing was asked again
    assert resumed.json["tokens"]["confirmed"] == spent(server)["tokens"]


def test_a_run_is_gone_on_with_from_another_folder(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prices.toml").write_text('[[price]]\nmodels = ["test-model"]\nprompt = 2\ncompletion = 2\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(server, tmp_path, "--budget-usd", "0.004", "--prices", "prices.toml").code == 3
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert heartloop("resume", "../run", "--budget-usd", "10").code == 0


def test_seconds(tmp_path: Path) -> None:
    with FaultServer(delay_ms=(100, 100)) as slow:
        done = run(slow, tmp_path, "--budget-seconds", "0.45")
        assert done.code == 3
        assert 0.4 < done.json["wall_seconds"] < 3
        assert "seconds" in done.json["budget_ended"]
        assert heartloop("resume", tmp_path / "run").code == 3  # they count from the run's beginning
        assert heartloop("resume", tmp_path / "run", "--budget-seconds", "100").code == 0


def test_a_problems_own_limits_are_no_failure_of_the_run(tmp_path: Path, server: FaultServer) -> None:
    done = run(server, tmp_path, "--problem-calls", "2")
    assert done.code == 0
    assert done.json["stop_reasons"] == {"budget": PROBLEMS}
    assert len(server.calls) == 2 * PROBLEMS
    resumed = heartloop("resume", tmp_path / "run", "--problem-calls", "4", "--json")
    assert resumed.code == 0
    assert resumed.json["stop_reasons"] == {"rounds": PROBLEMS}

    before = len(server.calls)
    done = run(server, tmp_path, "--problem-tokens", "600", name="tokens")
    assert done.code == 0
    by_problem: dict[str, int] = {}
    for call in server.calls[before:]:
        question = str(call["body"]["messages"][0]["content"])
        by_problem[question] = by_problem.get(question, 0) + call["tokens"]
    assert len(by_problem) == PROBLEMS
    assert max(by_problem.values()) <= 600


def test_a_problems_own_seconds_and_dollars_hold_over_a_resume(tmp_path: Path) -> None:
    with FaultServer(delay_ms=(200, 200)) as slow:
        assert run(slow, tmp_path, "--problem-seconds", "0.5", "--price", "2", "2").code == 0
        sent = len(slow.calls)
        assert 0 < sent <= 3 * PROBLEMS
        again = heartloop("resume", tmp_path / "run", "--json")
        assert again.code == 0
        assert again.json["stop_reasons"] == {"budget": PROBLEMS}
        assert len(slow.calls) == sent  # the seconds of before count
        assert heartloop("resume", tmp_path / "run", "--problem-seconds", "60").code == 0
        assert len(slow.calls) > sent

        done = run(slow, tmp_path, "--problem-usd", "0.0005", "--price", "2", "2", name="usd")
        assert done.code == 0
        assert 0 < done.json["cost_usd"] <= PROBLEMS * 0.0005
        assert done.json["stop_reasons"] == {"budget": PROBLEMS}
        refused = run(slow, tmp_path, "--problem-usd", "0.0005", name="refused")
        assert "needs a price" in refused.err


def test_a_budget_in_which_nothing_fits_sends_nothing(tmp_path: Path, server: FaultServer) -> None:
    done = run(server, tmp_path, "--budget-tokens", "10")
    assert done.code == 3
    assert server.calls == []
    assert done.json["stop_reasons"] == {"budget": PROBLEMS}


def test_a_finished_run_is_extended(tmp_path: Path, server: FaultServer) -> None:
    assert run(server, tmp_path).code == 0
    out = tmp_path / "run"
    assert len(server.calls) == PROBLEMS * ROUNDS

    rounds = heartloop("resume", out, "--max-rounds", str(ROUNDS + 2), "--json")
    assert rounds.code == 0
    assert len(server.calls) == PROBLEMS * (ROUNDS + 2)
    assert len(rounds.json["arms"][0]["by_round"]) == ROUNDS + 2

    further = sums(tmp_path / "more.jsonl", 3, first=100)
    data = heartloop("resume", out, "--data", further, "--json")
    assert data.code == 0
    assert data.json["problems"] == PROBLEMS + 3
    assert len(server.calls) == (PROBLEMS + 3) * (ROUNDS + 2)
    # A second run from the start with the longer settings comes to the same.
    whole = tmp_path / "whole"
    both = tmp_path / "both.jsonl"
    both.write_bytes((tmp_path / "data.jsonl").read_bytes() + further.read_bytes())
    call = ["--model", "test-model", "--base-url", server.base_url, "--max-tokens", "64"]
    assert heartloop("run", "--data", both, "--out", whole, *call, "--max-rounds", str(ROUNDS + 2)).code == 0
    assert results(whole) == results(out)

    sent = len(server.calls)
    for options, said in (
        (["--max-rounds", "2"], "can be raised on resume, not lowered; this one has 6"),
        (["--width", "3"], "No such option"),
        (["--data", str(further)], "two problems have the id 'p100'"),
        (["--budget-usd", "1"], "needs a price"),
        (["--prompts", "other.toml"], "No such option"),
    ):
        refused = heartloop("resume", out, *options)
        assert refused.code == 2
        assert said in refused.err
    assert heartloop("resume", out).code == 0
    assert len(server.calls) == sent


def test_independent_attempts_do_not_flip(tmp_path: Path, server: FaultServer) -> None:
    done = run(server, tmp_path, "--strategy", "resample", "--width", "2")
    assert done.code == 0
    [arm] = done.json["arms"]
    assert len(server.calls) == PROBLEMS * ROUNDS * 2
    assert (arm["wrong_to_right"], arm["right_to_wrong"]) == (0, 0)
    assert 0 < arm["by_round"][0]["right"] <= arm["scored"]


def test_a_replay_that_does_not_match_is_a_failure(tmp_path: Path, server: FaultServer) -> None:
    """A deck that was changed behind the run's back."""
    wording = resources.files("heartloop.emotions").joinpath("deck.jsonl").read_text(encoding="utf-8")
    deck = tmp_path / "deck.jsonl"
    deck.write_text(wording, encoding="utf-8")
    assert run(server, tmp_path, "--deck", str(deck)).code == 0
    sent = len(server.calls)
    deck.write_text(wording.replace(" the ", " thy "), encoding="utf-8")
    done = heartloop("resume", tmp_path / "run", "--max-rounds", "5", "--json")
    assert done.code == 1
    assert done.json["failures"]
    assert all("ReplayMismatch" in failure["error"] for failure in done.json["failures"])
    assert done.json["finished"] == PROBLEMS  # the earlier results stand
    assert len(server.calls) - sent < PROBLEMS
