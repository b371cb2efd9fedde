"""The spans of waves, and of the calls in them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from heartloop import HeartLoop, Model, Problem
from heartloop.backends import waves as backend_waves
from heartloop.errors import BadRequest, ConnectionFailed, QuotaExceeded, ServerError
from heartloop.types import Budget, Completion, Sampling, StopReason, Usage
from tests.loop.helpers import QUICK, by_text, run, same_text
from tests.support.virtual_time import run_virtually
from tests.support.wave_backend import MemoryWaves, said

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed (requirements-dev.txt)")

from tests.telemetry.exported import Seen

SECRET = "What is the password of the lighthouse?"


def loop(backend: MemoryWaves, **given: Any) -> HeartLoop:
    model = Model("waves", backend=backend, sampling=Sampling(max_tokens=16))
    options = {"strategy": "chain_of_thought", "retry": QUICK, "verify": by_text, "equivalent": same_text}
    return HeartLoop(model, **{**options, **given})


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{n}", f"{SECRET} {n}") for n in range(count)]


def solve(backend: MemoryWaves, count: int = 3, **given: Any) -> Any:
    async def main() -> Any:
        async with loop(backend, **given) as held:
            return await held.solve_many(problems(count))

    return run_virtually(main())


def by_wave(seen: Seen) -> dict[str, list[Any]]:
    """Calls' spans by the wave that they say they are in."""
    found: dict[str, list[Any]] = {}
    for call in seen.spans("chat"):
        found.setdefault(str(call.attributes.get("heartloop.wave.id")), []).append(call)
    return found


def states(wave: Any) -> list[Any]:
    return [event.attributes["heartloop.wave.state"] for event in wave.events]


def test_a_wave_is_a_span_and_so_is_each_call_in_it(seen: Seen) -> None:
    seen.enable()
    usage = Usage(100, 20, cached_tokens=60)
    backend = MemoryWaves(lambda r, n: Completion("\\boxed{1}", usage=usage, model="waves-2026"), seconds=9.0)
    solve(backend, 3)
    (whole,), (wave,) = seen.spans("heartloop.run"), seen.spans("heartloop.wave")
    assert (wave.kind.name, wave.parent.span_id) == ("CLIENT", whole.context.span_id)
    expected = {
        "gen_ai.provider.name": "memorywaves",
        "gen_ai.request.model": "waves",
        "heartloop.lane": "generator",
        "heartloop.wave.size": 3,
        "heartloop.wave.state": "ended",
        "heartloop.wave.ref": "w0",
        "heartloop.wave.resumed": False,
        "heartloop.wave.answered": 3,
        "heartloop.wave.failed": 0,
    }
    assert {name: wave.attributes.get(name) for name in expected} == expected
    assert "gen_ai.operation.name" not in wave.attributes  # its calls are the operations
    assert states(wave) == ["made", "creating", "sent", "ended"]
    assert (wave.status.status_code.name, "error.type" in wave.attributes) == ("UNSET", False)
    calls = by_wave(seen)[wave.attributes["heartloop.wave.id"]]
    attempts = {span.context.span_id for span in seen.spans("heartloop.attempt")}
    assert {call.parent.span_id for call in calls} == attempts
    assert {link.context.span_id for link in wave.links} == {call.context.span_id for call in calls}
    assert all([link.context.span_id for link in call.links] == [wave.context.span_id] for call in calls)
    for call in calls:
        assert (call.name, call.kind.name) == ("chat waves", "CLIENT")
        assert call.attributes["gen_ai.usage.input_tokens"] == 100
        assert call.attributes["gen_ai.usage.cache_read.input_tokens"] == 60
        assert call.attributes["gen_ai.response.model"] == "waves-2026"
        assert call.attributes["heartloop.try"] == 1
        assert call.attributes["heartloop.batched"] is True
    tokens = {p.attributes["gen_ai.token.type"]: p for p in seen.points("gen_ai.client.token.usage")}
    assert {kind: (p.count, p.sum) for kind, p in tokens.items()} == {"input": (3, 300), "output": (3, 60)}
    (duration,) = seen.points("gen_ai.client.operation.duration")
    assert duration.count == 3
    assert duration.attributes["heartloop.batched"] is True
    assert [p.count for p in seen.points("heartloop.queue.duration")] == [3]
    assert SECRET not in seen.everything()


def test_content_of_calls_in_waves_only_when_asked_for(seen: Seen) -> None:
    seen.enable(content=True)
    solve(MemoryWaves(), 1)
    (call,) = seen.spans("chat")
    assert SECRET in call.attributes["gen_ai.input.messages"]
    assert "boxed" in call.attributes["gen_ai.output.messages"]
    assert not any("boxed" in str(wave.attributes) for wave in seen.spans("heartloop.wave"))


