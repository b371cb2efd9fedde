"""One client at work, in a process of its own; prints one JSON line with what it cost.

``python -m heartloop_benchmarks.perf.engine_client KIND --base-url URL --calls N --connections C``

Kinds: ``aiohttp`` (plain aiohttp and orjson, the reference), ``openai-create`` (the package's usual call),
``openai`` and ``vllm`` (the bare transport of each backend), ``engine-openai`` and ``engine-vllm`` (a whole
HeartLoop over it: journal, ledger, scheduler, verification, all on). ``engine-openai-otel`` and
``engine-vllm-otel`` are the same with telemetry on and an exporter that takes all and sends nothing;
``...-otlp`` with one that encodes what it would send, too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from heartloop.types import Message, Problem, Request, Sampling

KINDS = ("aiohttp", "openai-create", "openai", "vllm", "engine-openai", "engine-vllm")
WATCHED = ("engine-openai-otel", "engine-openai-otlp", "engine-vllm-otel", "engine-vllm-otlp")
MODEL = "load"


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _question(number: int) -> str:
    return f"Think step by step; give the answer as \\boxed{{answer}}. What is {number} + {number * 7}?"


async def _many(call: Callable[[int], Awaitable[Any]], calls: int, workers: int) -> None:
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await call(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())


async def _measured(work: Callable[[int], Awaitable[None]], calls: int) -> dict[str, float]:
    await work(min(200, calls))  # connections are made and code is warm before the clock starts
    cpu, start = _cpu(), time.perf_counter()
    await work(calls)
    wall = time.perf_counter() - start
    return {
        "cpu_ms_per_call": 1e3 * (_cpu() - cpu) / calls,
        "wall_seconds": wall,
        "calls_per_second": calls / wall,
    }


async def _aiohttp(base_url: str, calls: int, connections: int) -> dict[str, float]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:

        async def call(number: int) -> None:
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": _question(number)}],
                "max_tokens": 512,
            }
            headers = {"content-type": "application/json"}
            url = f"{base_url}/chat/completions"
            async with session.post(url, data=orjson.dumps(body), headers=headers) as answer:
                orjson.loads(await answer.read())["choices"][0]["message"]["content"]

        return await _measured(lambda n: _many(call, n, connections), calls)


async def _openai_create(base_url: str, calls: int, connections: int) -> dict[str, float]:
    import openai

    client = openai.AsyncOpenAI(
        base_url=base_url,
        api_key="none",
        max_retries=0,
        http_client=openai.DefaultAioHttpClient(),
    )

    async def call(number: int) -> None:
        await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": _question(number)}], max_tokens=512
        )

    try:
        return await _measured(lambda n: _many(call, n, connections), calls)
    finally:
        await client.close()


async def _transport(kind: str, base_url: str, calls: int, connections: int) -> dict[str, float]:
    backend = _backend(kind, base_url)

    async def call(number: int) -> None:
        await backend.complete(
            Request(MODEL, (Message("user", _question(number)),), Sampling(max_tokens=512))
        )

    try:
        return await _measured(lambda n: _many(call, n, connections), calls)
    finally:
        await backend.aclose()


def _backend(kind: str, base_url: str) -> Any:
    from heartloop.backends import make_backend

    return make_backend(f"vllm/{MODEL}" if kind == "vllm" else MODEL, base_url=base_url)


def _watch(encode: bool) -> None:
    """Telemetry on, as ``--otel`` sets it up but for the sending."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    from heartloop import telemetry

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            if encode:
                encode_spans(spans).SerializePartialToString()
            return SpanExportResult.SUCCESS

    tracing = TracerProvider()
    tracing.add_span_processor(BatchSpanProcessor(Nowhere()))
    measuring = MeterProvider(metric_readers=[InMemoryMetricReader()])
    telemetry.enable(tracer_provider=tracing, meter_provider=measuring)


async def _late(lags: list[float]) -> None:
    """Note, every 5 ms, how many ms later than asked for the event loop came round."""
    while True:
        asked = time.perf_counter() + 0.005
        await asyncio.sleep(0.005)
        lags.append(1e3 * (time.perf_counter() - asked))


async def _engine(
    kind: str, base_url: str, calls: int, connections: int, active: int, journal: bool, lag: bool
) -> dict[str, float]:
    from heartloop import HeartLoop, Model

    with tempfile.TemporaryDirectory() as folder:
        loop = HeartLoop(
            Model(
                MODEL,
                backend=_backend(kind, base_url),
                concurrency=connections,
                sampling=Sampling(max_tokens=512),
            ),
            strategy="chain_of_thought",
            judge="oracle",
            journal=Path(folder) / "journal.sqlite" if journal else None,
            active=active,
        )
        made = 0

        async def work(count: int) -> None:
            nonlocal made
            problems = (Problem(str(n), _question(n), str(8 * n)) for n in range(made, made + count))
            made += count
            async for solution in loop.stream(problems):
                assert solution.verdict is not None

        lags: list[float] = []
        try:
            await work(min(200, calls))
            watching = asyncio.create_task(_late(lags)) if lag else None
            figures = await _measured(work, calls)
            if watching is not None:
                watching.cancel()
                figures["lag_p999_ms"] = sorted(lags)[min(len(lags) - 1, int(0.999 * len(lags)))]
            return figures
        finally:
            await loop.aclose()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS + WATCHED)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--active", type=int, default=0, help="problems in flight; default: twice the connections"
    )
    parser.add_argument("--no-journal", action="store_true", help="an engine without its journal")
    parser.add_argument("--lag", action="store_true", help="how late the event loop comes round, too")
    given = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "none")
    url, calls, connections = given.base_url, given.calls, given.connections
    if given.kind == "aiohttp":
        work = _aiohttp(url, calls, connections)
    elif given.kind == "openai-create":
        work = _openai_create(url, calls, connections)
    elif given.kind.startswith("engine-"):
        kind = given.kind.removeprefix("engine-")
        if given.kind in WATCHED:
            kind, _, how = kind.partition("-")
            _watch(how == "otlp")
        active = given.active or 2 * connections
        work = _engine(kind, url, calls, connections, active, not given.no_journal, given.lag)
    else:
        work = _transport(given.kind, url, calls, connections)
    print(orjson.dumps({"kind": given.kind, **asyncio.run(work)}).decode())


if __name__ == "__main__":
    main()
