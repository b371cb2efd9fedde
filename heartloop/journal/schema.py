"""The tables, their version, and how older versions become this one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

__all__ = [
    "APPLICATION_ID",
    "LATER",
    "MIGRATIONS",
    "SCHEMA_VERSION",
    "TABLES",
    "create_schema",
    "migrate",
    "missing_columns",
]

APPLICATION_ID = 0x48454152
"""``"HEAR"``, in the header of every journal, so that another program's SQLite file is recognised."""

SCHEMA_VERSION = 1
"""SQLite's ``user_version``. Any change of the tables raises it and adds to :data:`MIGRATIONS`."""

MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}
"""From a version to the next: ``MIGRATIONS[n]`` turns the tables of version n into those of n + 1.

It runs inside a transaction that it must not end.
"""

TABLES = {
    "meta": "key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL",
    "problems": "position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, data TEXT NOT NULL",
    "events": (
        "seq INTEGER PRIMARY KEY, arm TEXT NOT NULL, problem TEXT NOT NULL, branch TEXT NOT NULL,"
        " kind TEXT NOT NULL, ordinal INTEGER NOT NULL, fingerprint TEXT NOT NULL, at REAL NOT NULL,"
        " data TEXT NOT NULL, UNIQUE (arm, problem, branch, kind, ordinal)"
    ),
    "reservations": (
        "id INTEGER PRIMARY KEY, arm TEXT NOT NULL, problem TEXT NOT NULL, branch TEXT NOT NULL,"
        " kind TEXT NOT NULL, ordinal INTEGER NOT NULL, attempt INTEGER NOT NULL, model TEXT NOT NULL,"
        " lane TEXT NOT NULL,"
        " tokens INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, usd REAL, at REAL NOT NULL"
    ),
    "settlements": (
        "id INTEGER PRIMARY KEY REFERENCES reservations (id),"
        " state TEXT NOT NULL CHECK (state IN ('confirmed', 'assumed', 'released')),"
        " tokens INTEGER NOT NULL, calls INTEGER NOT NULL, usd REAL, prompt_tokens INTEGER,"
        " completion_tokens INTEGER, reasoning_tokens INTEGER, cached_tokens INTEGER,"
        " reason TEXT NOT NULL, at REAL NOT NULL"
    ),
    "results": (
        "arm TEXT NOT NULL, problem TEXT NOT NULL,"
        " status TEXT NOT NULL CHECK (status IN ('done', 'budget', 'failed')),"
        " at REAL NOT NULL, data TEXT NOT NULL, PRIMARY KEY (arm, problem)"
    ),
    "sessions": "id INTEGER PRIMARY KEY, started REAL NOT NULL, last_seen REAL NOT NULL",
}
"""Columns by table; ``docs/journal.md`` says what they mean."""

LATER = (
    "CREATE TABLE IF NOT EXISTS waves (id TEXT PRIMARY KEY NOT NULL, lane TEXT NOT NULL, model TEXT NOT NULL,"
    " state TEXT NOT NULL CHECK (state IN ('made', 'creating', 'sent', 'ended')), ref TEXT NOT NULL,"
    " at REAL NOT NULL, data TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS wave_calls (reservation INTEGER PRIMARY KEY REFERENCES reservations (id),"
    " wave TEXT NOT NULL, fingerprint TEXT NOT NULL, data TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS wave_calls_by_wave ON wave_calls (wave)",
    # The requests are in the events by then; a second copy of each would double the file.
    "CREATE TRIGGER IF NOT EXISTS wave_ended AFTER INSERT ON waves WHEN new.state = 'ended'"
    " BEGIN DELETE FROM wave_calls WHERE wave = new.id; END",
)
"""What journals of version 1 got later, made on opening to write where it is missing. Readers do without."""


def create_schema(connection: sqlite3.Connection) -> None:
    """Make an empty database a journal of this version. The caller owns the transaction."""
    for name, columns in TABLES.items():
        connection.execute(f"CREATE TABLE {name} ({columns})")
    connection.execute("CREATE INDEX reservations_by_problem ON reservations (arm, problem)")
    for statement in LATER:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables from ``version`` to :data:`SCHEMA_VERSION` in one transaction, or change nothing.

    Raises KeyError where a step is missing, and whatever a step raises.
    """
    steps = [MIGRATIONS[number] for number in range(version, SCHEMA_VERSION)]
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps:
            step(connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def missing_columns(connection: sqlite3.Connection) -> list[str]:
    """Columns of this version, as ``table.column``, that the file does not have."""
    expected = sqlite3.connect(":memory:")
    try:
        create_schema(expected)
        return [
            f"{table}.{column}"
            for table in TABLES
            for column in _columns(expected, table) - _columns(connection, table)
        ]
    finally:
        expected.close()


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
