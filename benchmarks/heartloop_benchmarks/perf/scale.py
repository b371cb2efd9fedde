"""What size does: to memory, to the event loop, and to the wait before a resumed run goes on.

    python -m heartloop_benchmarks.perf.scale memory [--problems 20000,100000]
    python -m heartloop_benchmarks.perf.scale resume [--calls 100000]
    python -m heartloop_benchmarks.perf.scale lag [--calls 5000] [--repeats 5]

``memory`` runs the command line on a file of problems, with a scripted model, and reads the process's own
peak. ``resume`` makes a finished run, deletes its results (which is what a kill leaves of problems in work),
resumes it with a round more against a listening socket, and takes the time from the process's start to its
first request. ``lag`` compares how late a timer fires while an engine works, with the journal and without.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from heartloop_benchmarks.perf.engine import own_server, server

__all__ = ["main"]

_CLI = (sys.executable, "-m", "heartloop.cli")
_SILENT: Mapping[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


# --- memory -------------------------------------------------------------------------------------------


def memory(problems: int) -> tuple[float, float]:
    """Peak memory in MiB of a run over ``problems`` problems, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = _command(Path(folder), problems, "scripted/echo", "chain_of_thought", "oracle")
        process = subprocess.Popen(command, **_SILENT)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"the run ended with status {os.waitstatus_to_exitcode(status)}")
        return used.ru_maxrss / 1024, time.perf_counter() - start


# --- resume -------------------------------------------------------------------------------------------


def resumed_after(base_url: str, calls: int, rounds: int = 10) -> float:
    """Seconds from the start of ``heartloop resume`` to its first call, with ``calls`` recorded."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listening:
        command = _command(Path(folder), calls // rounds, "vllm/load", "heart", "majority")
        command += ["--base-url", base_url, "--max-rounds", str(rounds)]
        subprocess.run(command, check=True, **_SILENT)
        port = listening.getsockname()[1]
        run = Path(folder) / "run"
        _unfinish(next(run.glob("*.sqlite")), f"http://127.0.0.1:{port}/v1", calls)
        start = time.perf_counter()
        command = [*_CLI, "resume", str(run), "--max-rounds", str(rounds + 1)]
        process = subprocess.Popen(command, **_SILENT)
        try:
            listening.settimeout(120)
            while True:
                connection, _ = listening.accept()
                with connection:
                    if connection.recv(4) == b"POST":
                        return time.perf_counter() - start
                    # A look at the server's models or gauges is no call.
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        finally:
            process.kill()
            process.wait()


def _unfinish(journal: Path, base_url: str, calls: int) -> None:
    """Take the results away, and put another server in the place of the first."""
    with closing(sqlite3.connect(journal)) as connection, connection:
        recorded = connection.execute("SELECT COUNT(*) FROM events WHERE kind = 'completion'").fetchone()[0]
        if recorded != calls:
            raise SystemExit(f"{recorded} calls were recorded, not {calls}")
        connection.execute("DELETE FROM results")
        config = json.loads(connection.execute("SELECT value FROM meta WHERE key = 'config'").fetchone()[0])
        config["models"]["generator"]["base_url"] = base_url
        connection.execute("UPDATE meta SET value = ? WHERE key = 'config'", (json.dumps(config),))


def _command(folder: Path, problems: int, model: str, strategy: str, judge: str) -> list[str]:
    """A run of made-up problems in ``folder``."""
    data = folder / "problems.jsonl"
    with data.open("wb") as file:
        for number in range(problems):
            question = f"What is {number} + {number * 7}? Explain each step. " + "Take care. " * 40
            row = {"id": f"p{number}", "question": question, "reference": str(8 * number)}
            file.write(orjson.dumps(row) + b"\n")
    command = [*_CLI, "run", "--data", str(data), "--answer-field", "reference", "--out", str(folder / "run")]
    return [*command, "--model", model, "--strategy", strategy, "--judge", judge]


# --- lag ----------------------------------------------------------------------------------------------


def lag(base_url: str, calls: int, *, journal: bool) -> float:
    """The 99.9th percentile, in ms, of how late a timer fires while 64 connections are kept busy."""
    command = [sys.executable, "-m", "heartloop_benchmarks.perf.engine_client", "engine-vllm", "--lag"]
    command += ["--base-url", base_url, "--calls", str(calls), *([] if journal else ["--no-journal"])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    return float(orjson.loads(done.stdout.splitlines()[-1])["lag_p999_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("memory", "resume", "lag"))
    parser.add_argument("--problems", default="20000,100000", help="sizes, by commas")
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--server", default="", help="a command that prints READY <port>")
    given = parser.parse_args()
    if given.what == "memory":
        for size in map(int, given.problems.split(",")):
            peak, seconds = memory(size)
            print(f"{size:,} problems: peak memory {peak:.0f} MiB, {seconds:.0f} s", flush=True)
    elif given.what == "resume":
        calls = given.calls or 100_000
        with server(given.server or own_server(1.0, 64)) as url:
            seconds = resumed_after(url, calls)
        print(
            f"{calls:,} recorded calls, none in a finished problem: the first new one after {seconds:.2f} s"
        )
    else:
        on, off = [], []
        with server(given.server or own_server(50.0, 64)) as url:
            for _ in range(given.repeats):
                on.append(lag(url, given.calls or 5_000, journal=True))
                off.append(lag(url, given.calls or 5_000, journal=False))
        print(
            f"lag p99.9, medians of {given.repeats}: {median(on):.2f} ms with the journal, "
            f"{median(off):.2f} ms without: {median(on) - median(off):+.2f} ms"
        )


if __name__ == "__main__":
    main()
