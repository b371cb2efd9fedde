"""Files that are not what they should be, versions, network disks, and the canonical export."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from journal_helpers import child, digest, event

from heartloop.errors import JournalCorrupt, JournalError, JournalVersion
from heartloop.journal import schema
from heartloop.journal.check import warn_if_network
from heartloop.journal.export import canonical
from heartloop.journal.reader import JournalReader
from heartloop.journal.records import Event, EventKey, Result
from heartloop.journal.sqlite import SqliteJournal


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def fill(journal: SqliteJournal, count: int = 200) -> None:
    asyncio.run(journal.write(*(event(n, text="x" * 400) for n in range(count))))


def newer(path: Path) -> None:
    sql(path, "PRAGMA user_version = 99")


def foreign(path: Path) -> None:
    path.unlink()
    sql(path, "CREATE TABLE events (seq INTEGER)", "CREATE TABLE meta (a)", "INSERT INTO meta VALUES (1)")


def text(path: Path) -> None:
    path.write_text('{"id": "1", "question": "2+2?"}\n' * 50)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 8192 * 4096])


def cut_in_a_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def garbage_inside(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[8192 : 8192 + 16384] = random.Random(1).randbytes(16384)
    path.write_bytes(bytes(raw))


def zeros_inside(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-20480:-4096] = bytes(16384)
    path.write_bytes(bytes(raw))


def table_missing(path: Path) -> None:
    sql(path, "DROP TABLE settlements")


DAMAGE = [
    (newer, JournalVersion),
    *((damage, JournalCorrupt) for damage in (foreign, text, empty, cut_in_half, cut_in_a_page)),
    *(
        (damage, JournalCorrupt)
        for damage in (cut_in_the_header, garbage_inside, zeros_inside, table_missing)
    ),
]


@pytest.mark.parametrize("opener", [SqliteJournal.open, JournalReader])
@pytest.mark.parametrize(("damage", "error"), DAMAGE, ids=lambda value: value.__name__)
def test_an_unusable_file_is_named_and_left_as_it_was(
    path: Path, damage: Callable[[Path], None], error: type[JournalError], opener: Callable[[Path], Any]
) -> None:
    with SqliteJournal.create(path, meta={}) as journal:
        fill(journal)
    damage(path)
    before = digest(path)
    with pytest.raises(error, match=r"journal\.db"):
        opener(path)
    assert digest(path) == before
    assert [f.name for f in path.parent.iterdir()] == [path.name]


def test_nothing_there_or_a_directory(tmp_path: Path) -> None:
    for opener in (SqliteJournal.open, JournalReader):
        with pytest.raises(JournalError, match="there is no journal at"):
            opener(tmp_path / "none.db")
        with pytest.raises(JournalError, match="is a directory"):
            opener(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_create_never_overwrites(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(JournalError, match="exists already"):
        SqliteJournal.create(path, meta={})
    assert path.read_text() == "mine"
    assert [f.name for f in path.parent.iterdir()] == [path.name]


KILLED = """
import asyncio, os, signal, sys
from heartloop.journal.sqlite import SqliteJournal
from heartloop.journal.records import Event, EventKey
journal = SqliteJournal.open(sys.argv[1])
events = [Event(EventKey("a", "p", "0", "completion", n), "f", {"text": "x" * 400}) for n in range(200)]
asyncio.run(journal.write(*events))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(path: Path) -> Path:
    """A journal whose writer was killed: all its events are in the log, none in the file."""
    SqliteJournal.create(path, meta={}).close()
    process = child(KILLED, path)
    process.communicate(timeout=30)
    assert path.with_name("journal.db-wal").stat().st_size > 80_000
    return path


def test_a_checkpoint_that_was_cut_short_is_repaired_from_the_log(killed: Path, tmp_path: Path) -> None:
    # What a checkpoint leaves when it dies after its first page: a header that counts pages to come.
    whole = tmp_path / "whole" / "journal.db"
    whole.parent.mkdir()
    for name in ("journal.db", "journal.db-wal"):
        shutil.copyfile(killed.with_name(name), whole.with_name(name))
    SqliteJournal.open(whole).close()
    raw = killed.read_bytes()
    killed.write_bytes(whole.read_bytes()[:4096] + raw[4096:])
    assert len(raw) < whole.stat().st_size
    with SqliteJournal.open(killed) as journal:
        assert len(journal.events("a", "p")) == 200


def test_damage_under_a_log_is_found_and_both_files_left(killed: Path) -> None:
    raw = bytearray(killed.read_bytes())
    raw[4096 : 4 * 4096] = random.Random(2).randbytes(3 * 4096)
    killed.write_bytes(bytes(raw))
    files = {f: digest(f) for f in killed.parent.iterdir() if not f.name.endswith((".lock", "-shm"))}
    assert len(files) == 2
    with pytest.raises(JournalCorrupt):
        SqliteJournal.open(killed)
    assert {f: digest(f) for f in files} == files


