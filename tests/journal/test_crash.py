"""Processes that are killed, that lose their disk, or that find another one at work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from journal_helpers import child, digest, event, key, outcome

from heartloop.errors import JournalLocked, JournalWriteError
from heartloop.journal.reader import JournalReader
from heartloop.journal.records import Reserve
from heartloop.journal.sqlite import SqliteJournal

KILLABLE = """
import asyncio, os, sys
from heartloop.journal.sqlite import SqliteJournal
from heartloop.journal.records import Event, EventKey, Reserve, Settle

async def writer(journal, name):
    n = len(journal.events("a", name)) // 2
    while True:
        await journal.write(
            Event(EventKey("a", name, "0", "completion", n), "f", {"text": "x" * 3000}),
            Event(EventKey("a", name, "0", "verdict", n), "f", {}),
        )
        os.write(1, f"{name} {n}\\n".encode())  # acknowledged
        n += 1

async def main():
    journal = SqliteJournal.open(sys.argv[1])
    await asyncio.gather(*(writer(journal, f"p{k}") for k in range(16)))

asyncio.run(main())
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_acknowledged(path: Path) -> None:
    SqliteJournal.create(path, meta={}).close()
    acknowledged: set[tuple[str, int]] = set()
    moments = random.Random(7)
    for _ in range(5):
        process = child(KILLABLE, path)
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(moments.uniform(0.0, 0.15))
        process.kill()
        lines += process.communicate(timeout=20)[0].splitlines(keepends=True)
        for line in lines:
            if line.endswith("\n"):
                name, n = line.split()
                acknowledged.add((name, int(n)))
        with JournalReader(path) as reader:  # before anybody repairs anything
            recorded = {(e.key.problem, e.key.ordinal, e.key.kind) for e in reader.iter_events()}
        with SqliteJournal.open(path) as journal:
            assert recorded == {(e.key.problem, e.key.ordinal, e.key.kind) for e in journal.iter_events()}
        whole = {(name, n) for name, n, kind in recorded if kind == "completion"}
        assert whole == {(name, n) for name, n, kind in recorded if kind == "verdict"}  # nothing half there
        assert acknowledged <= whole
    assert len(acknowledged) >= 5  # one a round at the very least


def test_killed_between_commit_and_acknowledgement_the_record_is_there(path: Path) -> None:
    code = """
import asyncio, os, signal, sys
from heartloop.journal.sqlite import SqliteJournal
from heartloop.journal.records import Event, EventKey, Reserve
journal = SqliteJournal.create(sys.argv[1], meta={"seed": 3},
                               on_commit=lambda n: os.kill(os.getpid(), signal.SIGKILL))
key = EventKey("a", "p", "0", "completion", 1)
asyncio.run(journal.write(Reserve(1, key, 1, "m", 123, 0.5)))
print("acknowledged")
"""
    status, out, _ = outcome(code, path)
    assert status == -signal.SIGKILL
    assert out == ""
    with SqliteJournal.open(path) as journal:
        assert journal.meta == {"seed": 3}
        assert (journal.charges().open.tokens, journal.charges().open.usd) == (123, 0.5)
        assert journal.next_reservation_id() == 2
        assert journal.close_open_reservations() == 1
        assert journal.charges().assumed.tokens == 123


def test_what_was_posted_is_written_when_the_interpreter_ends_without_close(path: Path) -> None:
    code = """
import sys
from heartloop.journal.sqlite import SqliteJournal
from heartloop.journal.records import Event, EventKey
journal = SqliteJournal.create(sys.argv[1], meta={})
for n in range(300):
    journal.post(Event(EventKey("a", "p", "0", "completion", n), "f", {}))
"""
    assert outcome(code, path)[0] == 0
    assert [f.name for f in path.parent.iterdir()] == [path.name]
    with JournalReader(path) as reader:
        assert len(reader.events("a", "p")) == 300


HOLDER = """
import os, sys, time
from heartloop.journal.sqlite import SqliteJournal
journal = SqliteJournal.open(sys.argv[1])
if len(sys.argv) > 2 and os.fork() == 0:  # a worker that outlives the run
    print(os.getpid(), flush=True)
    time.sleep(30)
    os._exit(0)
if len(sys.argv) == 2:
    print("open", flush=True)
time.sleep(30)
"""


