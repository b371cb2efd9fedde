"""The journal in an SQLite file: one process writes it, any number read it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal, TypeAlias

from heartloop.errors import DataError, JournalCorrupt, JournalError, JournalVersion, UsageError
from heartloop.journal.check import check_file, check_path, connect, warn_if_network, write_error
from heartloop.journal.codec import dumps, encode_problem
from heartloop.journal.lock import WriterLock
from heartloop.journal.queries import JournalQueries
from heartloop.journal.records import Event, Record, Result
from heartloop.journal.schema import LATER, SCHEMA_VERSION, create_schema, migrate, missing_columns
from heartloop.journal.writer import Writer
from heartloop.types import Problem

__all__ = ["SqliteJournal", "Synchronous"]

Synchronous: TypeAlias = Literal["normal", "full"]
OnCommit: TypeAlias = Callable[[int], None]

DIED = "process ended before the answer"


class SqliteJournal(JournalQueries):
    """A :class:`~heartloop.journal.base.Journal` in a file; ``docs/journal.md`` has the schema.

    Made by :meth:`create` or :meth:`open`. Its methods may be called from any thread, and :meth:`write`
    from any event loop. Those that store problems or settings block until that is committed.
    """

    def __init__(
        self, path: Path, lock: WriterLock, synchronous: Synchronous, on_commit: OnCommit | None
    ) -> None:
        """Use :meth:`open`. The file has been checked and the lock is held."""
        writing = connect(path, "mode=rw")
        try:
            self._prepare(path, writing, synchronous)
            self._first_id = int(
                writing.execute("SELECT coalesce(max(id), 0) + 1 FROM reservations").fetchone()[0]
            )
            now = time.time()
            started = writing.execute("INSERT INTO sessions (started, last_seen) VALUES (?, ?)", (now, now))
            self._session = int(started.lastrowid or 0)
            # A new run asks for each problem before it begins; nothing need be looked up for that.
            self._began_empty = not any(
                writing.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()[0]
                for table in ("events", "results")
            )
            self._touched: set[int] = set()
            reading = connect(path, "mode=rw")
            reading.execute("PRAGMA query_only = 1")
        except BaseException:
            writing.close()
            raise
        super().__init__(path, reading)
        self._writer = Writer(path, writing, self._session, on_commit)
        # Also at interpreter exit, where a daemon thread would be cut off with records in its queue.
        self._finalizer = weakref.finalize(self, _shut, self._writer, reading, lock)

    @staticmethod
    def _prepare(path: Path, connection: sqlite3.Connection, synchronous: Synchronous) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise JournalVersion(f"{path} was written by a newer HeartLoop. Upgrade HeartLoop to use it")
        if version < SCHEMA_VERSION:
            try:
                migrate(connection, version)
            except KeyError as error:
                raise JournalVersion(
                    f"{path} has format {version}, which this HeartLoop can't bring to {SCHEMA_VERSION}"
                ) from error
            except sqlite3.OperationalError:
                raise
            except Exception as error:
                raise JournalError(
                    f"{path} could not be brought from format {version} to {SCHEMA_VERSION} and was left as "
                    f"it was: {error}"
                ) from error
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        missing = missing_columns(connection)
        if missing:
            raise JournalVersion(
                f"{path} was written by a development version of HeartLoop with other tables (it lacks "
                f"{', '.join(missing)}): use that version for it, or start a new run"
            )
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise JournalError(f"{path} is on a file system without shared memory: use a local disk")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("PRAGMA foreign_keys = 1")
        for statement in LATER:
            connection.execute(statement)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        meta: Mapping[str, Any],
        synchronous: Synchronous = "normal",
        on_commit: OnCommit | None = None,
    ) -> SqliteJournal:
        """A new journal at ``path``, which must not exist, open for writing.

        It is built under another name and renamed, so that no half-made one is ever found.

        Raises:
            JournalError: there is something at ``path`` already.
            JournalWriteError: it can't be written there.
            JournalLocked: another process is at it.
        """
        path = Path(path)
        _check_synchronous(synchronous)
        lock = _lock(path)
        fresh = path.with_name(f"{path.name}.new")
        rubbish = fresh
        try:
            if path.exists() or path.is_symlink():
                raise JournalError(f"{path} exists already: resume it, or choose another place")
            warn_if_network(path)
            _remove(fresh)
            _build(fresh, meta)
            os.rename(fresh, path)
            rubbish = path
            return cls(path, lock, synchronous, on_commit)
        except (sqlite3.Error, OSError) as error:
            _remove(rubbish)
            lock.release()
            raise write_error(path, error) from error
        except BaseException:
            _remove(rubbish)
            lock.release()
            raise

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "normal",
        on_commit: OnCommit | None = None,
    ) -> SqliteJournal:
        """The journal at ``path``, open for writing; one of an older version is migrated.

        Raises (and leaves the file as it was):
            JournalError: there is none, or it can't be read.
            JournalLocked: another process is writing it.
            JournalVersion: a newer HeartLoop wrote it.
            JournalCorrupt: not a journal, truncated or damaged.
            JournalWriteError: it can't be written.
        """
        path = Path(path)
        _check_synchronous(synchronous)
        check_path(path)
        lock = _lock(path)
        try:
            warn_if_network(path)
            check_file(path, writing=True)
            return cls(path, lock, synchronous, on_commit)
        except sqlite3.Error as error:
            lock.release()
            if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise JournalCorrupt(f"{path} is damaged: {error}. Restore a copy") from error
            raise write_error(path, error) from error
        except BaseException:
            lock.release()
            raise

    # --- records -----------------------------------------------------------------------------------

    async def write(self, *records: Record) -> None:
        """See :meth:`heartloop.journal.base.Journal.write`."""
        await self.submit(*records)

    def submit(self, *records: Record) -> asyncio.Future[None]:
        """:meth:`write` for callers who keep the order themselves: queued when this returns, committed when
        the future is done. What :meth:`write` raises, either may."""
        self._touch(records)
        future = self._writer.submit(records, asyncio.get_running_loop())
        assert future is not None
        return future

    def post(self, *records: Record) -> None:
        """See :meth:`heartloop.journal.base.Journal.post`."""
        self._touch(records)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._writer.submit(records, None)
        else:
            self._writer.hold(records, loop)

    def events(self, arm: str, problem: str) -> list[Event]:
        """See :meth:`heartloop.journal.base.Journal.events`."""
        if self._began_empty and hash((arm, problem)) not in self._touched:
            return []
        return super().events(arm, problem)

    def result(self, arm: str, problem: str) -> Result | None:
        """See :meth:`heartloop.journal.base.Journal.result`."""
        if self._began_empty and hash((arm, problem)) not in self._touched:
            return None
        return super().result(arm, problem)

    def _touch(self, records: Iterable[Record]) -> None:
        if not self._began_empty:
            return
        for record in records:
            if type(record) is Event:
                self._touched.add(hash((record.key.arm, record.key.problem)))
            elif type(record) is Result:
                self._touched.add(hash((record.arm, record.problem)))

    def next_reservation_id(self) -> int:
        """The first free reservation id when the journal was opened; the caller counts on from there."""
        return self._first_id

    def close_open_reservations(self) -> int:
        """Charge in full, as assumed, what earlier processes had sent when they ended. Their number.

        Calls in waves that have not ended stay open: their answers are still to come.
        """
        first, now = self._first_id, time.time()

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "INSERT INTO settlements (id, state, tokens, calls, usd, reason, at)"
                " SELECT r.id, 'assumed', r.tokens, 1, r.usd, ?, ? FROM reservations r"
                " WHERE r.id < ? AND NOT EXISTS (SELECT 1 FROM settlements s WHERE s.id = r.id)"
                " AND NOT EXISTS (SELECT 1 FROM wave_calls c WHERE c.reservation = r.id)",
                (DIED, now, first),
            ).rowcount

        return self._writer.call(work)

    # --- the run -----------------------------------------------------------------------------------

    def set_meta(self, key: str, value: Any) -> None:
        """Store a JSON-ready ``value``, in place of what was there."""
        row = (key, _meta_json(key, value))
        self._writer.call(
            lambda connection: connection.execute("REPLACE INTO meta VALUES (?, CAST(? AS TEXT))", row)
        )

    def elapsed_before(self) -> float:
        """Wall-clock seconds that processes before this one were at work on the journal."""
        return self._elapsed("WHERE id < ?", (self._session,))

    def seconds_before(self, arm: str, problem: str) -> float:
        """Wall-clock seconds that processes before this one were at work on one problem of one arm: in each,
        from its first record to its last, or to the process's end where the problem had not ended."""
        sessions = self._fetch("SELECT started, last_seen FROM sessions WHERE id < ?", (self._session,))
        tables = ("events", "reservations", "results")
        every = " UNION ALL ".join(
            f"SELECT at FROM {table} WHERE arm = ?1 AND problem = ?2" for table in tables
        )
        moments = [at for (at,) in self._fetch(every, (arm, problem))] if sessions else []
        ended = self._fetch("SELECT at FROM results WHERE arm = ? AND problem = ?", (arm, problem))
        total = 0.0
        for started, last_seen in sessions:
            last_seen += 1.0  # it is noted once a second
            if here := [at for at in moments if started <= at <= last_seen]:
                whole = bool(ended) and ended[0][0] <= last_seen
                total += max(here if whole else [*here, last_seen - 1.0]) - min(here)
        return total

    def add_problems(self, problems: Iterable[Problem]) -> int:
        """Store ``problems`` behind those that are there, all or none, with bounded memory. Their number.

        The iterable is consumed in the writer thread. What it raises is raised here, and nothing stored.

        Raises:
            DataError: an id is there already, or a problem can't be stored. The message names it.
        """

        def work(connection: sqlite3.Connection) -> int:
            count, id = 0, ""

            def rows() -> Iterator[tuple[str, bytes]]:
                nonlocal count, id
                for problem in problems:
                    id = problem.id
                    yield id, encode_problem(problem)
                    count += 1

            try:
                connection.executemany("INSERT INTO problems (id, data) VALUES (?, CAST(? AS TEXT))", rows())
            except sqlite3.IntegrityError as error:
                raise DataError(f"two problems have the id {id!r}; ids must be unique in a run") from error
            except sqlite3.DataError as error:
                raise DataError(f"the problem {id!r} can't be stored: {error}") from error
            return count

        return self._writer.call(work)

    def add_events(self, events: Iterable[Event]) -> int:
        """Store ``events`` behind those that are there, all or none. Their number.

        Raises:
            JournalError: there is something under one of their keys already.
        """
        rows = [(*astuple(e.key), e.fingerprint, e.at or time.time(), dumps(e.data)) for e in events]

        def work(connection: sqlite3.Connection) -> int:
            try:
                connection.executemany(
                    "INSERT INTO events (arm, problem, branch, kind, ordinal, fingerprint, at, data)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT))",
                    rows,
                )
            except sqlite3.IntegrityError as error:
                raise JournalError("events can't be added: one of them is there already") from error
            return len(rows)

        self._touched.update(hash((arm, problem)) for arm, problem, *_ in rows)
        return self._writer.call(work)

    # --- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """See :meth:`heartloop.journal.base.Journal.close`."""
        self._close_reading()
        self._finalizer()
        self._writer.raise_untold()

    async def aclose(self) -> None:
        """:meth:`close`, without holding up the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> SqliteJournal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _shut(writer: Writer, reading: sqlite3.Connection, lock: WriterLock) -> None:
    reading.close()  # first, so that the writer's is the last and clears the log away
    writer.stop()
    lock.release()


def _check_synchronous(synchronous: str) -> None:
    if synchronous not in ("normal", "full"):
        raise UsageError(f"synchronous must be 'normal' or 'full', not {synchronous!r}")


def _lock(path: Path) -> WriterLock:
    try:
        return WriterLock(path)
    except OSError as error:
        raise write_error(path, error) from error


def _meta_json(key: str, value: Any) -> bytes:
    try:
        return dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the journal can't hold meta {key!r}: {error}") from error


def _build(path: Path, meta: Mapping[str, Any]) -> None:
    """A whole, closed and synced journal at ``path``."""
    rows = [(key, _meta_json(key, value)) for key, value in meta.items()]
    connection = connect(path, "mode=rwc")
    try:
        connection.execute("BEGIN")
        create_schema(connection)
        connection.executemany("INSERT INTO meta VALUES (?, CAST(? AS TEXT))", rows)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        try:
            os.unlink(path.with_name(path.name + suffix))
        except OSError:
            pass
