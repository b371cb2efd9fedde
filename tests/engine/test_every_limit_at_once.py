"""Every limit at once, over random failures, retries, hedges, judges, cancellations and limits set live: the
server's books, the ledger's and the journal's agree, nothing is overrun, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop import Budget, Completion, Model, Price, Problem, Request, RetryPolicy, Sampling, Usage
from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.engine import Engine
from heartloop.engine.hedge import HedgePolicy
from heartloop.engine.ledger import Account, Ledger
from heartloop.engine.scheduler import SCHEDULERS, scheduler_from_name
from heartloop.engine.solving import Arm
from heartloop.errors import (
    BadRequest,
    BadResponse,
    ConnectionFailed,
    ConnectionLost,
    RateLimited,
    ServerError,
)
from heartloop.journal.base import NullJournal
from heartloop.journal.records import Record, Reserve, Settle
from heartloop.judges import judge_from_name
from heartloop.responders.chat import ChatResponder
from heartloop.strategies import strategy_from_name
from heartloop.strategies.prompts import Prompts
from heartloop.types import Message
from tests.support.virtual_time import run_virtually

PRICE = Price(3.0, 15.0, cached_prompt=0.3, reasoning=20.0)
MOST = 40
STRATEGIES = ("resample", "heart", "self_consistency", "self_refine", "best_of_n", "rsa")
JUDGES = ("majority", "pairwise", "synthesis", "oracle")


class Books(NullJournal):
    """Reservations and settlements."""

    def __init__(self) -> None:
        self.reserved: dict[int, Reserve] = {}
        self.settled: dict[int, Settle] = {}

    async def write(self, *records: Record) -> None:
        self.post(*records)
        await asyncio.sleep(0)

    def post(self, *records: Record) -> None:
        for record in records:
            if isinstance(record, Reserve):
                assert record.id not in self.reserved
                self.reserved[record.id] = record
            elif isinstance(record, Settle):
                assert record.id in self.reserved.keys() - self.settled.keys()
                self.settled[record.id] = record


class Server(ScriptedBackend):
    """Fails at random, and keeps books of its own: calls that reached it, tokens and dollars it took."""

    def __init__(self, rng: random.Random, failures: float, name: str) -> None:
        super().__init__(self._script, name=name, latency=self._seconds, keep_requests=False)
        self.rng, self.failures = rng, failures
        self.calls = self.tokens = self.unseen = 0
        self.usd = 0.0
        self.on_call: Any = None

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return 30 + sum(len(str(message.content)) for message in messages) // 10

    def _seconds(self, request: Request) -> float:
        return self.rng.random() * self.rng.choice([1, 1, 1, 20])

    def _script(self, request: Request) -> Awaitable[Completion]:
        self.on_call()
        self.calls += 1
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        bound = self.prompt_tokens_bound(request.messages)
        rng, usage = self.rng, self._usage(bound)
        if rng.random() < self.failures:
            kinds = [ServerError, RateLimited, ConnectionFailed, ConnectionLost, BadResponse, BadRequest]
            kind = rng.choice(kinds)
            self.calls -= kind is ConnectionFailed
            self.unseen += usage.total_tokens if kind in (ConnectionLost, BadResponse) else 0
            answer.set_exception(kind("drawn"))
            answer.exception()  # nobody may ask for it, if the call is cancelled
        else:
            self.tokens += usage.total_tokens
            self.usd += PRICE.of(
                *(getattr(usage, f"{k}_tokens") for k in ("prompt", "completion", "cached", "reasoning"))
            )
            text = rng.choice(["\\boxed{1}", "\\boxed{2}", "[[2]]", "yes"])
            answer.set_result(Completion(text, usage=usage))
        return answer

    def _usage(self, bound: int) -> Usage:
        prompt, completion = self.rng.randint(1, bound), self.rng.randint(0, MOST)
        return Usage(prompt, completion, self.rng.randint(0, completion), self.rng.randint(0, prompt))


async def same(a: str, b: str, kind: str) -> bool:
    return a == b


def drawn(rng: random.Random, scale: int) -> Budget:
    if rng.random() < 0.4:
        return Budget()
    return Budget(
        tokens=rng.choice([None, rng.randint(1, scale * 100)]),
        calls=rng.choice([None, rng.randint(1, scale)]),
        seconds=rng.choice([None, None, None, scale * (0.1 + rng.random())]),
        usd=rng.choice([None, 1e-6 + rng.random() * scale * 1e-3]),
    )


def overrun(account: Account) -> bool:
    """Whether what is charged and reserved is more than any of its limits."""
    budget, held = account.budget, account.charged + account.open
    return (
        (budget.tokens is not None and held.tokens > budget.tokens)
        or (budget.calls is not None and held.calls > budget.calls)
        or (budget.usd is not None and (held.usd or 0.0) > budget.usd + 1e-7)
    )


async def scene(rng: random.Random) -> None:
    clock = asyncio.get_running_loop().time
    failures, books = rng.choice([0.0, 0.1, 0.4]), Books()
    servers = {"generator": Server(rng, failures, "m"), "judge": Server(rng, failures, "j")}
    limit = drawn(rng, rng.choice([30, 300]))
    engine = Engine(
        {
            role: Model(
                backend=server,
                concurrency=rng.choice([1, 4, 16]),
                sampling=Sampling(max_tokens=MOST),
                price=PRICE,
                budget=drawn(rng, 60),
                hedge=rng.random() < 0.5 and HedgePolicy(quantile=0.7, share=0.9, samples=2),
            )
            for role, server in servers.items()
        },
        journal=books,
        arm_budget=drawn(rng, 60),
        problem_budget=drawn(rng, 8),
        share_first=rng.random() < 0.5,
        scheduler=scheduler_from_name(rng.choice(sorted(SCHEDULERS))),
        retry=RetryPolicy(attempts=3, first_wait=0.1, max_wait=1.0),
        equivalent=same,
        ledger=Ledger(limit, clock=clock),
    )
    lanes = engine.gateway.lanes.values()
    changed = False
    overruns: list[Account] = []  # told at the end: an error raised in a call is one problem's failure

    def accounts() -> list[Account]:
        return [engine.ledger.run, *engine.arm_accounts.values(), *(lane.account for lane in lanes)]

    def on_call() -> None:
        # A limit that was lowered may lie below what is reserved.
        overruns.extend(account for account in accounts()[changed:] if overrun(account))

    for server in servers.values():
        server.on_call = on_call
    for lane in lanes:
        lane.account.clock, lane.account.opened = clock, 0.0
    arms = [
        Arm(
            name,
            strategy_from_name(rng.choice(STRATEGIES), max_rounds=rng.choice([1, 3])),
            judge_from_name(rng.choice(JUDGES)),
            ChatResponder(),
            Prompts.default(),
            models={"judge": "judge"},
        )
        for name in "ab"
    ]
    work = [
        asyncio.ensure_future(engine.solve(Problem(f"p{n}", f"What is {'x' * (n * 37 % 200)}?", "1"), arm))
        for n in range(rng.choice([1, 10]))
        for arm in arms
    ]
    for _ in range(rng.choice([0, 0, 3])):
        await asyncio.sleep(10 * rng.random())
        if rng.random() < 0.5:
            rng.choice(work).cancel()
        else:
            changed = True
            engine.set_budget(drawn(rng, rng.choice([30, 300])))
    ended = await asyncio.gather(*work, return_exceptions=True)
    assert not [end for end in ended if isinstance(end, Exception)]
    assert not overruns
    await asyncio.gather(
        *(task for lane in lanes if lane.hedger for task in lane.hedger.tasks), return_exceptions=True
    )

    for account in accounts():
        assert (account.open.tokens, account.open.calls, account.claims) == (0, 0, 0)
    assert [(lane.limiter.running, lane.waiting) for lane in lanes] == [(0, 0), (0, 0)]
    assert engine.gateway.in_flight == 0
    assert not engine.gateway.claims
    assert books.reserved.keys() == books.settled.keys()
    run, settled = engine.ledger.run, books.settled.values()
    assert run.charged.tokens == sum(each.tokens for each in settled)
    assert run.charged.calls == sum(each.calls for each in settled)
    assert abs((run.charged.usd or 0.0) - sum(each.usd or 0.0 for each in settled)) < 1e-9
    # By the server's books: no call is missing, and its tokens lie between confirmed and confirmed + assumed.
    assert sum(server.calls for server in servers.values()) <= run.charged.calls
    tokens = sum(server.tokens for server in servers.values())
    assert run.confirmed.tokens <= tokens
    assert tokens + sum(server.unseen for server in servers.values()) <= run.charged.tokens
    assert (run.confirmed.usd or 0.0) <= sum(server.usd for server in servers.values()) + 1e-9


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 30))
def test_books_agree_and_no_limit_is_overrun(seed: int) -> None:
    run_virtually(scene(random.Random(seed)))