def test_a_call_that_fails_in_a_wave_is_tried_in_another(seen: Seen) -> None:
    seen.enable()
    backend = MemoryWaves(lambda r, n: ServerError(f"busy: {SECRET}", status=503) if n == 0 else said("1"))
    solve(backend, 1)
    first, second = seen.spans("heartloop.wave")
    failed, answered = seen.spans("chat")
    assert (failed.attributes["error.type"], failed.status.status_code.name) == ("ServerError", "ERROR")
    assert failed.attributes["http.response.status_code"] == 503
    assert (failed.attributes["heartloop.try"], answered.attributes["heartloop.try"]) == (1, 2)
    assert [link.context.span_id for link in failed.links] == [first.context.span_id]
    assert [link.context.span_id for link in answered.links] == [second.context.span_id]
    assert (first.attributes["heartloop.wave.answered"], first.attributes["heartloop.wave.failed"]) == (0, 1)
    assert first.status.status_code.name == "UNSET"  # the wave did what a wave does
    kinds = [p.attributes.get("error.type") for p in seen.points("gen_ai.client.operation.duration")]
    assert sorted(kinds, key=str) == [None, "ServerError"]
    assert SECRET not in seen.everything()


def test_a_wave_that_the_server_would_not_have(seen: Seen) -> None:
    seen.enable()
    backend = MemoryWaves()
    backend.submit_errors = [BadRequest(f"no: {SECRET}", status=400)]
    (solution,) = solve(backend, 1)
    assert solution.stop_reason is StopReason.FAILED
    (wave,), (call,) = seen.spans("heartloop.wave"), seen.spans("chat")
    for span in (wave, call):
        assert (span.attributes["error.type"], span.status.status_code.name) == ("BadRequest", "ERROR")
        assert not span.status.description
    assert states(wave) == ["made", "ended"]
    (problem,) = seen.spans("invoke_workflow")
    assert problem.attributes["error.type"] == "BadRequest"
    assert SECRET not in seen.everything()


def test_what_goes_wrong_on_the_way_and_is_mended_is_no_error(seen: Seen) -> None:
    seen.enable()
    backend = MemoryWaves()
    backend.submit_errors = [ConnectionFailed("nobody there")]
    solve(backend, 2)
    (wave,) = seen.spans("heartloop.wave")
    assert wave.status.status_code.name == "UNSET"
    assert {call.status.status_code.name for call in seen.spans("chat")} == {"UNSET"}


def test_a_wave_that_is_cut_at_the_server(seen: Seen) -> None:
    seen.enable()
    backend = MemoryWaves(lambda r, n: said("1") if n or f"{SECRET} 0" in str(r.messages) else None)
    backend.looks[0] = backend_waves.WaveLook(True, cut=True)
    solve(backend, 2)
    first, second = seen.spans("heartloop.wave")
    assert (first.attributes["error.type"], first.status.status_code.name) == ("BatchEnded", "ERROR")
    assert (first.attributes["heartloop.wave.answered"], first.attributes["heartloop.wave.failed"]) == (1, 1)
    assert "error.type" not in second.attributes


def test_a_wave_that_is_too_much_is_several_each_with_its_calls(seen: Seen) -> None:
    seen.enable()
    backend = MemoryWaves()
    backend.looks[0] = backend_waves.WaveLook(True, refused=QuotaExceeded("too many"), too_much=True)
    solve(backend, 4)
    first, *rest = sorted(seen.spans("heartloop.wave"), key=lambda span: span.start_time)
    assert first.attributes["error.type"] == "QuotaExceeded"
    assert [span.attributes["heartloop.wave.size"] for span in rest] == [2, 2]
    assert {span.attributes["heartloop.wave.refusals"] for span in rest} == {1}
    calls = seen.spans("chat")
    assert len(calls) == 4  # the calls went on: no further ones were made
    assert {len(call.links) for call in calls} == {2}
    later = {span.context.span_id for span in rest}
    assert {call.links[1].context.span_id for call in calls} == later
    assert {call.status.status_code.name for call in calls} == {"UNSET"}


def test_a_call_taken_out_before_its_wave_left_ends(seen: Seen) -> None:
    seen.enable()
    backend = MemoryWaves()

    async def main() -> None:
        async with loop(backend) as held:

            async def busy() -> None:
                await held.solve_many(problems(1))

            work = asyncio.ensure_future(busy())
            await asyncio.sleep(0.01)  # within the linger of the wave
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    run_virtually(main())
    assert backend.waves == []
    (call,) = seen.spans("chat")
    assert call.attributes["error.type"] == "CancelledError"
    assert seen.spans("heartloop.wave") == []


