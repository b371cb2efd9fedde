"""kill -9 of a run, and of its server, with the server's own log as the witness."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from tests.cli import killed
from tests.cli.command import Done, ServerProcess, environment, finish, process, run_process, sums, wait_for
from tests.support.fault_server import FaultServer

PROBLEMS, ROUNDS, CONCURRENCY, KILLS = 200, 4, 32, 20


def settings(data: Path, base_url: str, out: Path) -> list[str | Path]:
    """HEART, S2, majority."""
    model = ["--model", "test-model", "--base-url", base_url, "--concurrency", str(CONCURRENCY)]
    loop = ["--strategy", "heart", "--judge", "majority", "--max-rounds", str(ROUNDS), "--seed", "11"]
    return ["--data", data, *model, *loop, "--out", out]


def exported(folder: Path) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "heartloop.cli", "export", str(folder)],
        capture_output=True,
        check=True,
        env=environment(),
    )
    return done.stdout


def open_reservations(folder: Path) -> set[int]:
    """Ids of the calls whose reservation is committed, and no answer: those in flight at a kill."""
    query = "SELECT id FROM reservations WHERE id NOT IN (SELECT id FROM settlements)"
    with closing(sqlite3.connect(folder / "journal.sqlite")) as connection:
        return {row[0] for row in connection.execute(query)}


def killed_by_a_commit(number: int, *args: str | Path) -> Done:
    """The command, dead right after the commit of that record, before anybody is told of it."""
    command = [sys.executable, killed.__file__, str(number), *map(str, args)]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return finish(subprocess.Popen(command, stdin=nothing, stdout=pipe, stderr=pipe, env=environment()))


def killed_in_flight(server: ServerProcess, calls: int, seconds: float, *args: str | Path) -> Done:
    """The command, killed from outside after that many further calls and so many seconds."""
    goal = server.arrived() + calls
    started = process(*args)
    wait_for(lambda: server.arrived() >= goal, started)
    time.sleep(seconds)
    started.kill()
    return finish(started)


def test_kill_9_at_20_moments_pays_no_confirmed_call_twice_and_changes_no_result(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", PROBLEMS)
    with FaultServer(wrong=0.3) as calm:
        undisturbed = run_process("run", *settings(data, calm.base_url, tmp_path / "calm"))
    assert undisturbed.code == 0, undisturbed.err
    assert len(calm.calls) == PROBLEMS * ROUNDS

    out = tmp_path / "killed"
    moments = random.Random(2509)
    lost: list[set[int]] = []
    with ServerProcess(tmp_path / "log.jsonl", "--delay-ms", "5", "40", "--wrong", "0.3") as server:
        command: list[str | Path] = ["run", *settings(data, server.base_url, out)]
        for kill in range(KILLS):
            if kill % 3 == 1:
                done = killed_by_a_commit(moments.randint(2, 150), *command)
            else:
                calls, seconds = moments.randint(1, 45), moments.uniform(0, 0.03)
                done = killed_in_flight(server, calls, seconds, *command)
            assert done.code == -9, f"ended before kill {kill + 1}: {done}"
            assert done.complaints == []
            lost.append(open_reservations(out).difference(*lost))
            command = ["resume", out]
        last = run_process(*command, "--json")
        events = server.events()
        assert run_process(*command).code == 0
        assert len(server.events()) == len(events), "a finished run was resumed and sent something"

    assert last.code == 0, last.err
    assert last.complaints == []
    assert exported(out) == exported(tmp_path / "calm")

    in_flight = [len(ids) for ids in lost]
    arrived = Counter(event["request"] for event in events if event["event"] == "arrived")
    repeated = arrived.total() - len(arrived)
    print(f"{KILLS} kills with {in_flight} calls in flight, {repeated} of {arrived.total()} calls repeated")
    assert len(arrived) == PROBLEMS * ROUNDS
    assert max(in_flight) <= CONCURRENCY
    assert 0 < repeated <= sum(in_flight)
    check_ledger(out, events, assumed=sum(in_flight))
    summary = last.json
    assert summary["calls"] == PROBLEMS * ROUNDS + sum(in_flight)


def check_ledger(folder: Path, events: list[dict[str, object]], *, assumed: int) -> None:
    """What the journal charges is what the server answered, once for each request."""
    answered = {str(e["request"]): int(str(e["tokens"])) for e in events if e["event"] == "answered"}
    query = (
        "SELECT r.problem, r.branch, r.ordinal, s.state, s.tokens, s.calls FROM reservations r"
        " LEFT JOIN settlements s ON s.id = r.id"
    )
    with closing(sqlite3.connect(folder / "journal.sqlite")) as connection:
        rows = connection.execute(query).fetchall()
    confirmed = [row for row in rows if row[3] == "confirmed"]
    assert len({row[:3] for row in confirmed}) == len(confirmed) == PROBLEMS * ROUNDS
    assert sum(row[4] for row in confirmed) == sum(answered.values())
    assert all(row[5] == 1 for row in confirmed)
    assert sum(row[3] == "assumed" for row in rows) == assumed
    assert len(rows) == PROBLEMS * ROUNDS + assumed, "a reservation was left open or released"
    assert len(rows) >= sum(event["event"] == "arrived" for event in events)


def test_a_killed_server_that_comes_back_costs_no_problem(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 40)
    with ServerProcess(tmp_path / "log.jsonl", "--delay-ms", "5", "40") as server:
        started = process(
            *("run", "--data", data, "--model", "test-model", "--base-url", server.base_url),
            *("--max-rounds", "3", "--concurrency", "8", "--out", tmp_path / "run", "--json"),
        )
        wait_for(lambda: server.arrived() >= 50, started)
        server.kill()
        time.sleep(0.5)
        server.start()
        done = finish(started)
        events = server.events()
    assert done.code == 0, done.err
    assert done.json["solved"] == 40
    assert done.json["failures"] == []
    assert done.json["stop_reasons"] == {"rounds": 40}
    # What was in flight when the server died may have been billed; nothing else was assumed or repeated.
    arrived = Counter(event["request"] for event in events if event["event"] == "arrived")
    assert len(arrived) == 120
    assert arrived.total() - 120 <= 8
    assert done.json["tokens"]["confirmed"] == sum(e["tokens"] for e in events if e["event"] == "answered")
