from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heartloop.journal.sqlite import SqliteJournal

sys.path.insert(0, str(Path(__file__).parent))  # for journal_helpers, under --import-mode=importlib


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    made = SqliteJournal.create(path, meta={"seed": 1})
    yield made
    made.close()
