"""Makespan with and without hedging, against a server whose answers take lognormally long.

    python -m heartloop_benchmarks.perf.hedging [--server "COMMAND"] [--base-url URL] [--problems 300]

The server (by default the one beside this file: 300 ms in the mean, sigma 1, 512 at once) must draw a call's
time anew when it is repeated, or a hedge would take as long as its first try.
Problems are chains of calls, all in work at once; with hedging and without alternate, each with questions
of its own. Answers are compared as text, so that nothing but calls is measured.
Prints one line for each run and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from dataclasses import dataclass
from statistics import median

from heartloop import HeartLoop, Model, Problem, Sampling, Verdict
from heartloop_benchmarks.perf.engine import own_server, server

__all__ = ["Makespan", "main", "makespan"]


@dataclass(frozen=True, slots=True)
class Makespan:
    """One run: seconds from the first call to the last answer; calls and hedges include the warm-up's."""

    seconds: float
    cpu: float
    calls: int
    assumed_calls: int
    hedges: int


async def makespan(
    base_url: str,
    *,
    hedge: bool,
    problems: int,
    rounds: int,
    concurrency: int,
    salt: int,
    model: str = "fake-model",
) -> Makespan:
    """Solve ``problems`` problems of ``rounds`` calls each; ``salt`` sets their questions apart."""
    asked = Model(
        model,
        base_url=base_url,
        concurrency=concurrency,
        adaptive=False,
        hedge=hedge,
        sampling=Sampling(max_tokens=512),
    )
    loop = HeartLoop(
        asked,
        strategy="resample",
        judge="majority",
        max_rounds=rounds,
        active=problems,
        verify=_unverified,
        equivalent=_same_text,
    )
    async with loop:
        # Imports and connections first: they would count as slow calls.
        await loop.solve_many(_questions(salt + 50_000, problems // 4))
        before, start = _cpu(), time.perf_counter()
        await loop.solve_many(_questions(salt, problems))
        seconds, cpu = time.perf_counter() - start, _cpu() - before
        assert loop._engine is not None
        run, hedger = loop._engine.ledger.run, loop._engine.gateway.lane("generator").hedger
        return Makespan(
            seconds, cpu, run.charged.calls, run.assumed.calls, 0 if hedger is None else hedger.hedges
        )


def _questions(salt: int, count: int) -> list[Problem]:
    return [Problem(f"{salt}-{n}", f"What is {salt + n} + {7 * n} ?") for n in range(count)]


async def _unverified(problem: Problem, answer: str | None) -> Verdict:
    return Verdict(None, "none", "not looked at")


async def _same_text(a: str, b: str, kind: str) -> bool:
    return a == b


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _compare(args: argparse.Namespace, base_url: str) -> float:
    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(args.repeat):
        for hedge in (False, True):
            one = await makespan(
                base_url,
                hedge=hedge,
                problems=args.problems,
                rounds=args.rounds,
                concurrency=args.concurrency,
                salt=100_000 * (2 * number + hedge + 1),
                model=args.model,
            )
            found[hedge].append(one.seconds)
            print(
                f"{'hedged' if hedge else 'plain '}  {one.seconds:6.2f} s  {one.calls} calls, of which "
                f"{one.hedges} hedges; {one.assumed_calls} charged as assumed; "
                f"{1e3 * one.cpu / (args.problems * args.rounds):.2f} ms CPU a call"
            )
    ratio = median(found[True]) / median(found[False])
    print(f"median with hedging / without: {ratio:.2f}")
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base-url", default="", help="a server that runs already")
    parser.add_argument("--server", default="", help="a command that prints READY <port>")
    parser.add_argument("--model", default="fake-model")
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    if given.base_url:
        asyncio.run(_compare(given, given.base_url))
        return
    with server(given.server or own_server(300.0, 512, jitter=1.0)) as url:
        asyncio.run(_compare(given, url))


if __name__ == "__main__":
    main()
