"""Requests to ``heartloop serve`` as spans, and what they are the parents of."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

pytest.importorskip("prometheus_client", reason="heartloop serve needs the extra [serve]")
pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed (requirements-dev.txt)")

from heartloop import Model, Sampling
from heartloop.backends import ScriptedBackend
from heartloop.engine.engine import Engine
from heartloop.errors import ServerError
from heartloop.serve.app import Server, ServerSettings
from tests.loop.helpers import QUICK, boxed, run
from tests.telemetry.exported import Seen

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASK = {"model": "m", "messages": [{"role": "user", "content": "What is the password of the lighthouse?"}]}


def ask(script: Any, body: Any = ASK, path: str = "/chat/completions", **headers: str) -> int:
    async def main() -> int:
        engine = Engine(
            {"generator": Model(backend=ScriptedBackend(script), sampling=Sampling(max_tokens=64))},
            retry=QUICK,
        )
        server = Server(engine, ServerSettings("m", port=0, drain=0.0))
        url = await server.start()
        try:
            async with aiohttp.ClientSession() as http:
                async with http.get(f"{url.removesuffix('/v1')}/health") as health:
                    assert health.status == 200
                async with http.post(url + path, data=json.dumps(body), headers=headers) as answer:
                    await answer.read()
                    return answer.status
        finally:
            await server.stop()

    return run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_span_is_the_requests_parent_and_that_the_problems(seen: Seen, stream: bool) -> None:
    seen.enable()
    body = {**ASK, "n": 2, "stream": stream}
    assert ask(lambda r: boxed(3), body, traceparent=f"00-{TRACE}-{SPAN}-01") == 200
    (request,) = seen.spans("POST")  # and none for /health
    assert (request.name, request.kind.name) == ("POST /v1/chat/completions", "SERVER")
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == SPAN
    assert request.attributes["http.route"] == "/v1/chat/completions"
    assert request.attributes["http.response.status_code"] == 200
    problems, (whole,) = seen.spans("invoke_workflow"), seen.spans("heartloop.run")
    assert [problem.parent.span_id for problem in problems] == [request.context.span_id] * 2
    assert {problem.links[0].context.span_id for problem in problems} == {whole.context.span_id}
    assert {f"{call.context.trace_id:032x}" for call in seen.spans("chat")} == {TRACE}
    (counted,) = seen.points("heartloop.problems")
    assert counted.value == 2
    assert "heartloop.arm" not in counted.attributes  # "request 1", "request 2" and so on without end
    assert "lighthouse" not in seen.everything()


def test_what_a_request_came_to(seen: Seen) -> None:
    seen.enable()
    assert ask(lambda r: ServerError("busy"), ASK) >= 500
    assert ask(lambda r: boxed(3), {"model": "m"}) == 400
    assert ask(lambda r: boxed(3), ASK, path="/no/such/thing") == 404
    failed, refused, unknown = seen.spans("POST")
    assert (failed.status.status_code.name, failed.attributes["error.type"][0]) == ("ERROR", "5")
    assert (refused.status.status_code.name, refused.attributes["http.response.status_code"]) == (
        "UNSET",
        400,
    )
    assert unknown.attributes["url.path"] == "/v1/no/such/thing"
    assert "http.route" not in unknown.attributes
    assert (unknown.name, unknown.attributes["http.response.status_code"]) == ("POST", 404)


def test_a_client_that_leaves_ends_its_request_with_an_error(seen: Seen) -> None:
    seen.enable()

    async def main() -> None:
        engine = Engine(
            {"generator": Model(backend=ScriptedBackend(lambda r: boxed(3), latency=30.0))}, retry=QUICK
        )
        server = Server(engine, ServerSettings("m", port=0, drain=0.0))
        url = await server.start()
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.3)) as http:
                with pytest.raises(TimeoutError):
                    await http.post(f"{url}/chat/completions", data=json.dumps(ASK))
            while not seen.spans("POST"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        finally:
            await server.stop()

    run(main())
    (request,) = seen.spans("POST")
    assert request.attributes["error.type"] == "CancelledError"
    assert {call.attributes["error.type"] for call in seen.spans("chat")} == {"CancelledError"}
