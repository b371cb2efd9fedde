"""What the engine costs: CPU per call and throughput, as ratios to plain aiohttp in the same run.

``python -m heartloop_benchmarks.perf.engine [--calls 5000] [--repeats 3] [--server "COMMAND"]``

Each client runs in a process of its own against one server, in turn, ``--repeats`` times. CPU figures are the
least of these (what else runs on shared cores only adds to them), rates are medians. What the engine adds is
a difference of two such figures over a third, and shared cores change their pace from one minute to the next:
it is taken within each turn, where the three stand seconds apart, and its median and quartiles over the turns
are given. Telemetry's kinds (``--kinds engine-vllm,engine-vllm-otel,engine-vllm-otlp``) are compared likewise
with the same engine without it. The server is the small one beside this file, or any command that prints
``READY <port>``.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, quantiles

import orjson

from heartloop_benchmarks.perf.engine_client import KINDS, WATCHED

Figures = dict[str, list[dict[str, float]]]


@contextmanager
def server(command: str) -> Iterator[str]:
    """Run a server; gives its base URL."""
    with subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            ready = process.stdout.readline().split()
            if ready[:1] != ["READY"]:
                raise SystemExit(f"the server did not start: {command}")
            yield f"http://127.0.0.1:{ready[1]}/v1"
        finally:
            process.terminate()


def own_server(latency_ms: float, slots: int, jitter: float = 0.0) -> str:
    """The command of the server beside this file."""
    command = (
        f"{sys.executable} -m heartloop_benchmarks.perf.server --latency-ms {latency_ms} --slots {slots}"
    )
    return f"{command} --jitter {jitter}"


def measure(kind: str, base_url: str, calls: int, connections: int, active: int) -> dict[str, float]:
    """One client, one run."""
    command = [sys.executable, "-m", "heartloop_benchmarks.perf.engine_client", kind, "--base-url", base_url]
    command += ["--calls", str(calls), "--connections", str(connections), "--active", str(active)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    figures: dict[str, float] = orjson.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--active", type=int, default=0, help="problems in flight; default: twice the connections"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--slots", type=int, default=64, help="calls that the server runs at once")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--server", default="", help="a command that prints READY <port>")
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    figures: Figures = {kind: [] for kind in kinds}
    with server(given.server or own_server(given.latency_ms, given.slots)) as url:
        for _ in range(given.repeats):
            for kind in kinds:
                figures[kind].append(measure(kind, url, given.calls, given.connections, given.active))
    _print(figures, given.connections)


def _print(figures: Figures, connections: int) -> None:
    def cpu_of(kind: str) -> float:
        return min(run["cpu_ms_per_call"] for run in figures[kind])

    def rate_of(kind: str) -> float:
        return median(run["calls_per_second"] for run in figures[kind])

    reference = "aiohttp" if "aiohttp" in figures else next(iter(figures))
    print(
        f"{connections} connections; CPU per call in ms, and as a multiple of {reference}'s in the same run"
    )
    print(f"{'client':16}{'CPU ms':>9}{'times':>8}{'calls/s':>10}{'of reference':>14}")
    for kind in figures:
        cpu, rate = cpu_of(kind), rate_of(kind)
        times, share = cpu / cpu_of(reference), rate / rate_of(reference)
        print(f"{kind:16}{cpu:9.3f}{times:8.2f}{rate:10.0f}{share:14.3f}")
    for backend in ("openai", "vllm"):
        if {backend, f"engine-{backend}"} <= set(figures):
            added = _added(figures[f"engine-{backend}"], figures[backend], figures[reference])
            least = (cpu_of(f"engine-{backend}") - cpu_of(backend)) / cpu_of(reference)
            low, middle, high = quantiles(added, n=4, method="inclusive") if len(added) > 1 else added * 3
            print(
                f"the engine adds {middle:.2f} times {reference} to bare {backend}: median of {len(added)} "
                f"turns, quartiles {low:.2f} and {high:.2f}; {least:.2f} by the least of each"
            )
    for kind in figures:
        plain = kind.rpartition("-")[0]
        if kind in WATCHED and plain in figures:
            pairs = zip(figures[kind], figures[plain], strict=True)
            ratios = [a["cpu_ms_per_call"] / b["cpu_ms_per_call"] for a, b in pairs]
            low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
            print(
                f"{kind} costs {middle:.2f} times {plain}: median of {len(ratios)} turns, quartiles "
                f"{low:.2f} and {high:.2f}; {cpu_of(kind) / cpu_of(plain):.2f} by the least of each"
            )


def _added(
    engine: list[dict[str, float]], bare: list[dict[str, float]], reference: list[dict[str, float]]
) -> list[float]:
    """For each turn, CPU of the engine above its bare transport, as a multiple of the reference's."""
    name = "cpu_ms_per_call"
    return [
        (whole[name] - part[name]) / plain[name]
        for whole, part, plain in zip(engine, bare, reference, strict=True)
    ]


if __name__ == "__main__":
    main()
