"""The routing policy: as pure functions, and in a simulation against the policies it should beat."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.backends import ReplicaSet
from heartloop.backends.router import Conversation, PrefixRouter, ReplicaState, Router
from heartloop.types import Message, Request, Sampling
from heartloop_benchmarks.perf.router import LeastLoaded, Sticky
from tests.support.simulated_vllm import SimulatedVllm
from tests.support.virtual_time import run_virtually


def talk(*texts: str) -> Conversation:
    return Conversation.of([Message("user" if n % 2 == 0 else "assistant", t) for n, t in enumerate(texts)])


LONG = "word " * 800  # about 1000 tokens by the four-letters rule


# --- conversations ---------------------------------------------------------------------------------------


def test_a_conversation_begins_as_its_earlier_turns() -> None:
    first, second = talk(LONG, "yes"), talk(LONG, "yes", "sure?")
    assert second.hashes[:2] == first.hashes
    assert second.tokens[:2] == first.tokens
    assert first.extended([Message("user", "sure?")]) == second


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5), st.lists(st.text(max_size=5), min_size=1))
def test_other_conversations_hash_otherwise(one: list[str], other: list[str]) -> None:
    assert (talk(*one).hashes == talk(*other).hashes) == (one == other)


def test_who_speaks_and_where_a_message_ends_matter() -> None:
    def of(*messages: Message) -> int:
        return Conversation.of(messages).hashes[-1]

    user, assistant = Message("user", "ab"), Message("assistant", "ab")
    assert len({of(user), of(assistant), of(Message("user", "a"), Message("user", "b"))}) == 3
    image = Message("user", ({"type": "image_url", "image_url": {"url": "x"}},))
    assert of(image) != of(Message("user", ({"type": "image_url", "image_url": {"url": "y"}},)))
    assert Conversation.of([image]).prompt_tokens > 500


# --- choosing --------------------------------------------------------------------------------------------


def states(*queues: float, down: tuple[int, ...] = ()) -> list[ReplicaState]:
    return [ReplicaState(up=i not in down, queue=queue) for i, queue in enumerate(queues)]


def test_a_known_prefix_is_followed_until_its_queue_costs_more() -> None:
    router = PrefixRouter(2, prompt_per_generated=4.0)
    router.remember(talk(LONG, "yes"), 1)
    known = talk(LONG, "yes", "sure?")
    saved = router.cached_tokens(known, 1) / 4.0
    assert 200 < saved < 300
    assert router.cached_tokens(known, 0) == 0
    for _ in range(20):
        assert router.choose(known, states(0, saved - 1)) == 1
        assert router.choose(known, states(0, saved + 1)) == 0
        assert router.choose(known, states(50, saved + 49)) == 1
        assert router.choose(known, states(0, saved + 99), work=100) == 1
        assert router.choose(known, states(0, saved + 101), work=100) == 0


def test_the_longer_of_two_prefixes_wins_by_what_it_saves_more() -> None:
    router = PrefixRouter(2, prompt_per_generated=4.0)
    router.remember(talk(LONG), 0)
    router.remember(talk(LONG, LONG), 1)
    line = talk(LONG, LONG, "go on")
    more = (router.cached_tokens(line, 1) - router.cached_tokens(line, 0)) / 4.0
    assert router.choose(line, states(0, more - 1)) == 1
    assert router.choose(line, states(0, more + 1)) == 0


def test_what_all_have_decides_nothing() -> None:
    router = PrefixRouter(2)
    for index in (0, 1):
        router.remember(talk(LONG), index)
    assert router.choose(talk(LONG, "a"), states(5, 4)) == 1
    assert router.choose(talk(LONG, "a"), states(4, 5)) == 0


def test_without_a_prefix_the_shorter_queue_of_two_random_ones() -> None:
    router = PrefixRouter(5, seed=3)
    chosen = Counter(router.choose(talk(str(n)), states(0, 1, 2, 3, 4)) for n in range(4000))
    # The shortest wins the 4 of the 10 pairs that it is in, the next 3 of them, and so on.
    for index, share in enumerate((0.4, 0.3, 0.2, 0.1, 0.0)):
        assert chosen[index] / 4000 == pytest.approx(share, abs=0.03)


def test_equal_queues_are_shared_out() -> None:
    router = PrefixRouter(2, seed=1)
    chosen = Counter(router.choose(talk(str(n)), states(0, 0)) for n in range(1000))
    assert 400 < chosen[0] < 600


def test_one_that_is_down_or_to_be_avoided_is_not_taken() -> None:
    router = PrefixRouter(3)
    router.remember(talk(LONG), 0)
    line = talk(LONG, "x")
    assert all(router.choose(line, states(0, 9, 9, down=(0,))) in (1, 2) for _ in range(30))
    assert all(router.choose(line, states(0, 9, 9), avoid=0) in (1, 2) for _ in range(30))
    assert router.choose(line, states(0, 9, 9, down=(1, 2)), avoid=0) == 0  # it is all there is
    with pytest.raises(ValueError, match="no replica"):
        router.choose(line, states(0, 0, 0, down=(0, 1, 2)))


def test_a_restarted_replica_is_forgotten() -> None:
    router = PrefixRouter(2)
    router.remember(talk(LONG), 0)
    router.remember(talk(LONG), 1)
    router.forget(0)
    assert router.cached_tokens(talk(LONG, "x"), 0) == 0
    assert router.cached_tokens(talk(LONG, "x"), 1) > 0


@given(st.integers(1, 40), st.integers(1, 2000), st.integers(1, 60), st.randoms())
def test_memory_is_bounded_by_entries_and_by_tokens(
    entries: int, capacity: int, lines: int, rng: random.Random
) -> None:
    router = PrefixRouter(1, entries=entries, cache_tokens=capacity)
    spoken = [
        talk(*(f"{n}/{t} " * rng.randrange(1, 30) for t in range(rng.randrange(1, 5)))) for n in range(lines)
    ]
    for line in spoken:
        router.remember(line, 0)
    kept = {h: t for line in spoken for h, t in zip(line.hashes, line.tokens, strict=True)}
    known = {h: t for h, t in kept.items() if h in router._caches[0]._known}
    assert len(known) <= entries
    assert sum(known.values()) <= capacity


def test_the_least_recently_used_goes_first_and_shared_beginnings_last() -> None:
    router = PrefixRouter(1, entries=4)
    router.remember(talk("shared", "a"), 0)
    router.remember(talk("shared", "b"), 0)
    router.remember(talk("other"), 0)
    router.remember(talk("another"), 0)
    assert router.cached_tokens(talk("shared", "a"), 0) == router.cached_tokens(talk("shared"), 0) > 0
    assert router.cached_tokens(talk("shared", "b"), 0) > router.cached_tokens(talk("shared"), 0)
    router.set_cache_tokens(0, 1)
    router.remember(talk("new"), 0)
    assert router.cached_tokens(talk("shared"), 0) == 0


def test_the_same_seed_makes_the_same_choices() -> None:
    def choices(seed: int) -> list[int]:
        router = PrefixRouter(4, seed=seed)
        return [router.choose(talk(str(n)), states(0, 0, 0, 0)) for n in range(50)]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)


def test_choosing_is_cheap() -> None:
    # CPU time of a call with six rounds behind it, in a process of its own.
    code = (
        "import time\n"
        "from heartloop.backends.router import *\n"
        "from heartloop.types import Message\n"
        "lines = [[Message('user', f'{n} ' * 200)] * 13 for n in range(500)]\n"
        "router, states = PrefixRouter(4), [ReplicaState() for _ in range(4)]\n"
        "start = time.process_time()\n"
        "for line in lines:\n"
        "    talk = Conversation.of(line); router.remember(talk, router.choose(talk, states))\n"
        "print((time.process_time() - start) / len(lines))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert float(done.stdout) < 0.0005


# --- simulated -------------------------------------------------------------------------------------------

POLICIES: dict[str, Callable[[int], Router]] = {
    "heartloop": lambda seed: PrefixRouter(2, seed=seed),
    "sticky": lambda seed: Sticky(seed=seed),
    "least loaded": LeastLoaded,
}


async def simulate(
    router: Router, seed: int, *, preloaded: bool, words: int = 1200, fresh: int = 0, others: int = 0
) -> tuple[float, float]:
    """Makespan in seconds, and the share of prompt tokens that came from the prefix caches.

    24 conversations of four turns at once over two replicas, then ``fresh`` more. ``preloaded``: the first
    replica alone has had the first turn of the 24. ``others``: calls of somebody else's that it always has.
    """
    loop = asyncio.get_running_loop()
    rng = random.Random(f"simulation {seed}")
    servers = [SimulatedVllm(), SimulatedVllm()]
    replicas = ReplicaSet(servers, router=router, clock=loop.time, seed=seed)

    def text(length: int) -> str:
        return " ".join(rng.choice(("apple", "river", "stone", "cloud")) for _ in range(length))

    async def turns(line: list[Message], asked: list[str]) -> None:
        for question in asked:
            line.append(Message("user", question))
            completion = await replicas.complete(Request("sim", tuple(line), Sampling(max_tokens=40)))
            line.append(Message("assistant", completion.text))
            await asyncio.sleep(rng.random() * 0.05)

    async def stranger() -> None:
        while True:
            await servers[0].complete(Request("sim", (Message("user", text(200)),), Sampling(max_tokens=150)))

    lines: list[tuple[list[Message], list[str]]] = [
        ([], [text(words), *(text(30) for _ in range(3))]) for _ in range(24 + fresh)
    ]
    if preloaded:
        for line, asked in lines[:24]:
            line.append(Message("user", asked.pop(0)))
            completion = await servers[0].complete(Request("sim", tuple(line), Sampling(max_tokens=40)))
            line.append(Message("assistant", completion.text))
            router.remember(Conversation.of(line), 0)
    strangers = [asyncio.create_task(stranger()) for _ in range(others)]
    await asyncio.sleep(0.01)
    await replicas.prepare()
    before = [(server.hits, server.queries) for server in servers]
    start = loop.time()
    waiting = iter(lines)

    async def worker() -> None:
        for line, asked in waiting:
            await turns(line, asked)

    await asyncio.gather(*(worker() for _ in range(24)))
    makespan = loop.time() - start
    for task in strangers:
        task.cancel()
    await asyncio.gather(*strangers, return_exceptions=True)
    await replicas.aclose()
    hits = sum(server.hits - hits for server, (hits, _) in zip(servers, before, strict=True))
    queries = sum(server.queries - asked for server, (_, asked) in zip(servers, before, strict=True))
    return makespan, hits / queries


def compared(**scenario: object) -> dict[str, tuple[float, float]]:
    """Means over three seeds."""
    means = {}
    for name, make in POLICIES.items():
        each = [run_virtually(simulate(make(seed), seed, **scenario)) for seed in range(3)]  # type: ignore[arg-type]
        means[name] = (sum(m for m, _ in each) / 3, sum(h for _, h in each) / 3)
    return means


@pytest.mark.parametrize("fresh", [0, 24])
def test_one_replica_preloaded_hits_and_makespan_beat_both_others(fresh: int) -> None:
    means = compared(preloaded=True, fresh=fresh)
    makespan, hits = means["heartloop"]
    for other in ("sticky", "least loaded"):
        assert makespan < 0.95 * means[other][0], means
        assert hits > means[other][1] + 0.01, means


def test_one_replica_busy_with_others_work_is_seen_in_its_gauges() -> None:
    means = compared(preloaded=False, words=300, others=24)
    for other in ("sticky", "least loaded"):
        assert means["heartloop"][0] < 0.75 * means[other][0], means


def test_even_replicas_nothing_known_costs_nothing_against_least_loaded() -> None:
    means = compared(preloaded=False, words=150, fresh=48)
    assert means["heartloop"][0] < 1.05 * means["least loaded"][0], means
