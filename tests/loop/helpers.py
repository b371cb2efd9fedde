"""What the tests of loops share: a verifier that compares text, scripted answers, a loop around them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from heartloop import HeartLoop, RetryPolicy
from heartloop.backends.scripted import ScriptedBackend
from heartloop.journal.export import canonical
from heartloop.types import Message, Problem, Request, Solution, StopReason, Verdict, text_of

T = TypeVar("T")

NO_ANSWER = "Let me think about this problem for a good while longer"
QUICK = RetryPolicy(attempts=3, first_wait=0.001, max_wait=0.002)


def run(work: Coroutine[Any, Any, T], seconds: float = 15.0) -> T:
    """``asyncio.run`` that fails instead of hanging, and that finds no task left behind."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            result = await work
        for _ in range(3):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    return asyncio.run(bounded())


async def by_text(problem: Problem, answer: str | None) -> Verdict:
    """Right if it is the reference, letter by letter."""
    return Verdict(answer == problem.reference, "text")


async def same_text(a: str, b: str, kind: str) -> bool:
    return a.strip() == b.strip()


def loop(backend: Any, **settings: Any) -> HeartLoop:
    """A HeartLoop that needs no verifiers installed."""
    settings.setdefault("verify", by_text)
    settings.setdefault("equivalent", same_text)
    settings.setdefault("retry", QUICK)
    return HeartLoop(backend, **settings)


def boxed(answer: object) -> str:
    return f"Thinking about it. \\boxed{{{answer}}}"


def asked(request: Request) -> str:
    """The last user message."""
    return text_of(request.messages[-1].content)


def random_answers(seed: int, *, choices: int = 3, failures: float = 0.0) -> Callable[[Request], Any]:
    """A script whose answer is a function of (seed, request): the same request, the same answer."""

    def script(request: Request) -> Any:
        rng = random.Random(blake2b(f"{seed}{request.as_dict()}".encode(), digest_size=8).digest())
        if rng.random() < failures:
            from heartloop.errors import BadRequest

            return BadRequest("no")
        if rng.random() < 0.1:
            return NO_ANSWER
        return boxed(rng.randrange(choices))

    return script


def answers_by_round(*answers: object) -> Callable[[Request], str]:
    """A script that gives the n-th answer to a conversation with n - 1 answers in it; the last, for ever."""

    def script(request: Request) -> str:
        said = sum(message.role == "assistant" for message in request.messages)
        return boxed(answers[min(said, len(answers) - 1)])

    return script


def conversation(request: Request) -> list[Message]:
    return list(request.messages)


def exported(path: Path) -> bytes:
    return b"".join(canonical(path))


def scripted(script: Any, **settings: Any) -> ScriptedBackend:
    return ScriptedBackend(script, **settings)


@dataclass(frozen=True)
class Independent:
    """As a strategy: ``count`` attempts that know nothing of each other; then the judge chooses."""

    count: int
    name: str = "independent"

    async def solve(self, problem: Problem, session: Any) -> Solution:
        for k in range(self.count):
            branch = session.branch(k)
            await branch.judge(await branch.respond())
        return session.finish(await session.select(), StopReason.ROUNDS)  # type: ignore[no-any-return]
