"""``heartloop`` for tests of batches: asks after them all the time, and dies where it is told.

``python client.py N ARGUMENTS...`` is killed with SIGKILL right after the N-th commit of records, before
anybody who waits for it is told (0: never).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from heartloop import cli
from heartloop.backends.batch import BatchBackend
from heartloop.backends.vllm_batch import VllmRunBatch
from heartloop.engine import wave_flight
from heartloop.journal.sqlite import SqliteJournal


def main() -> None:
    left = int(sys.argv.pop(1))
    for backend in (BatchBackend, VllmRunBatch):
        backend.__init__.__kwdefaults__["poll_seconds"] = (0.01, 0.05)  # type: ignore[misc]
    wave_flight.LOOKUPS = (0.0, 0.1, 0.4)  # type: ignore[assignment]

    def on_commit(records: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("open", "create"):
        opened = getattr(SqliteJournal, name)

        def opened_to_die(path: Any, opened: Any = opened, **options: Any) -> SqliteJournal:
            journal: SqliteJournal = opened(path, on_commit=on_commit, **options)
            return journal

        setattr(SqliteJournal, name, opened_to_die)
    cli.main()


if __name__ == "__main__":
    main()
