"""``heartloop`` with a kill -9 at a commit: ``python killed.py N resume DIR`` dies right after the commit of
its N-th record, before anybody who waits for it is told."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from heartloop import cli
from heartloop.journal.sqlite import SqliteJournal


def main() -> None:
    left = int(sys.argv.pop(1))
    opened = SqliteJournal.open

    def on_commit(records: int) -> None:
        nonlocal left
        left -= records
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def opened_to_die(path: Any, **options: Any) -> SqliteJournal:
        return opened(path, on_commit=on_commit, **options)

    SqliteJournal.open = opened_to_die  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
