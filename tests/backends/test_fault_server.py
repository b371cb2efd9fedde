"""The fault server keeps its word: other tests lean on it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from heartloop.backends import OpenAIBackend
from heartloop.errors import BackendError
from heartloop.types import Message, Request, Sampling
from tests.support import fault_server
from tests.support.fault_server import FaultServer


def results(base_url: str, count: int = 40) -> list[str]:
    async def main() -> list[str]:
        backend = OpenAIBackend("test-model", base_url=base_url)

        async def one(n: int) -> str:
            try:
                asked = (Message("user", f"What is {n} + 1?"),)
                return (await backend.complete(Request("test-model", asked, Sampling(seed=n)))).text
            except BackendError as error:
                return type(error).__name__

        answers = await asyncio.gather(*(one(n) for n in range(count)))
        await backend.aclose()
        return answers

    return asyncio.run(main())


def test_rates_delays_and_wrong_answers_are_the_same_every_time() -> None:
    def once(seed: int) -> list[str]:
        rates = {"500": 0.2, "reset": 0.1}
        with FaultServer(rates=rates, delay_ms=(0, 10), wrong=0.3, seed=seed) as server:
            return results(server.base_url)

    first = once(1)
    assert first == once(1)
    assert first != once(2)
    assert {"ServerError", "ConnectionLost"} < set(first)
    right = sum(f"{{{n + 1}}}" in text for n, text in enumerate(first))
    assert 10 < right < 38


def test_a_retry_draws_anew() -> None:
    with FaultServer(rates={"500": 0.5}) as server:
        assert results(server.base_url) != results(server.base_url)


def test_the_log_tells_every_call_and_its_end(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"

    async def main(url: str) -> None:
        backend = OpenAIBackend("test-model", base_url=url)
        request = Request("test-model", (Message("user", "q"),))
        await backend.complete(request)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(backend.complete(request), 0.2)
        await backend.aclose()

    with FaultServer(["ok", "hang"], log=log) as server:
        asyncio.run(main(server.base_url))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["id"], line["event"]) for line in lines] == [
        (0, "arrived"),
        (0, "answered"),
        (1, "arrived"),
        (1, "cancelled"),
    ]
    assert len({line["request"] for line in lines}) == len({line["messages"] for line in lines}) == 1


def test_as_a_process(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    command = [sys.executable, fault_server.__file__, "--port", "0", "--log", str(log), "--rate", "429=0.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = re.fullmatch(r"READY (\d+)\n", process.stdout.readline())
        assert ready
        answers = results(f"http://127.0.0.1:{ready[1]}/v1", 20)
        assert 0 < answers.count("RateLimited") < 20
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()
    assert len(log.read_text().splitlines()) == 40


def test_unknown_faults_are_refused() -> None:
    with pytest.raises(ValueError, match="no such fault: gremlin"):
        FaultServer(["ok", "gremlin"])
