"""``vllm run-batch`` by a stand-in: how its runs end, and what is left when they don't."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from heartloop import HeartLoop, Model, Problem
from heartloop.backends import VllmRunBatch, make_backend
from heartloop.backends.waves import WaveLine
from heartloop.errors import BackendUnreachable, UsageError
from heartloop.types import Message, Request, Sampling, Solution, StopReason
from tests.loop.helpers import QUICK, by_text, run, same_text
from tests.support import fake_run_batch

FAKE = f"{sys.executable} {fake_run_batch.__file__} -i {{input}} -o {{output}}"


def backend(folder: Path, command: str = FAKE) -> VllmRunBatch:
    return VllmRunBatch("test-model", command=command, folder=folder, poll_seconds=(0.01, 0.05))


def solve(given: VllmRunBatch, questions: list[str]) -> list[Solution]:
    async def main() -> list[Solution]:
        options: dict[str, Any] = {"retry": QUICK, "verify": by_text, "equivalent": same_text}
        model = Model("m", backend=given, sampling=Sampling(max_tokens=64))
        async with HeartLoop(model, strategy="chain_of_thought", **options) as loop:
            return await loop.solve_many([Problem(f"p{n}", text) for n, text in enumerate(questions)])

    return run(main(), 30)


def runs(folder: Path) -> list[int]:
    return [int(pid) for path in folder.glob("*/runs") for pid in path.read_text().split()]


def test_a_wave_is_one_run_and_errors_come_by_the_line(tmp_path: Path) -> None:
    fine, odd = solve(backend(tmp_path), ["What is 1 + 2?", "This is too odd"])
    assert fine.answer == "3"
    assert odd.stop_reason is StopReason.FAILED
    assert "BadRequest" in str(odd.error)
    assert "too odd" in str(odd.error)
    assert len(runs(tmp_path)) == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [(f"env FAKE_EXIT=3 {FAKE}", "model can't be loaded"), ("no-such-vllm -i {input} -o {output}", "127")],
)
def test_a_command_that_fails_ends_the_run_and_says_why(tmp_path: Path, command: str, said: str) -> None:
    with pytest.raises(BackendUnreachable, match=said):
        solve(backend(tmp_path, command), ["What is 1 + 2?"])


def test_a_run_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        given = backend(tmp_path, f"env FAKE_SECONDS=0.6 {FAKE}")
        request = Request("test-model", (Message("user", "What is 1 + 2?"),), Sampling(max_tokens=64))

        async def noted(data: Any) -> None:
            return None

        ref = await given.submit("w", [WaveLine("a", request, given.wave_line("a", request))], noted)
        await until(lambda: len(runs(tmp_path)) == 1)
        group = int((tmp_path / "w/pid").read_text())
        os.killpg(group, signal.SIGKILL)
        assert await given.find("w", {}) == "w"

        # Another process finds it, and asks for it again.
        await given.aclose()
        given = backend(tmp_path, FAKE)
        while not (look := await given.look(ref)).ended:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert not look.cut
        outcomes = {id: outcome async for id, outcome in given.results(ref)}
        assert outcomes["a"].text == "I add the two numbers. The answer is \\boxed{3}."  # type: ignore[union-attr]
        assert len(runs(tmp_path)) == 2
        await given.aclose()

    run(main(), 30)


def test_cancelling_stops_the_command(tmp_path: Path) -> None:
    async def main() -> None:
        given = backend(tmp_path, f"env FAKE_SECONDS=60 {FAKE}")
        request = Request("test-model", (Message("user", "Hi"),), Sampling(max_tokens=64))
        call = asyncio.ensure_future(given.complete(request))
        await until(lambda: len(runs(tmp_path)) == 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await given.aclose()
        [pid] = runs(tmp_path)
        await until(lambda: not alive(pid))

    run(main(), 30)


def test_without_a_command_the_files_are_left_for_the_user(tmp_path: Path) -> None:
    async def main() -> None:
        given = backend(tmp_path, "")
        request = Request("test-model", (Message("user", "What is 1 + 2?"),), Sampling(max_tokens=64))
        call = asyncio.ensure_future(given.complete(request))
        await until(lambda: bool(list(tmp_path.glob("*/in.jsonl"))))
        await asyncio.sleep(0.1)
        assert not call.done()
        [wave] = tmp_path.glob("*")  # noqa: ASYNC240
        words = [fake_run_batch.__file__, "-i", str(wave / "in.jsonl"), "-o", str(wave / "out.jsonl")]
        await asyncio.to_thread(subprocess.run, [sys.executable, *words], check=True)
        assert (await call).text.endswith("\\boxed{3}.")
        await given.aclose()

    run(main(), 30)


def test_braces_in_a_command_are_its_own(tmp_path: Path) -> None:
    [solution] = solve(backend(tmp_path, f"env 'FLAGS={{\"temperature\": 0}}' {FAKE}"), ["What is 1 + 2?"])
    assert solution.answer == "3"
    [command] = tmp_path.glob("*/command.json")
    assert 'FLAGS={\\"temperature\\": 0}' in command.read_text()


def test_commands_and_names_that_can_not_work() -> None:
    with pytest.raises(UsageError, match="input"):
        VllmRunBatch("m", command="vllm run-batch -o {output}")
    with pytest.raises(UsageError, match="can't be read"):
        VllmRunBatch("m", command="vllm 'run-batch")
    with pytest.raises(UsageError, match="base_url"):
        make_backend("vllm-batch/m", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(UsageError, match="not installed"):
        make_backend("vllm-offline/m")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.01)
