"""No input hangs, kills or takes over the caller: deadlines, memory, threads, event loops, signals, a
killed parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from heartloop.errors import UnknownName, UsageError
from heartloop_verifiers import Pool, averify, averify_many, verify, verify_many


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stuck_worker_is_killed_and_its_case_is_unknown() -> None:
    pool = Pool(1)
    try:
        verify(r"\sin 1", "2", pool=pool)
        (pid,) = pool.pids()
        os.kill(pid, signal.SIGSTOP)  # as stuck as a process can be
        begun = time.monotonic()
        verdicts = verify_many([(r"\sin 1", "2"), (r"\sin 1", r"\cos(\pi/2-1)")], pool=pool, timeout=0.5)
        assert time.monotonic() - begun < 10
        assert [v.correct for v in verdicts] == [None, True]  # the pool goes on with the next case
        assert "0.5 s" in verdicts[0].reason
        assert verdicts[0].method == "killed"
        assert not _alive(pid)
    finally:
        pool.close()


def test_a_dead_worker_is_replaced() -> None:
    pool = Pool(1)
    try:
        verify(r"\sin 1", "2", pool=pool)
        (pid,) = pool.pids()
        os.kill(pid, signal.SIGKILL)
        first, second = verify_many([(r"\sin 1", "2"), (r"\sin 1", "3")], pool=pool)
        assert first.correct is None
        assert "died" in first.reason
        assert second.correct is False
    finally:
        pool.close()


def test_the_memory_limit_holds() -> None:
    pool = Pool(1, memory_mb=160)
    try:
        hog = r"\{" + ",".join(rf"\sqrt{{{n}}}" for n in range(200_000)) + r"\}"
        verdict = verify(hog, r"\{1,2\}", pool=pool, timeout=20)
        assert verdict.correct is not True
        assert verify(r"\sin 1", "2", pool=pool, timeout=20).correct is False
    finally:
        pool.close()


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^{9}}}",
        "10^{10^{10^{10}}}!",
        "((((" * 2000,
        "\\frac{" * 3000,
        "1+" * 100_000,
        "\\sqrt" * 5000,
        "-" * 50_000 + "1",
        "2^" * 2000 + "2",
        "(" * 500 + "1" + ")" * 500,
        "\ud800\udfff",
        "\x00\x01",
        "__import__('os').system('echo pwned')",
        "{{{}}}" * 1000,
        "1" * 200_000 + "/" + "3" * 200_000,
        "\\binom{10^{9}}{10^{8}}",
        "|" * 1001,
        "1,234," * 2000,
        "\\text{" * 500,
        "x" * 100_000,
    ],
)
def test_hostile_texts_end_in_a_verdict_in_time(text: str, pool: Pool) -> None:
    begun = time.monotonic()
    for prediction, reference in ((text, "1"), ("1", text), (text, text + " "), (f"\\boxed{{{text}}}", "17")):
        for mode in ("strict", "official"):
            verdict = verify(prediction, reference, pool=pool, timeout=1.0, mode=mode)
            assert verdict.correct in (True, False, None)
            assert verdict.correct is not None or verdict.reason
    assert time.monotonic() - begun < 30


def test_threads_share_the_pool(pool: Pool) -> None:
    results: list[bool | None] = []

    def work(n: int) -> None:
        results.append(verify(rf"\sqrt[3]{{{n**3 + 1}}}", f"{n}", pool=pool, timeout=20).correct)
        results.append(verify(rf"\cos(\pi/3) \cdot {n}", f"{n}/2", pool=pool, timeout=20).correct)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results, key=str) == [False] * 8 + [True] * 8


def test_the_event_loop_is_never_blocked(pool: Pool) -> None:
    async def main() -> tuple[float, list[bool | None]]:
        gaps: list[float] = []

        async def ticker() -> None:
            last = time.perf_counter()
            while True:
                await asyncio.sleep(0.005)
                gaps.append(time.perf_counter() - last)
                last = time.perf_counter()

        watch = asyncio.create_task(ticker())
        one = await averify(r"\sin(1)^2+\cos(1)^2", "1", pool=pool, timeout=20)
        several = await averify_many([(rf"\sin {n}", "2") for n in range(300)], pool=pool, timeout=20)
        long = await averify("x" * 5_000_000 + r" \boxed{\sqrt[3]{2}}", r"2^{1/3}", pool=pool, timeout=20)
        watch.cancel()
        return max(gaps), [one.correct, long.correct, any(v.correct for v in several)]

    worst, verdicts = asyncio.run(main())
    assert verdicts == [True, True, False]
    assert worst < 0.3  # a busy machine's jitter; a blocked loop would be seconds


def test_signal_handlers_and_timers_stay_as_they_were(pool: Pool) -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 60)
        assert verify(r"\tan 1", r"\frac{\sin 1}{\cos 1}", pool=pool, timeout=20).correct is True
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 0 < left <= 60
        assert not rang
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _run(script: str, **options: object) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, env=env
    )


def test_a_script_without_a_main_guard_works_and_leaves_nobody_behind() -> None:
    script = """
    from heartloop_verifiers import verify, shared_pool
    print(verify(r"\\sin 1", r"\\cos(\\pi/2-1)", timeout=20).correct, *shared_pool().pids())
    """
    process = _run(script)
    out, _ = process.communicate(timeout=60)
    correct, *pids = out.split()
    assert correct == "True"
    assert process.returncode == 0
    end = time.monotonic() + 5
    while any(_alive(int(pid)) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(_alive(int(pid)) for pid in pids)


def test_workers_end_when_their_parent_is_killed() -> None:
    script = """
    import time
    from heartloop_verifiers import verify, shared_pool
    verify(r"\\sin 1", "2", timeout=20)
    print(*shared_pool().pids(), flush=True)
    time.sleep(60)
    """
    process = _run(script)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert pids
    assert all(_alive(pid) for pid in pids)
    process.kill()
    process.wait(10)
    process.stdout.close()
    end = time.monotonic() + 5
    while any(_alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)


def test_a_forked_child_gets_a_pool_of_its_own() -> None:
    script = """
    import os
    from heartloop_verifiers import verify
    verify(r"\\sin 1", "2", timeout=20)
    child = os.fork()
    correct = verify(r"\\tan 1", r"\\frac{\\sin 1}{\\cos 1}", timeout=20).correct
    if child == 0:
        os._exit(0 if correct is True else 1)
    print(correct, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    process = _run(script)
    out, _ = process.communicate(timeout=60)
    assert out.split() == ["True", "0"]


def test_importing_is_light() -> None:
    script = """
    import sys
    import heartloop_verifiers
    print(*[m for m in ("sympy", "mpmath", "antlr4", "asyncio", "latex2sympy2_extended") if m in sys.modules])
    """
    out, _ = _run(script).communicate(timeout=60)
    assert out.split() == []


def test_broken_options_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="strict"):
        verify("1", "1", mode="lenient")
    with pytest.raises(UnknownName, match="choice"):
        verify("1", "1", kind="choise")
    with pytest.raises(UsageError, match="timeout"):
        verify("1", "1", timeout=0)
    with pytest.raises(UsageError, match="precision"):
        verify("1", "1", precision="about a tenth")
    with pytest.raises(UsageError, match="reference"):
        verify_many([{"prediction": "1"}])


def test_a_closed_pool_answers_unknown_rather_than_hanging() -> None:
    pool = Pool(1)
    verify(r"\sin 1", "2", pool=pool)
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        verify(r"\sin 1", "2", pool=pool)
