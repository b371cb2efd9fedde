"""The command ``heartloop`` as tests call it: in a process of its own, or (faster) in this one."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from heartloop import cli
from tests.support import fault_server

COMMAND = [sys.executable, "-m", "heartloop.cli"]


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """Lines of standard error that tell more than how far a run is (every ten seconds)."""
        return [line for line in self.err.splitlines() if not re.match(r"\d+/\d+ problems, ", line)]

    @property
    def json(self) -> Any:
        """Standard output, which must be exactly one JSON value."""
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """This process's variables without what would change what a command does."""
    unwanted = ("OPENAI_", "HEARTLOOP_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "PYTHONWARNINGS": "always", **more}


def process(*args: str | Path, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with pipes."""
    return subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment() if env is None else env,
        **options,
    )


def finish(started: subprocess.Popen[bytes], timeout: float = 120.0) -> Done:
    """Wait for a process; one that hangs is killed, and the test fails."""
    try:
        out, err = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        started.kill()
        out, err = started.communicate()
        raise AssertionError(f"hung for {timeout} s; stderr so far: {err.decode()[-2000:]}") from None
    return Done(started.returncode, out.decode(), err.decode())


def run_process(*args: str | Path, env: dict[str, str] | None = None, **options: Any) -> Done:
    return finish(process(*args, env=env, **options))


def heartloop(*args: str | Path, stdin: bytes = b"", **variables: str) -> Done:
    """The command in this process. Options that ask for more than the figures go by ``variables``."""
    out, err = _Stream(), _Stream()
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", ["heartloop", *map(str, args)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int) or code is None
    return Done(code or 0, out.text, err.text)


class _Stream(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="surrogateescape", write_through=True)

    @property
    def text(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()


# --- data and servers ------------------------------------------------------------------------------------


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """``rows`` as JSON lines; bytes and strings go in as they are."""
    with path.open("wb") as file:
        for row in rows:
            line = (
                row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
            )
            file.write(line + b"\n")
    return path


def sums(path: Path, count: int, first: int = 0) -> Path:
    """``count`` additions with their answers, which the fault server knows how to do."""
    numbers = range(first, first + count)
    return write_lines(
        path,
        ({"id": f"p{i}", "question": f"What is {i} + {2 * i}?", "answer": str(3 * i)} for i in numbers),
    )


class ServerProcess:
    """The fault server in a process of its own, which can be killed and started again at its port."""

    def __init__(self, log: Path, *options: str) -> None:
        self.log, self.options, self.port = log, options, 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        command = [sys.executable, fault_server.__file__, "--port", str(self.port), "--log", str(self.log)]
        self._process = subprocess.Popen([*command, *self.options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().split()[1])

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def arrived(self) -> int:
        """Calls that have reached it."""
        return self.log.read_bytes().count(b'"event": "arrived"') if self.log.exists() else 0

    def events(self) -> list[dict[str, Any]]:
        """The log so far; a line that is being written is left out."""
        if not self.log.exists():
            return []
        whole = self.log.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


def wait_for(
    condition: Callable[[], bool], working: subprocess.Popen[bytes] | None = None, seconds: float = 60.0
) -> None:
    """Poll until ``condition`` holds. ``working`` must not end before; it is killed where it never comes."""
    end = time.monotonic() + seconds
    while not condition():
        if working is not None and working.poll() is not None:
            raise AssertionError(f"ended early: {finish(working)}")
        if time.monotonic() > end:
            if working is not None:
                working.kill()
                raise AssertionError(f"waited in vain; killed: {finish(working)}")
            raise AssertionError("waited in vain")
        time.sleep(0.005)