def test_a_reader_leaves_a_killed_writers_log_alone(killed: Path) -> None:
    files = {f: digest(f) for f in killed.parent.iterdir() if not f.name.endswith("-shm")}
    with JournalReader(killed) as reader:
        assert len(reader.events("a", "p")) == 200
    assert {f: digest(f) for f in files} == files


# --- versions ----------------------------------------------------------------------------------------


@pytest.fixture
def version_0(path: Path) -> Path:
    """As an older HeartLoop might have written it: events without their time."""
    with SqliteJournal.create(path, meta={}) as journal:
        fill(journal, 3)
    sql(path, "ALTER TABLE events RENAME COLUMN at TO happened", "PRAGMA user_version = 0")
    return path


def rename_back(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE events RENAME COLUMN happened TO at")


def test_an_older_version_is_migrated_on_opening(version_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schema.MIGRATIONS, 0, rename_back)
    with pytest.raises(JournalError, match="older format 0"):
        JournalReader(version_0)
    with SqliteJournal.open(version_0) as journal:
        assert len(journal.events("a", "p")) == 3
    with JournalReader(version_0) as reader:
        assert len(reader.events("a", "p")) == 3


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    version_0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(connection: sqlite3.Connection) -> None:
        rename_back(connection)
        connection.execute("DELETE FROM events")
        raise ValueError("an event that makes no sense")

    monkeypatch.setitem(schema.MIGRATIONS, 0, breaks)
    before = digest(version_0)
    with pytest.raises(JournalError, match="left as it was: an event that makes no sense"):
        SqliteJournal.open(version_0)
    assert digest(version_0) == before
    assert [f.name for f in version_0.parent.iterdir()] == [version_0.name]


def test_a_version_without_a_way_to_ours(version_0: Path) -> None:
    before = digest(version_0)
    with pytest.raises(JournalVersion, match="format 0"):
        SqliteJournal.open(version_0)
    assert digest(version_0) == before


# --- network disks -----------------------------------------------------------------------------------


def test_a_network_disk_gets_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path}/net\\040work nfs4 rw 0 0\n"
        f"h:/y {tmp_path}/ssh fuse.sshfs rw 0 0\n/dev/sdb {tmp_path}/ssh/disk ext4 rw 0 0\n"
    )
    with caplog.at_level(logging.WARNING, "heartloop.journal"):
        for _ in range(2):
            assert warn_if_network(tmp_path / "net work" / "run" / "j.db", mounts)
        assert warn_if_network(tmp_path / "ssh" / "j.db", mounts)
        assert not warn_if_network(tmp_path / "ssh" / "disk" / "j.db", mounts)
        assert not warn_if_network(tmp_path / "local.db", mounts)
        assert not warn_if_network(tmp_path / "local.db", tmp_path / "no mounts here")
    assert len(caplog.records) == 2
    assert "nfs4" in caplog.text
    assert "local disk" in caplog.text


# --- export ------------------------------------------------------------------------------------------


def run_of(path: Path, order: int, seconds: float, answer: str = "4") -> None:
    records: list[Event | Result] = [
        Event(
            EventKey(arm, problem, branch, kind, n),
            "f",
            {"text": answer, "seconds": seconds, "more": [{"at": seconds, "keep": 1}]},
        )
        for arm in ("heart", "Resample")
        for problem in ("p2", "p10", "é")
        for branch in ("0", "1")
        for n in (10, 9)
        for kind in ("verdict", "completion")
    ]
    records.append(Result("heart", "p10", "done", {"answer": answer, "seconds": seconds}))
    random.Random(order).shuffle(records)
    with SqliteJournal.create(path, meta={"started": seconds}) as journal:
        for first in range(0, len(records), 7):
            asyncio.run(journal.write(*records[first : first + 7]))


def test_the_export_depends_on_what_happened_and_not_on_when(tmp_path: Path) -> None:
    run_of(tmp_path / "1", order=1, seconds=0.5)
    run_of(tmp_path / "2", order=2, seconds=7.25)
    run_of(tmp_path / "3", order=1, seconds=0.5, answer="5")
    first = b"".join(canonical(tmp_path / "1"))
    with JournalReader(tmp_path / "2") as reader:
        assert b"".join(canonical(reader)) == first
    assert b"".join(canonical(tmp_path / "3")) != first
    lines = [orjson.loads(line) for line in first.splitlines()]
    assert len(lines) == 49
    places = [tuple(line[f] for f in ("arm", "problem", "branch", "kind", "ordinal")) for line in lines]
    assert places == sorted(places)
    assert ("heart", "p10", "", "result", 0) in places
    assert all(line["data"].get("more", [{"keep": 1}]) == [{"keep": 1}] for line in lines)
    assert b"seconds" not in first


def test_a_file_with_other_tables_of_the_same_version_is_refused_by_name(path: Path) -> None:
    SqliteJournal.create(path, meta={}).close()
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE reservations DROP COLUMN lane")
    connection.close()
    with pytest.raises(JournalVersion, match=r"reservations\.lane"):
        SqliteJournal.open(path)
