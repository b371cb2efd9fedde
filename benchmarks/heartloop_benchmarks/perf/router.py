"""Routing over two vLLM replicas, one of them preloaded: HeartLoop's against sticky hashing and least-loaded.

    HEARTLOOP_VLLM_URLS=http://HOST:PORT/v1,http://HOST:PORT/v1 \\
        python -m heartloop_benchmarks.perf.router --model NAME [--repeats 5] [--load 4]

The replicas' machines should be alike, and idle. The first replica is preloaded: it alone has had the
first turn of every conversation (as when the second one was started, or restarted, later); with ``--load``
it is also kept busy by that many streams of somebody else's. Then the further turns of all conversations run
at once under each policy, on fresh conversations, the policies taking turns. Reported: medians over the
repeats of the makespan and of the share of prompt tokens that the replicas found in their prefix caches, by
their own counters.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from heartloop.backends import ReplicaSet, VllmBackend
from heartloop.backends.router import Conversation, PrefixRouter, ReplicaState, Router
from heartloop.types import Message, Request, Sampling

__all__ = ["POLICIES", "LeastLoaded", "Sticky"]

_WORDS = ["apple", "river", "stone", "cloud", "seven", "walk", "green", "table", "light", "house", "water"]


class _Forgetful:
    prompt_per_generated = 4.0

    def cached_tokens(self, conversation: Conversation, index: int) -> int:
        return 0

    def remember(self, conversation: Conversation, index: int) -> None: ...

    def forget(self, index: int) -> None: ...

    def set_cache_tokens(self, index: int, tokens: int | None) -> None: ...


class Sticky(_Forgetful):
    """By a hash of the conversation's beginning, up to and including its first question."""

    def __init__(self, beginning: int = 1, seed: int = 0) -> None:
        self._beginning = beginning
        self._seed = seed

    def choose(
        self,
        conversation: Conversation,
        states: Sequence[ReplicaState],
        *,
        work: float = 0.0,
        avoid: int | None = None,
    ) -> int:
        up = [index for index, state in enumerate(states) if state.up and index != avoid]
        first = conversation.hashes[: self._beginning][-1]
        return up[random.Random(f"{self._seed} {first}").randrange(len(up))]


class LeastLoaded(_Forgetful):
    """To the replica with the fewest calls in flight, any of them when there are several."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def choose(
        self,
        conversation: Conversation,
        states: Sequence[ReplicaState],
        *,
        work: float = 0.0,
        avoid: int | None = None,
    ) -> int:
        up = [index for index, state in enumerate(states) if state.up and index != avoid]
        return min(up, key=lambda index: (states[index].in_flight, self._random.random()))


POLICIES: dict[str, Callable[[], Router]] = {
    "heartloop": lambda: PrefixRouter(2),
    "sticky": Sticky,
    "least loaded": LeastLoaded,
}


@dataclass(frozen=True, slots=True)
class _Outcome:
    makespan: float
    hit_share: float
    calls: tuple[int, ...]


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(words))


async def _trial(model: str, urls: Sequence[str], router: Router, seed: int, args: Any) -> _Outcome:
    backends = [VllmBackend(model, base_url=url) for url in urls]
    replicas = ReplicaSet(backends, router=router, seed=seed)
    rng = random.Random(f"{seed} {time.time_ns()}")  # never what an earlier trial left in the caches
    sampling = Sampling(0.0, max_tokens=args.max_tokens, extra={"ignore_eos": True})
    lines = [[Message("user", _text(rng, args.words))] for _ in range(args.conversations)]

    async def first(line: list[Message]) -> None:
        request = Request(model, tuple(line), sampling)
        answer = Message("assistant", (await backends[0].complete(request)).text)
        line.append(answer)
        router.remember(Conversation.of(line), 0)

    async def rest(line: list[Message], asked: Sequence[str]) -> None:
        for text in asked:
            line.append(Message("user", text))
            line.append(
                Message("assistant", (await replicas.complete(Request(model, tuple(line), sampling))).text)
            )

    async def others() -> None:
        while True:
            request = Request(
                model,
                (Message("user", _text(rng, 30)),),
                Sampling(0.0, max_tokens=200, extra={"ignore_eos": True}),
            )
            await backends[0].complete(request)

    strangers: list[asyncio.Task[None]] = []
    try:
        await asyncio.gather(*(first(line) for line in lines))
        strangers = [asyncio.create_task(others()) for _ in range(args.load)]
        if strangers:
            await asyncio.sleep(0.5)
        turns = [[_text(rng, 20) for _ in range(args.turns - 1)] for _ in lines]
        before = await replicas.metrics()
        start = time.perf_counter()
        await asyncio.gather(*(rest(line, asked) for line, asked in zip(lines, turns, strict=True)))
        makespan = time.perf_counter() - start
        after = await replicas.metrics()
    finally:
        for task in strangers:
            task.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)
        calls = tuple(replica.calls for replica in replicas.replicas)
        await replicas.aclose()
    looked_up = after.prefix_queries - before.prefix_queries
    return _Outcome(makespan, (after.prefix_hits - before.prefix_hits) / max(1, looked_up), calls)


async def _main(args: argparse.Namespace, urls: Sequence[str]) -> None:
    outcomes: dict[str, list[_Outcome]] = {name: [] for name in POLICIES}
    names = list(POLICIES)
    for repeat in range(args.repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            outcome = await _trial(args.model, urls, POLICIES[name](), repeat, args)
            outcomes[name].append(outcome)
            print(
                f"{repeat} {name:13} {outcome.makespan:6.2f} s  hits {outcome.hit_share:6.1%}"
                f"  calls {outcome.calls}",
                flush=True,
            )
    print(f"\nmedian of {args.repeats}     makespan   prefix hits")
    for name, each in outcomes.items():
        print(
            f"{name:15} {median(o.makespan for o in each):8.2f} s {median(o.hit_share for o in each):10.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--conversations", type=int, default=12)
    parser.add_argument("--words", type=int, default=450, help="of each conversation's first question")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--load", type=int, default=0, help="streams of others on the first replica")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    urls = [url for url in os.environ.get("HEARTLOOP_VLLM_URLS", "").split(",") if url]
    if len(urls) != 2:
        parser.error("set HEARTLOOP_VLLM_URLS to two URLs with a comma in between")
    asyncio.run(_main(args, urls))


if __name__ == "__main__":
    main()
