"""What runs inside a worker process: reads lines of cases, writes a line a verdict.

The process limits itself before it reads anything: address space, no core files, low priority of
being spared by the out-of-memory killer. A timer of its own, with the default action of SIGALRM, ends it a
second after the case's deadline; the parent has killed it by then, unless the parent is gone.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import orjson

__all__ = ["main"]


def _limit(memory_mb: int) -> None:
    try:
        import resource

        size = memory_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # not on this system: the deadline still holds
        pass
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("900")
    except OSError:
        pass


def main(memory_mb: int) -> None:
    """Serve until standard input closes."""
    _limit(memory_mb)
    reader, writer = os.fdopen(0, "rb", buffering=1 << 20), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that prints may break the protocol
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    sys.set_int_max_str_digits(0)  # the deadline bounds the work instead
    sys.setrecursionlimit(5000)
    from heartloop_verifiers import engine, exact

    exact.allow_bits(4_000_000)

    def say(message: dict[str, Any]) -> None:
        writer.write(orjson.dumps(message) + b"\n")

    limit = 0.0

    def loading() -> None:
        say({"loading": True})
        signal.setitimer(signal.ITIMER_REAL, 90.0)

    def loaded() -> None:
        say({"loaded": True})
        signal.setitimer(signal.ITIMER_REAL, limit)

    engine.on_loading, engine.on_loaded = loading, loaded
    say({"ready": True})
    for line in reader:
        for case in orjson.loads(line):
            limit = case["timeout"] + 1.0
            signal.setitimer(signal.ITIMER_REAL, limit)
            say(_answer(engine, case))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(engine: Any, case: dict[str, Any]) -> dict[str, Any]:
    try:
        reply = engine.reply(case)
        assert isinstance(reply, dict)
        return reply
    except MemoryError:
        return {"correct": None, "method": "killed", "reason": "memory limit reached", "restart": True}
    except Exception as error:
        return {"correct": None, "method": "error", "reason": f"{type(error).__name__}: {str(error)[:200]}"}
