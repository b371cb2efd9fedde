"""What ``--otel`` sends, as a collector gets it; and what becomes of a run whose collector is not there."""

from __future__ import annotations

import logging
import signal
import socket
from pathlib import Path

import pytest

from heartloop.backends import ScriptedBackend
from heartloop.telemetry import sdk
from tests.cli.command import ServerProcess, environment, finish, process, sums, wait_for
from tests.loop.helpers import boxed, loop, run

pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry is not installed (requirements-dev.txt)"
)

from tests.telemetry.collector import attributes, collecting


def test_ctrl_c_sends_all_there_is(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 12)
    with (
        collecting() as (root, collected),
        ServerProcess(tmp_path / "log.jsonl", "--rate", "hang=1") as server,
    ):
        started = process(
            *("run", "--data", data, "--model", "vllm/m", "--base-url", server.base_url, "--otel", "--json"),
            *("--concurrency", "3", "--out", tmp_path / "run"),
            env=environment(OTEL_EXPORTER_OTLP_ENDPOINT=root),
        )
        wait_for(lambda: server.arrived() >= 3, started)
        started.send_signal(signal.SIGINT)
        wait_for(lambda: server.arrived() >= 3, started)
        started.send_signal(signal.SIGTERM)
        done = finish(started)
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    assert collected.orphans() == []
    (whole,) = collected.named("heartloop.run")
    assert whole.end_time_unix_nano > whole.start_time_unix_nano
    calls = collected.named("chat")
    assert len(calls) == done.json["calls"] == 3
    assert {attributes(call)["error.type"] for call in calls} == {"CancelledError"}
    assert {attributes(call)["server.port"] for call in calls} == {int(server.base_url.split(":")[2][:-3])}
    assert {span.status.code for span in collected.named("invoke_workflow")} == {2}
    assert collected.schemas == {"https://opentelemetry.io/schemas/1.41.0"}
    metrics = {metric.name: metric for metric in collected.metrics}
    duration = metrics["gen_ai.client.operation.duration"]
    (point,) = duration.histogram.data_points
    assert (duration.unit, point.count) == ("s", 3)
    assert list(point.explicit_bounds) == pytest.approx([0.01 * 2**power for power in range(14)])
    assert attributes(point)["server.address"] == "127.0.0.1"
    # The engine has closed by now, and what the run came to is said all the same.
    spent = metrics["heartloop.budget.calls"].gauge.data_points
    assert {attributes(p)["heartloop.budget.state"]: p.as_int for p in spent}["assumed"] == 3


def test_a_collector_that_takes_nothing_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sdk, "SILENT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")

        async def main() -> None:
            async with loop(ScriptedBackend(lambda r: boxed(3)), strategy="single_pass") as held:
                await held.solve("one")

        with caplog.at_level(logging.WARNING), sdk.from_environment():
            run(main())
    assert "what was not sent yet is dropped" in caplog.text


def test_an_exporter_that_fails_says_so_once() -> None:
    seldom = sdk._Seldom()
    said = [
        seldom.filter(logging.LogRecord("otel", logging.WARNING, "", 0, message, (n,), None))
        for n in range(3)
        for message in ("can't send %d", "gave up %d")
    ]
    assert said == [True, True, False, False, False, False]
