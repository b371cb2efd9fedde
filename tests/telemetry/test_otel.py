"""Spans and metrics, by the SDK's exporters in memory; and nothing of either while it is off."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from heartloop import HeartLoop, Model, telemetry
from heartloop.backends import OpenAIBackend, ScriptedBackend, VllmBackend
from heartloop.engine.gateway import Gateway
from heartloop.engine.hedge import HedgePolicy
from heartloop.engine.tries import Tries
from heartloop.errors import BadRequest, ServerError, UsageError
from heartloop.types import Budget, Completion, ConfidenceCut, Sampling, Usage
from tests.cli.command import environment, run_process
from tests.confidence.test_traces import piece, serving, sse
from tests.loop.helpers import QUICK, answers_by_round, boxed, loop, run
from tests.support.fault_server import FaultServer
from tests.support.loopback import Handler, listening
from tests.support.virtual_time import run_virtually

needed = "OpenTelemetry's SDK is not installed (requirements-dev.txt)"
sdk = pytest.importorskip("opentelemetry.sdk", reason=needed)

from tests.telemetry.exported import Seen  # noqa: E402

SECRET = "What is the password of the lighthouse?"


def solve(backend: Any, reference: str | None = "3", **settings: Any) -> Any:
    settings.setdefault("judge", "oracle")

    async def main() -> Any:
        async with loop(backend, **settings) as made:
            return await made.solve(SECRET, reference, id="p1")

    return run(main())


def test_a_run_is_a_tree_of_spans(seen: Seen) -> None:
    seen.enable()
    solution = solve(ScriptedBackend(answers_by_round(1, 2, 3), name="fake"), strategy="heart")
    assert solution.correct
    (whole,) = seen.spans("heartloop.run")
    (problem,) = seen.spans("invoke_workflow")
    attempts, calls = seen.spans("heartloop.attempt"), seen.spans("chat")
    assert (problem.name, len(attempts), len(calls)) == ("invoke_workflow heart", 3, 3)
    assert whole.parent is None
    assert problem.parent.span_id == whole.context.span_id
    assert {span.parent.span_id for span in attempts} == {problem.context.span_id}
    assert [c.parent.span_id for c in calls] == [a.context.span_id for a in attempts]
    assert [span.attributes["heartloop.round"] for span in attempts] == [1, 2, 3]
    assert "heartloop.cue.id" not in attempts[0].attributes
    assert attempts[1].attributes["heartloop.cue.emotion"] in ("anger", "sadness", "fear", "disgust")
    assert problem.attributes["heartloop.stop_reason"] == "verified"
    assert problem.attributes["heartloop.correct"] is True
    assert problem.attributes["heartloop.calls"] == 3
    assert [event.attributes["heartloop.correct"] for event in problem.events] == [False, False, True]
    assert {span.status.status_code.name for span in seen.spans()} == {"UNSET"}


def test_a_call_speaks_the_conventions(seen: Seen) -> None:
    seen.enable()
    usage = Usage(100, 20, reasoning_tokens=5, cached_tokens=60)
    backend = ScriptedBackend([Completion(boxed(3), usage=usage, model="fake-2026")], name="fake")
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=77, stop=("END",), seed=4)
    solve(Model(backend=backend, sampling=sampling), strategy="single_pass")
    (call,) = seen.spans("chat")
    assert (call.name, call.kind.name) == ("chat fake", "CLIENT")
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "fake",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 77,
        "gen_ai.request.seed": 4,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.response.model": "fake-2026",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "heartloop.role": "generator",
        "heartloop.try": 1,
        "heartloop.hedge": False,
    }
    assert {name: call.attributes[name] for name in expected} == expected
    points = {p.attributes["gen_ai.token.type"]: p for p in seen.points("gen_ai.client.token.usage")}
    assert {kind: (p.count, p.sum) for kind, p in points.items()} == {"input": (1, 100), "output": (1, 20)}
    assert points["input"].attributes["gen_ai.response.model"] == "fake-2026"
    assert list(points["input"].explicit_bounds)[:4] == [1, 4, 16, 64]
    (duration,) = seen.points("gen_ai.client.operation.duration")
    assert duration.count == 1
    assert "error.type" not in duration.attributes


def test_every_try_is_a_span_and_errors_have_types(seen: Seen) -> None:
    seen.enable()
    backend = ScriptedBackend([ServerError(f"busy: {SECRET}", status=503), boxed(3)], name="fake")
    assert solve(backend, strategy="single_pass").correct
    failed, answered = seen.spans("chat")
    assert (failed.attributes["error.type"], failed.status.status_code.name) == ("ServerError", "ERROR")
    assert failed.attributes["http.response.status_code"] == 503
    assert (failed.attributes["heartloop.try"], answered.attributes["heartloop.try"]) == (1, 2)
    kinds = [p.attributes.get("error.type") for p in seen.points("gen_ai.client.operation.duration")]
    assert sorted(kinds, key=str) == [None, "ServerError"]
    assert SECRET not in seen.everything()


def test_a_problem_that_fails_says_so(seen: Seen) -> None:
    seen.enable()
    with pytest.raises(BadRequest):
        solve(ScriptedBackend([BadRequest(f"no: {SECRET}")]), strategy="single_pass")
    (problem,) = seen.spans("invoke_workflow")
    assert (problem.status.status_code.name, problem.attributes["error.type"]) == ("ERROR", "BadRequest")
    assert SECRET not in seen.everything()


def test_content_only_when_asked_for(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.enable()
    solve(ScriptedBackend([boxed(3)]), strategy="single_pass")
    assert SECRET not in seen.everything()
    assert "boxed" not in seen.everything()
    monkeypatch.setenv(telemetry.CONTENT_ENV, "true")
    seen.enable()
    solve(ScriptedBackend([boxed(3)]), strategy="single_pass")
    attributes = seen.spans("chat")[-1].attributes
    (turn,) = json.loads(attributes["gen_ai.input.messages"])
    assert (turn["role"], SECRET in turn["parts"][0]["content"]) == ("user", True)
    (answer,) = json.loads(attributes["gen_ai.output.messages"])
    assert answer == {
        "role": "assistant",
        "parts": [{"type": "text", "content": boxed(3)}],
        "finish_reason": "stop",
    }


def test_budget_queue_and_problems_are_measured(seen: Seen) -> None:
    seen.enable()
    gauges: dict[str, list[Any]] = {}

    def script(request: Any) -> str:
        for name in ("tokens", "tokens.limit", "calls"):
            gauges[name] = seen.points(f"heartloop.budget.{name}")
        gauges["in_flight"] = seen.points("heartloop.calls.in_flight")
        gauges["waiting"] = seen.points("heartloop.calls.waiting")
        return boxed(3)

    solve(ScriptedBackend(script), strategy="single_pass", budget=Budget(tokens=50_000))
    states = {p.attributes["heartloop.budget.state"]: p.value for p in gauges["tokens"]}
    assert states["confirmed"] == states["assumed"] == 0
    assert states["reserved"] > 2048  # the call in flight, at its worst
    assert [p.value for p in gauges["tokens.limit"]] == [50_000]
    assert [p.value for p in gauges["in_flight"]] == [1]
    assert [(p.value, dict(p.attributes)) for p in gauges["waiting"]] == [
        (0, {"heartloop.lane": "generator"})
    ]
    (problems,) = seen.points("heartloop.problems")
    assert (problems.value, problems.attributes["heartloop.correct"]) == (1, True)
    assert [p.count for p in seen.points("heartloop.queue.duration")] == [1]
    # Closed, and what it came to stays to be seen: a run may be over before anybody looks.
    states = {p.attributes["heartloop.budget.state"]: p.value for p in seen.points("heartloop.budget.tokens")}
    assert states["confirmed"] + states["assumed"] > 0
    assert states["reserved"] == 0


def test_inside_somebodys_span_a_problem_is_its_child(seen: Seen) -> None:
    seen.enable()

    async def main() -> None:
        async with loop(ScriptedBackend(lambda r: boxed(3)), strategy="single_pass") as made:
            await made.solve("one", id="a")
            with seen.tracing.get_tracer("web").start_as_current_span("POST /ask"):
                await made.solve("two", id="b")

    run(main())
    (web,), (whole,) = seen.spans("POST"), seen.spans("heartloop.run")
    first, second = seen.spans("invoke_workflow")
    assert first.parent.span_id == whole.context.span_id
    assert second.parent.span_id == web.context.span_id
    assert second.links[0].context.span_id == whole.context.span_id


def test_branches_side_by_side_keep_their_calls_apart(seen: Seen) -> None:
    seen.enable()
    solve(ScriptedBackend(lambda r: boxed(1), latency=0.001), strategy="resample", width=4, max_rounds=2)
    attempts = {span.context.span_id: span for span in seen.spans("heartloop.attempt")}
    calls = seen.spans("chat")
    assert len(calls) == len(attempts) == 8
    assert {call.parent.span_id for call in calls} == set(attempts)
    assert len({span.attributes["heartloop.branch"] for span in attempts.values()}) == 8


def test_a_hedge_is_a_span_of_its_own_and_so_is_the_end_of_the_loser(seen: Seen) -> None:
    seen.enable()
    tries: dict[str, int] = {}

    def latency(request: Any) -> float:
        question = str(request.messages[0].content) + str(request.messages[-1].content)
        tries[question] = tries.get(question, 0) + 1
        return 30.0 if "zebra" in question and tries[question] == 1 else 0.001

    backend = ScriptedBackend(lambda r: boxed(3), latency=latency)
    model = Model(backend=backend, hedge=HedgePolicy(share=0.5))

    async def main() -> None:
        async with loop(model, strategy="single_pass", active=100) as made:
            await made.solve_many([f"quick {n}" for n in range(60)])
            await made.solve("zebra?")

    run_virtually(main())
    (hedge,) = [span for span in seen.spans("chat") if span.attributes["heartloop.hedge"]]
    (lost,) = [span for span in seen.spans("chat") if "error.type" in span.attributes]
    assert "error.type" not in hedge.attributes
    assert lost.attributes["error.type"] == "Overtaken"
    assert hedge.parent.span_id == lost.parent.span_id


def test_a_hedge_that_loses_is_overtaken_too(seen: Seen) -> None:
    seen.enable()
    tries: dict[str, int] = {}

    def latency(request: Any) -> float:
        question = str(request.messages[0].content) + str(request.messages[-1].content)
        tries[question] = tries.get(question, 0) + 1
        return (2.0, 30.0)[tries[question] - 1] if "zebra" in question else 0.001

    model = Model(backend=ScriptedBackend(lambda r: boxed(3), latency=latency), hedge=HedgePolicy(share=0.5))

    async def main() -> None:
        async with loop(model, strategy="single_pass", active=100) as made:
            await made.solve_many([f"quick {n}" for n in range(60)])
            await made.solve("zebra?")

    run_virtually(main())
    (hedge,) = [span for span in seen.spans("chat") if span.attributes["heartloop.hedge"]]
    assert hedge.attributes["error.type"] == "Overtaken"


def test_an_answer_that_is_streamed_says_when_it_began(seen: Seen) -> None:
    seen.enable()
    with serving(sse(*(piece(f"w{n} ", 3.0, n + 1) for n in range(4)))) as (url, _):
        backend = VllmBackend("m", base_url=url)
        cut = ConfidenceCut(window=2, below=1.5)
        model = Model(backend=backend, sampling=Sampling(max_tokens=50, logprobs=3, cut=cut))
        solve(model, strategy="single_pass")
    (call,) = seen.spans("chat")
    assert call.attributes["gen_ai.request.stream"] is True
    first = call.attributes["gen_ai.response.time_to_first_chunk"]
    (point,) = seen.points("gen_ai.client.operation.time_to_first_chunk")
    assert point.sum == first > 0
    (whole,) = seen.points("gen_ai.client.operation.duration")
    assert first <= whole.sum


def test_a_judges_calls_say_what_they_are(seen: Seen) -> None:
    seen.enable()
    numbers = itertools.count()
    script = ScriptedBackend(lambda r: f"A is better. [[A]] {boxed(next(numbers))}")
    solve(script, None, strategy="resample", judge="pairwise", max_rounds=2)
    (problem,) = seen.spans("invoke_workflow")
    judged = [call for call in seen.spans("chat") if call.attributes["heartloop.role"] == "judge"]
    assert judged
    assert {call.parent.span_id for call in judged} == {problem.context.span_id}


def test_an_error_says_its_class_once(seen: Seen) -> None:
    """The conventions advise against repeating ``error.type`` as the status's description."""
    seen.enable()
    backend = ScriptedBackend([boxed(1), BadRequest("no")])
    solution = solve(backend, strategy="heart", max_rounds=2)
    failed = [span for span in seen.spans() if span.status.status_code.name == "ERROR"]
    assert {span.attributes["error.type"] for span in failed} == {"BadRequest"}
    assert {span.status.description for span in failed} == {None}
    assert solution.stop_reason.value == "failed"
    (problem,) = seen.spans("invoke_workflow")
    assert problem in failed


