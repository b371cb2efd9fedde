"""Ctrl-C and SIGTERM, once and twice, in real processes and in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.command import (
    COMMAND,
    ServerProcess,
    environment,
    finish,
    process,
    run_process,
    sums,
    wait_for,
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_drains(tmp_path: Path, number: int) -> None:
    data = sums(tmp_path / "data.jsonl", 40)
    with ServerProcess(tmp_path / "log.jsonl", "--delay-ms", "150", "300") as server:
        started = process(
            *("run", "--data", data, "--model", "test-model", "--base-url", server.base_url),
            *("--max-rounds", "3", "--concurrency", "8", "--out", tmp_path / "run", "--json"),
        )
        wait_for(lambda: server.arrived() >= 12, started)
        sent = server.arrived()
        started.send_signal(number)
        done = finish(started)
        assert done.code == 130
        # What was in flight was answered and recorded; what may have left while the signal came, too.
        events = Counter(event["event"] for event in server.events())
        assert events["cancelled"] == 0
        assert events["arrived"] >= sent
        assert events["answered"] == events["arrived"] == done.json["calls"]
        assert done.json["interrupted"] is True
        assert done.json["tokens"]["assumed"] == 0
        assert done.json["pending"] > 0
        # Nothing but the one line: no stray task, no warning.
        assert done.complaints == [
            "Draining: waiting for the calls in flight. Press Ctrl-C again to cancel them."
        ]
        resumed = run_process("resume", tmp_path / "run", "--json", "--concurrency", "64")
        assert resumed.code == 0, resumed.err
        assert resumed.json["solved"] == 40
        assert server.arrived() == resumed.json["calls"] == 120  # nothing was asked twice


def test_two_signals_cancel(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 40)
    with ServerProcess(tmp_path / "log.jsonl", "--rate", "hang=1") as server:
        started = process(
            *("run", "--data", data, "--model", "test-model", "--base-url", server.base_url),
            *("--max-rounds", "3", "--concurrency", "8", "--out", tmp_path / "run", "--json"),
        )
        wait_for(lambda: server.arrived() >= 8, started)
        started.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert started.poll() is None, "it did not wait for the calls in flight"
        start = time.monotonic()
        started.send_signal(signal.SIGINT)
        done = finish(started)
        assert time.monotonic() - start < 5
        assert done.code == 130
        assert len(done.complaints) == 2
        assert done.complaints[1] == "Cancelling the calls in flight."
        wait_for(lambda: sum(event["event"] == "cancelled" for event in server.events()) == 8)
    # They may have been billed.
    assert done.json["calls"] == 8
    assert done.json["tokens"]["assumed"] > 0
    assert done.json["pending"] == 40


def test_ctrl_c_ends_a_solve(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log.jsonl", "--rate", "hang=1") as server:
        started = process("solve", "What is 1 + 2?", "--model", "m", "--base-url", server.base_url)
        wait_for(lambda: server.arrived() >= 1, started)
        started.send_signal(signal.SIGINT)
        done = finish(started)
        wait_for(lambda: any(event["event"] == "cancelled" for event in server.events()))
    assert done.code == 130
    assert "Traceback" not in done.err
    assert "never" not in done.err  # "Task was destroyed ...", "coroutine ... was never awaited"


@pytest.mark.parametrize("columns", [80, 160])
def test_the_bar_on_a_terminal(tmp_path: Path, columns: int) -> None:
    data = sums(tmp_path / "data.jsonl", 60)
    with ServerProcess(tmp_path / "log.jsonl", "--delay-ms", "100", "200") as server:
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        arguments = ["run", "--data", str(data), "--model", "test-model", "--base-url", server.base_url]
        arguments += ["--max-rounds", "2", "--concurrency", "8", "--price", "1", "2", "-v"]
        started = subprocess.Popen(
            [*COMMAND, *arguments, "--out", str(tmp_path / "run")],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment(TERM="xterm-256color"),
            start_new_session=True,
        )
        os.close(follower)
        screen = b""
        interrupted = False
        while True:
            try:
                screen += os.read(leader, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not interrupted and server.arrived() > 60:
                started.send_signal(signal.SIGINT)
                interrupted = True
        os.close(leader)
        assert started.wait(60) == 130
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", screen.decode()).splitlines()
    text = " ".join(lines)
    # All of it is there at any width: bar, problems, time, time left, calls, tokens, spend, accuracy.
    assert "━" in text
    assert re.search(r"\d+/60", text)
    assert re.search(r"0:00:\d\d left", text)
    assert re.search(r"\d+ calls \(\d in flight\), [\d,]+ tokens, \$0\.\d{4}, 100\.0% right", text)
    assert "Draining" in text
    assert "draining, " in text
    assert f"heartloop resume {tmp_path / 'run'}" in "".join(lines)
    assert "httpx" not in text
