"""Programs against tests in the sandbox, and what the sandbox keeps them from."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from heartloop.errors import UsageError
from heartloop_verifiers import CodeTest, Limits, averify_code, extract_code, verify_code
from heartloop_verifiers.sandbox import run_python

_PROBE = run_python("print('up')", limits=Limits(timeout=20))
needs_sandbox = pytest.mark.skipif(
    _PROBE.status == "sandbox",
    reason=f"this system lacks {', '.join(_PROBE.missing) or _PROBE.stderr[-200:]}",
)
_QUICK = Limits(timeout=1.5, memory_mb=512, output_bytes=100_000)
_DOUBLE = [{"input": "3\n", "output": "6\n"}, {"input": "-1\n", "output": "-2"}]


@needs_sandbox
def test_programs_and_functions() -> None:
    good = "Here it is:\n```python\nn = int(input())\nprint(2 * n)\n```\nDone."
    assert verify_code(good, _DOUBLE).correct is True
    bad = verify_code("```python\nn = int(input())\nprint(n + 3)\n```", _DOUBLE, graded=True)
    assert (bad.correct, bad.score) == (False, 0.5)
    assert "test 2 of 2" in bad.reason
    method = "class Solution:\n    def total(self, xs: List[int]) -> int:\n        return sum(xs)"
    functional = [{"input": "[1, 2]", "output": "3", "testtype": "functional"}]
    assert verify_code(method, functional, function="total").correct is True
    plain = "def pair(a, b):\n    print('chatter')\n    return (a, b)"
    assert (
        verify_code(plain, [CodeTest(function="pair", arguments=(1, "x"), expected=[1, "x"])]).correct is True
    )
    assert verify_code(plain, [CodeTest(function="pair", arguments=(1, 2), expected=[2, 1])]).correct is False


@needs_sandbox
def test_outputs_are_compared_by_line_and_as_decimals() -> None:
    tests = [{"input": "", "output": "1.50 2\nyes"}]
    assert verify_code("print(1.5, '2.0 ')\nprint(' yes')", tests).correct is True
    assert verify_code("print(1.5, '2.1')\nprint('yes')", tests).correct is False
    assert verify_code("print('1.5 2 yes')", tests).correct is False


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "error"),
        ("import os\nos.fork()", "error"),
        ("import subprocess\nsubprocess.run(['true'])", "error"),
        ("import os\nos.execv('/bin/true', ['true'])", "error"),
        ("open('made', 'w')", "error"),
        ("import tempfile\ntempfile.TemporaryFile()", "error"),
        ("print(open('/etc/hostname').read())", "error"),
        ("import os\nprint(open(f'/proc/{os.getppid()}/environ').read())", "error"),
        ("import os\nos.kill(os.getppid(), 0)", "error"),
        ("import os\nos.unlink(__file__)", "error"),
        ("import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0)\nimport os\nos.listdir('/')", "error"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "error"),
        ("x = 'a' * (2 << 30)", "memory"),
        ("while True: pass", "timeout"),
        ("import time\ntime.sleep(60)", "timeout"),
        ("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)", "timeout"),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nsys.exit(3)", "error"),
        ("import threading\nt = threading.Thread(target=print, args=('hi',))\nt.start()\nt.join()", "ok"),
        ("import decimal, fractions, datetime, json, re\nprint(decimal.Decimal(1) / 3)", "ok"),
    ],
)
def test_what_the_sandbox_keeps_programs_from(code: str, status: str) -> None:
    begun = time.monotonic()
    assert run_python(code, limits=_QUICK).status == status
    assert time.monotonic() - begun < 15


@needs_sandbox
def test_the_environment_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    outcome = run_python("import os\nprint(dict(os.environ))")
    assert outcome.status == "ok"
    assert "secret" not in outcome.stdout


@needs_sandbox
def test_large_inputs_that_are_never_read_do_not_hang() -> None:
    outcome = run_python("print('done')", stdin="x" * 3_000_000, limits=Limits(timeout=10))
    assert (outcome.status, outcome.stdout) == ("ok", "done\n")


@needs_sandbox
def test_no_descriptors_are_left_open() -> None:
    run_python("print(1)")
    before = len(os.listdir("/proc/self/fd"))
    for code in ("print(1)", "while True: pass", "raise SystemExit(1)"):
        run_python(code, limits=Limits(timeout=0.3))
    assert len(os.listdir("/proc/self/fd")) == before


@needs_sandbox
def test_async() -> None:
    assert asyncio.run(averify_code("print(int(input()) * 2)", _DOUBLE)).correct is True


def test_extract_code() -> None:
    assert extract_code("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```") == "y = 2\n"
    assert extract_code("```cpp\nint x;\n```\n```py\nx = 1\n```") == "x = 1\n"
    assert extract_code("<think>```python\nbad\n```</think>```python\ngood\n```") == "good\n"
    assert extract_code("x = 1") == "x = 1"
    assert extract_code("I can't solve this, sorry.") is None


def test_broken_tests_are_refused() -> None:
    with pytest.raises(UsageError, match="no tests"):
        verify_code("x = 1", [])
    with pytest.raises(UsageError, match="'output'"):
        verify_code("x = 1", [{"input": "1"}])
    with pytest.raises(UsageError, match="no function"):
        verify_code("x = 1", [{"input": "1", "output": "1", "testtype": "functional"}])