def test_the_server_is_named(seen: Seen) -> None:
    seen.enable()
    with FaultServer() as server:
        backend = OpenAIBackend("test-model", base_url=server.base_url, api_key="sk-SECRETSECRET99")
        with HeartLoop(backend, strategy="single_pass", retry=QUICK) as made:
            made.solve_sync("What is 1 + 2?")
        (call,) = seen.spans("chat")
        assert call.attributes["server.address"] == "127.0.0.1"
        assert call.attributes["server.port"] == server.port
        assert call.attributes["gen_ai.provider.name"] == "openai"
        for name in ("gen_ai.client.operation.duration", "gen_ai.client.token.usage"):
            for point in seen.points(name):
                assert point.attributes["server.port"] == server.port
    assert "SECRETSECRET" not in seen.everything()


# --- off -------------------------------------------------------------------------------------------------


def test_off_nothing_is_imported() -> None:
    code = (
        "import sys, heartloop\n"
        "loop = heartloop.HeartLoop('scripted/echo', strategy='single_pass')\n"
        "loop.solve_sync('What is 1 + 1?'); loop.close()\n"
        "import heartloop.telemetry\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_off_an_engine_is_as_if_there_were_no_telemetry(seen: Seen) -> None:
    """By construction: the classes that work are the plain ones, and nothing observes."""

    async def parts() -> tuple[Any, Gateway, int]:
        async with loop(ScriptedBackend(lambda r: boxed(3))) as made:
            await made.solve("one")
            engine = made._engine
            assert engine is not None
            return engine.watch, engine.gateway, len(engine.observers)

    seen.enable()
    assert telemetry.enabled()
    on = run(parts())
    assert on[0] is not None
    assert issubclass(on[1].tries, Tries)
    assert on[1].tries is not Tries
    telemetry.disable()
    assert not telemetry.enabled()
    watch, gateway, observers = run(parts())
    assert (watch, gateway.tries, gateway.on_close) == (None, Tries, None)
    assert observers == on[2] - 1


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "heartloop.telemetry.otel", raising=False)
    with pytest.raises(UsageError, match=r"heartloop\[otel\]"):
        telemetry.enable()


