"""A clock that goes backwards, in real processes: through a run, at a kill, and before the resume."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from tests.cli import backwards
from tests.cli.command import ServerProcess, environment, finish, run_process, sums, wait_for

PROBLEMS, ROUNDS = 60, 3


def started(ahead: float, step: float, *args: str | Path) -> subprocess.Popen[bytes]:
    """The command where the time of day is ``ahead`` seconds off, and goes back with each look."""
    command = [sys.executable, backwards.__file__, str(ahead), str(step), *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment())


def test_a_clock_that_goes_backwards_changes_no_result_no_account_and_no_limit(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", PROBLEMS)
    settings: list[str | Path] = ["--data", data, "--model", "test-model", "--concurrency", "8"]
    settings += ["--max-rounds", str(ROUNDS), "--budget-seconds", "300", "--requests-per-minute", "30000"]
    out = tmp_path / "odd"
    began = time.monotonic()
    with ServerProcess(tmp_path / "log.jsonl", "--delay-ms", "5", "40") as server:
        settings += ["--base-url", server.base_url]
        first = started(0, 60, "run", *settings, "--out", out)
        wait_for(lambda: server.arrived() >= 60, first)
        first.kill()
        assert finish(first).code == -9
        # From here on, a day before the run began.
        done = finish(started(-86_400, 3_600, "resume", out, "--json"))
        assert done.code == 0, done.err
        assert "Traceback" not in done.err
        events = server.events()
        even = run_process("run", *settings, "--out", tmp_path / "even")
        assert even.code == 0, even.err
    assert done.json["solved"] == PROBLEMS
    assert done.json["stop_reasons"] == {"rounds": PROBLEMS}
    # Seconds are those that passed, whatever the time of day says.
    assert 0 < done.json["wall_seconds"] <= time.monotonic() - began
    with closing(sqlite3.connect(out / "journal.sqlite")) as journal:
        states = dict(journal.execute("SELECT state, sum(calls) FROM settlements GROUP BY state"))
        (open_now,) = journal.execute(
            "SELECT count(*) FROM reservations WHERE id NOT IN (SELECT id FROM settlements)"
        ).fetchone()
    assert states["confirmed"] == PROBLEMS * ROUNDS
    assert open_now == 0
    arrived = sum(event["event"] == "arrived" for event in events)
    # Of the killed process's calls in flight, the last may have been reserved and never have left.
    assert states["confirmed"] <= arrived <= states["confirmed"] + states.get("assumed", 0)
    exports = [
        subprocess.run(
            [sys.executable, "-m", "heartloop.cli", "export", str(folder)],
            capture_output=True,
            check=True,
            env=environment(),
        ).stdout
        for folder in (out, tmp_path / "even")
    ]
    assert exports[0] == exports[1]
