"""Untrusted Python in a process of its own, without network, new processes or writable files, and with
limits.

What it protects from, and what not, is in ``docs/verifiers.md``. In short: it stops code that misbehaves or
snoops on a
Linux machine with a current kernel; it is no defence against a kernel exploit, for which a virtual machine
is.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

__all__ = ["Limits", "Outcome", "run_python"]

_START_SECONDS = 20.0  # for the interpreter to come up on a busy machine; not counted as the program's time


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use.

    Attributes:
        timeout: seconds of wall-clock time.
        memory_mb: address space, in MiB.
        output_bytes: of standard output; more ends the program.
        strict: refuse to run where the system lacks a lock (see docs); False runs with those there are.
    """

    timeout: float = 6.0
    memory_mb: int = 1024
    output_bytes: int = 4 << 20
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: ``status`` is "ok", "error", "timeout", "output", "memory" or "sandbox" (it could
    not be locked)."""

    status: str
    stdout: str
    stderr: str
    value: Any
    seconds: float
    missing: tuple[str, ...] = ()


def run_python(
    code: str,
    *,
    stdin: str = "",
    function: str | None = None,
    arguments: Sequence[Any] = (),
    limits: Limits = Limits(),
) -> Outcome:
    """Run ``code`` as a program (with ``stdin``), or call ``function`` of it with ``arguments``. Blocks;
    never raises for what the code does."""
    with tempfile.TemporaryDirectory(prefix="heartloop-sandbox-") as folder:
        return _run(code, stdin, function, arguments, limits, folder)


def _run(
    code: str, stdin: str, function: str | None, arguments: Sequence[Any], limits: Limits, folder: str
) -> Outcome:
    job = orjson.dumps(
        {
            "code": code.encode("utf-8", "replace").decode(),
            "function": function,
            "arguments": list(arguments),
            "timeout": limits.timeout,
            "memory_mb": limits.memory_mb,
            "strict": limits.strict,
            "readable": ["/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom",
            folder],
        }
    )  # fmt: skip
    job_read, job_write = os.pipe()
    report_read, report_write = os.pipe()
    child = Path(__file__).with_name("sandbox_child.py")
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(child), str(job_read), str(report_write)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(job_read, report_write),
            cwd=folder,
            env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        for fd in (job_read, job_write, report_read, report_write):
            os.close(fd)
        return Outcome("sandbox", "", f"could not start: {error}", None, 0.0)
    os.close(job_read)
    os.close(report_write)
    try:
        return _watch(process, job, stdin.encode("utf-8", "replace"), job_write, report_read, limits)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        os.close(report_read)


def _watch(
    process: subprocess.Popen[bytes],
    job: bytes,
    stdin: bytes,
    job_write: int,
    report_read: int,
    limits: Limits,
) -> Outcome:
    """Feed and drain all pipes at once, with deadlines."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    begun = time.monotonic()
    started: float | None = None
    deadline = begun + _START_SECONDS
    out, err, report = bytearray(), bytearray(), bytearray()
    sinks = {process.stdout.fileno(): out, process.stderr.fileno(): err, report_read: report}
    sources: dict[int, memoryview] = {job_write: memoryview(job), process.stdin.fileno(): memoryview(stdin)}
    status = ""
    with selectors.DefaultSelector() as selector:
        for fd in sinks:
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        for fd in sources:
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_WRITE)
        while sinks:
            left = deadline - time.monotonic()
            if left <= 0:
                status = "timeout"
                break
            for key, _ in selector.select(left):
                fd = key.fd
                if fd in sources:
                    try:
                        sources[fd] = sources[fd][os.write(fd, sources[fd][:65536]) :]
                        finished = not sources[fd]
                    except BlockingIOError:
                        continue
                    except OSError:  # the program stopped reading
                        finished = True
                    if finished:
                        selector.unregister(fd)
                        del sources[fd]
                        if fd == job_write:
                            os.close(job_write)
                        else:
                            process.stdin.close()
                    continue
                try:
                    chunk = os.read(fd, 65536)
                except BlockingIOError:
                    continue
                if not chunk:
                    selector.unregister(fd)
                    del sinks[fd]
                elif fd == process.stderr.fileno():
                    err += chunk[: max(0, 20_000 - len(err))]
                else:
                    sinks[fd] += chunk
                if started is None and b"\n" in report:
                    started = time.monotonic()
                    deadline = started + limits.timeout
            if len(out) > limits.output_bytes or len(report) > limits.output_bytes:
                status = "output"
                break
    if job_write in sources:
        os.close(job_write)
    seconds = time.monotonic() - (started or begun)
    lines = [_line(line) for line in bytes(report).splitlines()]
    missing = tuple(lines[0].get("missing", ())) if lines else ()
    stdout, stderr = out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
    if not status:
        try:
            code = process.wait(max(0.1, deadline - time.monotonic()))
            status = "ok" if code == 0 else "error"
        except subprocess.TimeoutExpired:
            status = "timeout"
        if not lines or not lines[0].get("locked") or (missing and limits.strict):
            status = "sandbox"
            stderr = f"the sandbox lacks {', '.join(missing)} on this system" if missing else stderr
        elif status == "error" and ("MemoryError" in stderr[-2000:]):
            status = "memory"
    value = lines[1].get("value") if len(lines) > 1 else None
    return Outcome(status, stdout, stderr, value, seconds, missing)


def _line(data: bytes) -> dict[str, Any]:
    try:
        loaded = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return loaded if isinstance(loaded, dict) else {}
