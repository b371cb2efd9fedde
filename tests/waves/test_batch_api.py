"""The Batch API over HTTP, with everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heartloop import HeartLoop, Model, Problem, RetryPolicy
from heartloop.backends import BatchBackend, make_backend
from heartloop.backends.waves import TakesWaves
from heartloop.engine import wave_flight, waves
from heartloop.engine.ledger import Account
from heartloop.errors import AuthenticationFailed, QuotaExceeded, UsageError
from heartloop.types import Message, Request, Sampling, Solution, StopReason
from tests.loop.helpers import by_text, run, same_text
from tests.support.batch_server import BatchServer

QUICK = RetryPolicy(attempts=6, first_wait=0.01, max_wait=0.02)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wave_flight, "LOOKUPS", (0.0, 0.05, 0.3))
    monkeypatch.setattr(waves, "FIRST_AGAIN", 0.05)
    monkeypatch.setattr(waves, "LAST_AGAIN", 0.2)


def solve(server: BatchServer, count: int = 6, **given: Any) -> tuple[list[Solution], Account]:
    """Sums solved by the batch; the solutions, and what they cost."""

    async def main() -> tuple[list[Solution], Account]:
        options = {"poll_seconds": (0.005, 0.02), **given.pop("options", {})}
        model = Model(
            "batch/test-model", base_url=server.base_url, sampling=Sampling(max_tokens=64), options=options
        )
        defaults = {
            "strategy": "chain_of_thought",
            "retry": QUICK,
            "verify": by_text,
            "equivalent": same_text,
        }
        async with HeartLoop(model, **{**defaults, **given}) as loop:
            solutions = await loop.solve_many(
                [Problem(f"p{n}", f"What is {n} + {n}?", reference=str(2 * n)) for n in range(count)]
            )
            assert loop._engine is not None
            return solutions, loop._engine.ledger.run

    return run(main(), 60)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.005)


def check(server: BatchServer, solutions: list[Solution], account: Account) -> None:
    """All solved, each request answered once, and the ledger says what the server does."""
    assert [solution.correct for solution in solutions] == [True] * len(solutions)
    tokens = Counter[str]()
    for entry in server.of("ended"):
        tokens.update(entry["tokens"])
    assert account.open.calls == account.open.tokens == 0
    assert account.confirmed.tokens <= sum(tokens.values()) <= account.charged.tokens


def created(server: BatchServer) -> Counter[str]:
    """How often each call was in a batch that was created."""
    return Counter(id for entry in server.of("created") for id in entry["ids"])


def test_a_wave_is_one_batch_and_its_file_is_right() -> None:
    with BatchServer() as server:
        solutions, account = solve(server)
        check(server, solutions, account)
        [batch] = server.batches.values()
        assert batch.data["metadata"]["heartloop_wave"]
        assert {line["method"] for line in batch.lines} == {"POST"}
        assert {line["url"] for line in batch.lines} == {"/v1/chat/completions"}
        assert all(line["body"]["max_tokens"] == 64 for line in batch.lines)
        assert not any("p0" in line["custom_id"] for line in batch.lines)
        assert account.assumed.calls == 0


@pytest.mark.parametrize(
    "faults",
    [
        {"expiring": 0.4},
        {"failing": {"500": 0.3, "429": 0.2}},
        {"flaky": 0.4},
        {"reset_after": [1]},
        {"reset_before": [1]},
        {"reset_after": [1], "hidden": 0.1},
        {"unsupported": ["temperature", "seed"]},
    ],
    ids=lambda faults: ",".join(faults),
)
def test_faults_that_cost_nothing(faults: dict[str, Any]) -> None:
    with BatchServer(**faults, seed=1) as server:
        solutions, account = solve(server, 12)
        check(server, solutions, account)
        assert account.assumed.calls == 0
        answered = Counter(id for entry in server.of("ended") for id in entry["tokens"])
        assert set(answered.values()) == {1}, "something was paid for twice"
        if not {"expiring", "failing", "unsupported"} & faults.keys():
            assert set(created(server).values()) == {1}


@pytest.mark.parametrize("faults", [{"missing": 0.4}, {"broken": 0.4}, {"empty": 0.4}], ids=str)
def test_answers_that_were_paid_for_and_lost_are_assumed(faults: dict[str, Any]) -> None:
    with BatchServer(**faults, seed=3) as server:
        solutions, account = solve(server, 12)
        check(server, solutions, account)
        lost = sum(created(server).values()) - 12
        assert account.assumed.calls == lost > 0


def test_a_line_that_the_model_refuses_fails_its_problem_alone() -> None:
    with BatchServer(failing={"400": 0.3}, seed=2) as server:
        solutions, account = solve(server, 12)
        failed = [s for s in solutions if s.stop_reason is StopReason.FAILED]
        assert 0 < len(failed) < 12
        assert all("400" in str(s.error) for s in failed)
        assert set(created(server).values()) == {1}
        assert account.charged.calls == 12


def test_validation_that_names_lines_costs_only_these() -> None:
    errors = [{"code": "invalid_request", "message": "messages is odd", "line": n} for n in (2, 5)]
    with BatchServer(refuse={"1": errors}) as server:
        solutions, account = solve(server, 6)
        assert [s.stop_reason is StopReason.FAILED for s in solutions].count(True) == 2
        ids = [entry["ids"] for entry in server.of("created")]
        assert ids[1] == [id for n, id in enumerate(ids[0], 1) if n not in (2, 5)]
        assert account.charged.calls == 4


def test_a_limit_of_enqueued_tokens_makes_smaller_batches_later() -> None:
    with BatchServer(most=5, seconds=0.05) as server:
        solutions, account = solve(server, 16)
        check(server, solutions, account)
        answered = Counter(id for entry in server.of("ended") for id in entry["tokens"])
        assert set(answered.values()) == {1}
        assert account.charged.calls == 16


def test_what_would_befall_every_batch_ends_the_run() -> None:
    quota = [{"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached"}]
    with BatchServer(refuse={"1": quota}) as server, pytest.raises(QuotaExceeded, match="Billing"):
        solve(server)
    with BatchServer(api_key="another-secret-key") as server:
        with pytest.raises(AuthenticationFailed) as caught:
            solve(server, options={"api_key": "my-very-secret-key"})
        assert "secret" not in str(caught.value)
        assert server.of("created") == []


def test_big_waves_are_split_by_calls_and_bytes() -> None:
    with BatchServer() as server:
        solutions, account = solve(server, 10, options={"wave_calls": 4})
        check(server, solutions, account)
        assert sorted(len(entry["ids"]) for entry in server.of("created")) == [2, 4, 4]
    with BatchServer() as server:
        solutions, account = solve(server, 10, options={"wave_bytes": 3000})
        check(server, solutions, account)
        assert len(server.of("created")) == 2
        assert all(entry["bytes"] <= 3000 for entry in server.of("uploaded"))


def test_a_wave_is_found_by_its_mark_among_many() -> None:
    with BatchServer(seconds=30.0) as server:

        async def main() -> None:
            backend = BatchBackend("test-model", base_url=server.base_url)
            request = Request("test-model", (Message("user", "What is 1 + 1?"),), Sampling(max_tokens=9))

            async def noted(data: Any) -> None:
                return None

            from heartloop.backends.waves import WaveLine

            lines = [WaveLine("a", request, backend.wave_line("a", request))]
            refs = [await backend.submit(f"wave{n}", lines, noted) for n in range(230)]
            assert await backend.find("wave3", {}) == refs[3]
            assert await backend.find("wave229", {}) == refs[229]
            assert await backend.find("none of these", {"input_file_id": "file-7"}) == refs[7]
            assert await backend.find("none of these", {"input_file_id": "nor this"}) is None
            await backend.aclose()

        run(main(), 60)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_batch_that_somebody_cancels_costs_no_problem(share: float) -> None:
    with BatchServer(seconds=0.3, run_cancelled=share) as server:

        async def main() -> tuple[list[Solution], Account]:
            model = Model(
                "batch/test-model", base_url=server.base_url, options={"poll_seconds": (0.005, 0.02)}
            )
            async with HeartLoop(model, strategy="chain_of_thought", verify=by_text, retry=QUICK) as loop:
                problems = [Problem(f"p{n}", f"What is {n} + {n}?", reference=str(2 * n)) for n in range(6)]
                work = asyncio.ensure_future(loop.solve_many(problems))
                await until(lambda: bool(server.batches))
                stranger = BatchBackend("test-model", base_url=server.base_url)
                await asyncio.sleep(0.05)
                await stranger.cancel("batch_1")
                await stranger.aclose()
                solutions = await work
                assert loop._engine is not None
                return solutions, loop._engine.ledger.run

        solutions, account = run(main(), 60)
        check(server, solutions, account)
        assert [len(entry["ids"]) for entry in server.of("created")] == [6, 6 - int(6 * share)]
        assert account.assumed.calls == 0


def test_a_cancelled_call_cancels_its_batch_at_the_server() -> None:
    with BatchServer(seconds=60.0) as server:

        async def main() -> None:
            backend = BatchBackend("test-model", base_url=server.base_url, poll_seconds=(0.01, 0.1))
            request = Request("test-model", (Message("user", "Hi"),), Sampling(max_tokens=9))
            call = asyncio.ensure_future(backend.complete(request))
            await until(lambda: bool(server.batches))
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await backend.aclose()

        run(main(), 60)
        assert [entry["batch"] for entry in server.of("cancelled")] == ["batch_1"]


def test_names_choose_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for given in (
        make_backend("batch/gpt-4o"),
        Model("gpt-4o", batch=True).make_backend(),
        Model("openai/gpt-4o", batch=True).make_backend(),
        Model("batch/gpt-4o", batch=True).make_backend(),
    ):
        assert isinstance(given, BatchBackend)
        assert isinstance(given, TakesWaves)
        assert given.name == "gpt-4o"
    there = Model("org/name", base_url="http://127.0.0.1:1/v1", batch=True).make_backend()
    assert isinstance(there, BatchBackend)
    assert there.name == "org/name"
    with pytest.raises(UsageError, match="Azure"):
        make_backend("batch/x", base_url="https://mine.openai.azure.com")


def test_nothing_of_the_key_is_logged(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG, logger="heartloop")
    with BatchServer(api_key="a-very-secret-key", flaky=0.3, seed=5) as server:
        solve(server, 3, options={"api_key": "a-very-secret-key"}, journal=tmp_path / "journal")
    assert "secret" not in caplog.text
    assert b"secret" not in (tmp_path / "journal").read_bytes()
