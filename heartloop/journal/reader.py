"""Reading a journal that somebody else may be writing."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from heartloop.errors import JournalError
from heartloop.journal.check import check_file, connect, read_error, wal_path
from heartloop.journal.queries import JournalQueries
from heartloop.journal.schema import SCHEMA_VERSION

__all__ = ["JournalReader"]


class JournalReader(JournalQueries):
    """The journal at ``path``, read-only. It takes no lock that a writer would notice.

    Every call sees what is committed at that moment.

    Raises:
        JournalError: there is none, it can't be read, or it is of an older version (which a writer
            migrates).
        JournalVersion: a newer HeartLoop wrote it.
        JournalCorrupt: not a journal, truncated or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        version = check_file(path, writing=False)
        if version < SCHEMA_VERSION:
            raise JournalError(f"{path} has the older format {version}: resume the run to update it")
        try:
            connection = self._connect(path)
        except sqlite3.Error as error:
            raise read_error(path, error) from error
        super().__init__(path, connection)

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        # SQLite needs its log and index files even to read. Where there are none, a connection that
        # could write removes them again when it closes; where there are, one that can't write leaves
        # the records of a killed run in the log for the next writer. On a read-only disk without them,
        # nobody can be writing, and the file can be read as it lies.
        log = wal_path(path).exists()
        modes = ["mode=ro"] if log else ["mode=rw", "mode=ro&immutable=1"]
        for mode in modes:
            connection = connect(path, mode)
            try:
                connection.execute("PRAGMA query_only = 1")
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                return connection
            except sqlite3.OperationalError:
                connection.close()
                if mode == modes[-1]:
                    raise
            except BaseException:
                connection.close()
                raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let go of the file. Calling it twice is harmless."""
        self._close_reading()

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
