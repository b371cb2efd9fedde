"""A server that fails in every way, as whoever runs the command sees it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Done, ServerProcess, environment, heartloop, run_process, sums
from tests.support.fault_server import FaultServer

KEY = "sk-proj-RECOGNISABLE0123456789abcdefghijklmnopqrstuvwxyz"
CALL = ("--model", "test-model", "--concurrency", "4", "--max-rounds", "2")


def run(server: FaultServer, tmp_path: Path, *more: str | Path, problems: int = 4) -> Done:
    data = sums(tmp_path / "data.jsonl", problems)
    return heartloop(
        *("run", "--data", data, "--base-url", server.base_url, "--out", tmp_path / "run", *CALL, *more)
    )


@dataclass
class Only:
    """A script: this fault for every call about that problem, until it is healed."""

    problem: str
    fault: str
    healed: bool = False

    def __call__(self, body: dict[str, Any], number: int) -> str:
        meant = f"What is {self.problem}?" in str(body["messages"])
        return self.fault if meant and not self.healed else "ok"


@pytest.mark.parametrize(
    ("fault", "tries", "error"),
    [
        ("500", 2, "ServerError"),
        ("reset", 2, "ConnectionLost"),
        ("malformed", 2, "BadResponse"),
        ("truncated", 2, "ConnectionLost"),
        ("truncated_json", 2, "BadResponse"),
        ("empty_choices", 2, "BadResponse"),
        ("hang", 2, "CallTimeout"),
        ("400", 1, "BadRequest"),
        ("context_length", 1, "ContextOverflow"),
        ("content_filter_400", 1, "ContentFiltered"),
    ],
)
def test_one_problems_failure_never_ends_the_run_and_resume_tries_it_again(
    tmp_path: Path, fault: str, tries: int, error: str
) -> None:
    script = Only("1 + 2", fault)
    with FaultServer(script) as server:
        patience = "0.5" if fault == "hang" else "20"
        done = run(server, tmp_path, "--retries", "1", "--timeout", patience, "--json")
        assert done.code == 1
        assert [call["fault"] for call in server.calls].count(fault) == tries
        summary = done.json
        assert summary["stop_reasons"] == {"rounds": 3, "failed": 1}
        [failure] = summary["failures"]
        assert failure["problem"] == "p1"
        assert failure["error"].startswith(error)

        shown = heartloop("show", tmp_path / "run")
        assert re.search(rf"failed p1 \(heart\): {error}: ", shown.out)
        assert "failed 1, rounds 3" in shown.out

        script.healed, before = True, len(server.calls)
        resumed = heartloop("resume", tmp_path / "run", "--json")
        assert resumed.code == 0
        assert resumed.json["stop_reasons"] == {"rounds": 4}
        assert resumed.json["solved"] == 4
        assert resumed.json["failures"] == []
        assert len(server.calls) - before == 2  # the failed problem's two rounds, and nothing else


@pytest.mark.parametrize(
    ("fault", "answers"), [("length", 0), ("content_filter", 1), ("refusal", 0), ("null_content", 0)]
)
def test_an_odd_answer_is_an_answer(tmp_path: Path, fault: str, answers: int) -> None:
    with FaultServer(Only("1 + 2", fault)) as server:
        done = run(server, tmp_path, "--json")
        assert done.code == 0
        assert done.json["solved"] == 3 + answers
        assert len(server.calls) == 8
    shown = heartloop("show", tmp_path / "run", "p1")
    assert ("cut at max_tokens" in shown.out) == (fault == "length")


@pytest.mark.parametrize(("fault", "least"), [("429", 0.2), ("429-seconds", 2.0), ("429-ms", 0.25)])
def test_a_429_is_waited_out(tmp_path: Path, fault: str, least: float) -> None:
    with FaultServer([fault]) as server:
        start = time.monotonic()
        done = run(server, tmp_path, "--json", problems=1)
        assert time.monotonic() - start >= least
        assert done.code == 0
        assert done.json["calls"] == 3  # the refused one counts as a call, and as no tokens
        assert done.json["tokens"]["assumed"] == 0
        assert [call["fault"] for call in server.calls] == [fault, "ok", "ok"]


def test_a_429_with_a_date_is_waited_out(tmp_path: Path) -> None:
    with FaultServer(["429-date"]) as server:
        start = time.monotonic()
        done = run(server, tmp_path, problems=1)
        assert 3.9 <= time.monotonic() - start <= 15  # five seconds, in whole ones
        assert done.code == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", "the API key was refused"),
        ("402", "no quota or credit"),
        ("404", "the server knows: test-model"),
    ],
)
def test_what_every_call_would_meet_ends_the_run_which_stays_resumable(
    tmp_path: Path, fault: str, said: str
) -> None:
    healed = False
    with FaultServer(lambda body, number: "ok" if healed else fault) as server:
        done = run(server, tmp_path, "--json", problems=50)
        assert done.code == 1
        assert said in done.err
        assert f"heartloop resume {tmp_path / 'run'}" in done.err
        assert said in done.json["error"]
        assert len(server.calls) <= 8, "it went on calling"
        healed = True
        resumed = heartloop("resume", tmp_path / "run", "--json")
        assert resumed.code == 0
        assert resumed.json["solved"] == 50
        assert resumed.json["error"] is None


def test_a_server_that_is_down_is_said_soon_and_the_run_is_kept(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 20)
    with ServerProcess(tmp_path / "log.jsonl") as gone:
        address = gone.base_url
    start = time.monotonic()
    done = run_process(
        *("run", "--data", data, "--base-url", address, "--out", tmp_path / "run", *CALL, "--retries", "2")
    )
    assert time.monotonic() - start < 30
    assert done.code == 1
    assert done.out == ""
    assert f"no connection to {address}" in done.err
    assert "(tried 3 times)" in done.err
    assert "Traceback" not in done.err
    with FaultServer() as server:
        resumed = heartloop("resume", tmp_path / "run", "--base-url", server.base_url, "--json")
    assert resumed.code == 0
    assert resumed.json["solved"] == 20


def test_no_byte_of_the_key_is_kept_or_said(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 3)
    env = environment(OPENAI_API_KEY=KEY)

    def command(name: str, url: str) -> Done:
        return run_process(
            *("run", "--data", data, "--base-url", url, "--out", tmp_path / name, *CALL, "-v", "--json"),
            *("--retries", "1"),
            env=env,
        )

    def fault(body: dict[str, Any], number: int) -> str:
        return {0: "500", 1: "403"}.get(number, "ok")

    with FaultServer(api_key=KEY) as server:
        right = command("right", server.base_url)
        assert right.code == 0, right.err
        assert server.calls[0]["headers"]["authorization"] == f"Bearer {KEY}"
    with FaultServer(api_key="another") as server:  # its 401 quotes the key
        refused = command("refused", server.base_url)
        assert refused.code == 1
    with FaultServer(fault) as server:  # so does its 403
        forbidden = command("forbidden", server.base_url)
        assert forbidden.code == 1
    shown = run_process("show", tmp_path / "forbidden", env=env)
    texts = [text for done in (right, refused, forbidden, shown) for text in (done.out, done.err)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len([path for path in files if path.name == "journal.sqlite"]) == 3
    for content in [*(text.encode() for text in texts), *(path.read_bytes() for path in files)]:
        for piece in (KEY, KEY[8:24], KEY[-12:]):
            assert piece.encode() not in content


def test_what_an_error_quotes_does_not_steer_the_terminal(tmp_path: Path) -> None:
    done = heartloop("resume", tmp_path / "\x1b[2Jnothing\u202e")
    assert done.code == 2
    assert "\x1b" not in done.err
    assert "\u202e" not in done.err