def test_without_a_journal_a_wave_ends_with_the_run(seen: Seen) -> None:
    seen.enable()
    backend = MemoryWaves(seconds=None)

    async def main() -> None:
        async with loop(backend) as held:
            work = asyncio.ensure_future(held.solve_many(problems(2)))
            await asyncio.sleep(1)
            assert {
                p.attributes["heartloop.wave.state"]: p.value for p in seen.points("heartloop.calls.in_waves")
            } == {"collected": 0, "out": 2}
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    run_virtually(main())
    assert backend.cancelled == ["w0"]
    (wave,) = seen.spans("heartloop.wave")
    assert (wave.attributes["error.type"], wave.status.status_code.name) == ("CancelledError", "ERROR")
    assert wave.attributes["heartloop.wave.state"] == "sent"
    assert {call.attributes["error.type"] for call in seen.spans("chat")} == {"CancelledError"}
    assert len(seen.spans("chat")) == 2


def test_a_wave_that_is_resumed_is_one_span_that_says_so(seen: Seen, tmp_path: Path) -> None:
    seen.enable()
    backend = MemoryWaves(seconds=None)

    async def left_out() -> None:
        async with loop(backend, journal=tmp_path / "j") as held:
            work = asyncio.ensure_future(held.solve_many(problems(3)))
            while not backend.waves:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def gone_on() -> None:
        async with loop(backend, journal=tmp_path / "j") as held:
            work = asyncio.ensure_future(held.solve_many(problems(2)))  # nobody comes for the third
            await asyncio.sleep(0.1)
            backend.waves[0].ended.set()
            assert len(await work) == 2

    run(left_out())
    (left,) = seen.spans("heartloop.wave")
    assert left.attributes["heartloop.wave.left"] is True
    assert (left.attributes["heartloop.wave.state"], left.status.status_code.name) == ("sent", "UNSET")
    assert {call.attributes["heartloop.wave.left"] for call in seen.spans("chat")} == {True}
    assert seen.points("gen_ai.client.operation.duration") == []
    seen.exporter.clear()

    run(left_out())  # again: nothing new, and the wave is still out
    (left,) = seen.spans("heartloop.wave")
    assert (left.attributes["heartloop.wave.resumed"], left.attributes["heartloop.wave.left"]) == (True, True)
    claimed = {call.context.span_id for call in seen.spans("chat")}
    assert {link.context.span_id for link in left.links} == claimed
    assert len(claimed) == 3
    assert {call.attributes["heartloop.wave.left"] for call in seen.spans("chat")} == {True}
    seen.exporter.clear()

    run(gone_on())
    (wave,) = seen.spans("heartloop.wave")
    assert wave.attributes["heartloop.wave.id"] == left.attributes["heartloop.wave.id"]
    assert wave.attributes["heartloop.wave.resumed"] is True
    assert wave.attributes["heartloop.wave.age_s"] > 0
    assert wave.attributes["heartloop.wave.ref"] == "w0"
    assert (wave.attributes["heartloop.wave.size"], wave.attributes["heartloop.wave.answered"]) == (3, 3)
    calls = seen.spans("chat")
    assert len(calls) == 3
    assert {call.attributes["heartloop.wave.resumed"] for call in calls} == {True}
    attempts = {span.context.span_id for span in seen.spans("heartloop.attempt")}
    assert {call.parent.span_id for call in calls} == attempts | {wave.context.span_id}
    (nobodys,) = [call for call in calls if call.parent.span_id == wave.context.span_id]
    assert nobodys.attributes["gen_ai.usage.input_tokens"] == 3
    assert all(
        [link.context.span_id for link in call.links] == [wave.context.span_id]
        for call in calls
        if call is not nobodys
    )
    (tokens, _) = seen.points("gen_ai.client.token.usage")
    assert tokens.count == 3


def test_a_budget_of_seconds_that_passes_leaves_the_call_in_its_wave(seen: Seen) -> None:
    seen.enable()
    backend = MemoryWaves(seconds=None)

    async def main() -> None:
        async with loop(backend, problem_budget=Budget(seconds=0.2)) as held:
            (solution,) = await held.solve_many(problems(1))
            assert solution.stop_reason is StopReason.BUDGET
            assert seen.spans("chat") == []
            backend.waves[0].ended.set()
            while not seen.spans("heartloop.wave"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(main())
    (call,), (wave,) = seen.spans("chat"), seen.spans("heartloop.wave")
    assert call.attributes["gen_ai.usage.output_tokens"] == 2
    assert wave.attributes["heartloop.wave.answered"] == 1


def test_off_waves_are_of_the_plain_class() -> None:
    from heartloop.engine.wave_flight import WaveFlight

    async def main() -> None:
        async with loop(MemoryWaves()) as held:
            await held.solve_many(problems(1))
            assert held._engine is not None
            (waves,) = held._engine.gateway.waves
            assert waves.flight is WaveFlight

    run_virtually(main())