# --- the command line ------------------------------------------------------------------------------------


class _Collector(Handler):
    posts: list[tuple[str, bytes, str]]

    def do_POST(self) -> None:
        self.posts.append((self.path, self.content(), self.headers.get("x-team", "")))
        self.answer()


def test_the_command_line_sends_to_where_the_variables_say(tmp_path: Path) -> None:
    posts: list[tuple[str, bytes, str]] = []
    with listening(type("Collector", (_Collector,), {"posts": posts})) as root:
        done = run_process(
            *("solve", "What is 20 + 22?", "--model", "scripted/echo", "--otel", "--strategy", "single_pass"),
            env=environment(
                OTEL_EXPORTER_OTLP_ENDPOINT=root,
                OTEL_EXPORTER_OTLP_HEADERS="x-team=blue",
                OTEL_EXPORTER_OTLP_COMPRESSION="none",
                OTEL_SERVICE_NAME="night-shift",
            ),
        )
    assert done.code == 0, done.err
    bodies = {path: body for path, body, _ in posts}
    assert set(bodies) == {"/v1/traces", "/v1/metrics"}
    assert {team for *_, team in posts} == {"blue"}
    assert b"invoke_workflow single_pass" in bodies["/v1/traces"]
    assert b"night-shift" in bodies["/v1/traces"]
    assert b"gen_ai.client.token.usage" in bodies["/v1/metrics"]
    assert b"20 + 22" not in b"".join(bodies.values())


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER must be otlp, console or none"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
    ],
)
def test_what_it_can_not_send_to_is_bad_usage(variables: dict[str, str], said: str) -> None:
    done = run_process("solve", "Hi", "--model", "scripted/echo", "--otel", env=environment(**variables))
    assert done.code == 2
    assert said in done.err