def test_a_second_writer_is_told_who_writes_and_changes_nothing(path: Path) -> None:
    SqliteJournal.create(path, meta={}).close()
    process = child(HOLDER, path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        before = sorted(f.name for f in path.parent.iterdir())
        for attempt in (lambda: SqliteJournal.open(path), lambda: SqliteJournal.create(path, meta={})):
            with pytest.raises(JournalLocked, match=rf"process {process.pid}\b"):
                attempt()
        assert sorted(f.name for f in path.parent.iterdir()) == before
        with JournalReader(path) as reader:
            assert reader.count_problems() == 0
    finally:
        process.kill()
        process.communicate(timeout=20)
    with SqliteJournal.open(path) as journal:  # the kernel let go of the lock
        asyncio.run(journal.write(event(1)))


def test_a_forked_worker_that_outlives_a_killed_run_does_not_hold_the_lock(path: Path) -> None:
    SqliteJournal.create(path, meta={}).close()
    process = child(HOLDER, path, "fork")
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    try:
        process.kill()
        process.wait(20)
        os.kill(orphan, 0)  # alive
        SqliteJournal.open(path).close()
    finally:
        os.kill(orphan, signal.SIGKILL)
        process.communicate(timeout=20)


def test_one_process_cannot_open_a_journal_twice(journal: SqliteJournal, path: Path) -> None:
    with pytest.raises(JournalLocked, match="this process"):
        SqliteJournal.open(path)
    # and the failed attempt has not lost us the lock
    code = "import sys; from heartloop.journal.sqlite import SqliteJournal; SqliteJournal.open(sys.argv[1])"
    assert "JournalLocked" in outcome(code, path)[2]
    journal.close()
    SqliteJournal.open(path).close()


FILLS = """
import asyncio, os, resource, sys
from heartloop.errors import JournalWriteError
from heartloop.journal.sqlite import SqliteJournal
from heartloop.journal.records import Event, EventKey

async def main():
    journal = SqliteJournal.open(sys.argv[1])
    if sys.argv[2] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    n = 0
    try:
        while True:
            await journal.write(Event(EventKey("a", "p", "0", "completion", n), "f", {"text": "x" * 5000}))
            n += 1
    except JournalWriteError as error:
        print(n)
        print(error)
    for again in range(2):
        try:
            await journal.write(Event(EventKey("a", "p", "0", "completion", 10**6), "f", {}))
        except JournalWriteError:
            print("still refused")
    journal.close()
    print("closed")

asyncio.run(main())
"""


def check_full(path: Path, how: str) -> str:
    status, out, err = outcome(FILLS, path, how)
    assert status == 0, err
    count, message, *rest = out.splitlines()
    assert rest == ["still refused", "still refused", "closed"]
    assert str(path) in message
    with JournalReader(path) as reader:
        assert [e.key.ordinal for e in reader.events("a", "p")] == list(range(int(count)))
    assert int(count) > 10
    return message


def test_a_file_that_cannot_grow_stops_the_writer_and_keeps_what_it_holds(path: Path) -> None:
    SqliteJournal.create(path, meta={}).close()
    check_full(path, "limit")
    with SqliteJournal.open(path) as journal:
        asyncio.run(journal.write(event(10**6)))


@contextlib.contextmanager
def small_disk(point: Path) -> Iterator[None]:
    """A file system of 1 MB of its own, or a skip."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(point)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def test_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk):
        path = disk / "journal.db"
        SqliteJournal.create(path, meta={}).close()
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 400_000)
        assert "disk is full: free some space" in check_full(path, "disk")
        ballast.unlink()
        with SqliteJournal.open(path) as journal:
            asyncio.run(journal.write(event(10**6)))
        with contextlib.suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(b"x" * 4096)
        with pytest.raises(JournalWriteError, match="full"):
            SqliteJournal.create(disk / "second.db", meta={})
        assert not list(disk.glob("second*"))


def test_a_read_only_disk_can_be_read_but_not_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk):
        path = disk / "journal.db"
        with SqliteJournal.create(path, meta={}) as journal:
            asyncio.run(journal.write(event(1)))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for attempt in (
            lambda: SqliteJournal.open(path),
            lambda: SqliteJournal.create(disk / "new", meta={}),
        ):
            with pytest.raises(JournalWriteError, match=r"Make .* writable, or choose another place"):
                attempt()
        with JournalReader(path) as reader:
            assert len(reader.events("a", "p")) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; the read-only disk covers it")
def test_a_read_only_directory_is_reported(path: Path) -> None:
    SqliteJournal.create(path, meta={}).close()
    before = digest(path)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(JournalWriteError, match=r"Make .* writable"):
            SqliteJournal.open(path)
        with JournalReader(path) as reader:
            assert reader.count_problems() == 0
    finally:
        path.parent.chmod(0o700)
    assert digest(path) == before


def test_a_failed_post_surfaces_at_close_once(tmp_path: Path) -> None:
    journal = SqliteJournal.create(tmp_path / "j.db", meta={})
    asyncio.run(journal.write(Reserve(1, key(), 1, "m", 1, None)))
    journal.post(Reserve(1, key(), 1, "m", 1, None))  # the id is taken, and nobody waits for it
    with pytest.raises(JournalWriteError, match="UNIQUE"):
        journal.close()
    journal.close()


def test_no_place_for_a_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalWriteError, match=r"Make the directory"):
        SqliteJournal.create(tmp_path / "no" / "j.db", meta={})
    assert list(tmp_path.iterdir()) == []
