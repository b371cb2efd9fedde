"""Records in few words, and child processes that can be killed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from heartloop.journal.records import Event, EventKey

KINDS = ("completion", "failure", "decision", "verdict")


def key(
    ordinal: int = 1, problem: str = "p", kind: str = "completion", arm: str = "a", branch: str = "0"
) -> EventKey:
    return EventKey(arm, problem, branch, kind, ordinal)


def event(ordinal: int = 1, problem: str = "p", kind: str = "completion", **data: Any) -> Event:
    return Event(key(ordinal, problem, kind), "f1", data)


def bare(item: Event) -> tuple[EventKey, str, dict[str, Any]]:
    """What was written, without what the journal adds."""
    return item.key, item.fingerprint, item.data


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process of its own, with our import path, its output as text."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def outcome(code: str, *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a child that ends by itself."""
    process = child(code, *arguments)
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err
