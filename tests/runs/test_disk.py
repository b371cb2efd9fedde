"""Disks that are full or read-only, and folders and journals that can't be used."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import finish, heartloop, process, sums, write_lines
from tests.support.fault_server import FaultServer

CALL = ("--model", "test-model", "--max-rounds", "2", "--concurrency", "4")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(
    tmp_path: Path, server: FaultServer
) -> None:
    data = sums(tmp_path / "data.jsonl", 200)
    out = tmp_path / "run"

    def little_room() -> None:
        # A file of this process can't grow beyond that: writes fail as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    started = process(
        "run", "--data", data, "--base-url", server.base_url, "--out", out, *CALL, preexec_fn=little_room
    )
    done = finish(started)
    assert done.code == 1
    assert "can't write the journal" in done.err
    assert str(out / "journal.sqlite") in done.err
    assert f"heartloop resume {out}" in done.err
    assert "Traceback" not in done.err
    sent = len(server.calls)
    assert sent < 400, "it went on sending"
    resumed = heartloop("resume", out, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["solved"] == 200
    assert len(server.calls) <= 400 + 8  # those that were in flight were asked again


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_small_file_system_fills_up(tmp_path: Path, server: FaultServer) -> None:
    data = sums(tmp_path / "data.jsonl", 200)
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40M", "tmpfs", small], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    call: list[str | Path] = ["run", "--data", data, "--base-url", server.base_url, *CALL, "--out"]
    try:
        ballast = small / "ballast"
        ballast.write_bytes(b"x" * (40 * 2**20 - 300_000))
        done = heartloop(*call, small / "run")
        assert done.code == 1
        assert "The disk is full: free some space" in done.err
        assert len(server.calls) < 400, "it went on sending"
        ballast.unlink()
        resumed = heartloop("resume", small / "run", "--json")
        assert resumed.code == 0, resumed.err
        assert resumed.json["solved"] == 200
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        for out in (small / "new", small):
            done = heartloop(*call, out)
            assert done.code == 1
            assert "Read-only file system" in done.err
            assert "choose another place" in done.err.lower()
        assert heartloop("resume", small / "run").code == 1
        assert heartloop("show", small / "run").code == 0, "looking at a run needs no room"
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_out_that_is_a_run_or_a_file_is_refused(tmp_path: Path, server: FaultServer) -> None:
    data = sums(tmp_path / "data.jsonl", 3)
    call: list[str | Path] = ["run", "--data", data, "--base-url", server.base_url, *CALL, "--out"]
    out = tmp_path / "run"
    assert heartloop(*call, out).code == 0
    before, sent = (out / "journal.sqlite").read_bytes(), len(server.calls)
    done = heartloop(*call, out)
    assert done.code == 2
    assert f"go on with `heartloop resume {out}`" in done.err
    file = write_lines(tmp_path / "file", ["hello"])
    for place in (file, file / "below"):
        done = heartloop(*call, place)
        assert done.code == 2
        assert "there is a file in the folder's place" in done.err
    assert file.read_text() == "hello\n"
    assert (out / "journal.sqlite").read_bytes() == before
    assert len(server.calls) == sent


def test_journals_that_can_not_be_used_are_left_as_they_are(tmp_path: Path, server: FaultServer) -> None:
    data = sums(tmp_path / "data.jsonl", 3)
    heartloop("run", "--data", data, "--base-url", server.base_url, *CALL, "--out", tmp_path / "run")
    whole = (tmp_path / "run" / "journal.sqlite").read_bytes()
    newer = tmp_path / "newer.sqlite"
    newer.write_bytes(whole)
    foreign = tmp_path / "foreign.sqlite"
    for path, change in ((newer, "PRAGMA user_version = 99"), (foreign, "CREATE TABLE t (x)")):
        connection = sqlite3.connect(path)
        connection.execute(change)
        connection.commit()
        connection.close()
    cases = {
        newer.read_bytes(): "newer HeartLoop",
        foreign.read_bytes(): "not a journal of HeartLoop",
        whole[: len(whole) // 2]: "truncated",
        b"hello": "not a journal of HeartLoop",
        b"": "not a journal of HeartLoop",
    }
    for number, (content, said) in enumerate(cases.items()):
        folder = tmp_path / f"bad{number}"
        folder.mkdir()
        (folder / "journal.sqlite").write_bytes(content)
        for command in ("resume", "show", "export"):
            done = heartloop(command, folder)
            assert done.code == 1
            assert said in done.err
            assert str(folder) in done.err
            assert done.out == ""
        assert (folder / "journal.sqlite").read_bytes() == content
    for command in ("resume", "show", "export"):
        done = heartloop(command, tmp_path / "nothing")
        assert done.code == 2
        assert "no run here" in done.err


def test_a_journal_that_another_process_writes_is_said_with_its_pid(
    tmp_path: Path, server: FaultServer
) -> None:
    data = sums(tmp_path / "data.jsonl", 3)
    out = tmp_path / "run"
    heartloop("run", "--data", data, "--base-url", server.base_url, *CALL, "--out", out)
    hold = (
        "import sys, time; from heartloop.runs.run import Run; run = Run.open(sys.argv[1]);"
        " print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = heartloop("resume", out)
        shown = heartloop("show", out)
        holder.kill()
    assert done.code == 1
    assert f"is being written by process {holder.pid}" in done.err
    assert shown.code == 0
    assert heartloop("resume", out).code == 0, "a dead process's lock was taken for a living one's"
