"""A strategy of one's own: sample until one answer leads by two, then stop.

Straight-line async code that awaits its session only; batching, retries, budgets, the journal and resume
come with that. Here it runs on a scripted model; give `HeartLoop` any other model's name instead.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

from heartloop import HeartLoop, Problem, Request, Solution, StopReason
from heartloop.backends import ScriptedBackend
from heartloop.engine.session import Session


@dataclass(frozen=True)
class UntilLead:
    """At most ``most`` independent attempts; ends early when an answer is two ahead of the next."""

    most: int = 8
    name: str = "until_lead"

    async def solve(self, problem: Problem, session: Session) -> Solution:
        votes: Counter[str] = Counter()
        for k in range(self.most):
            attempt = await session.branch(k).respond(round=k + 1)
            votes[attempt.answer or ""] += 1
            (_, first), (_, second) = [*votes.most_common(2), ("", 0)][:2]
            if first - second >= 2:
                return session.finish(await session.select(), StopReason.STABLE)
        return session.finish(await session.select(), StopReason.ROUNDS)


def wavering(request: Request) -> str:
    """A stand-in for a model: says 41 now and then, 42 mostly."""
    return r"\boxed{41}" if (request.sampling.seed or 0) % 7 == 0 else r"\boxed{42}"


async def main() -> Solution:
    async with HeartLoop(ScriptedBackend(wavering), strategy=UntilLead(), judge="majority") as loop:
        solution = await loop.solve("What is 17 + 25?")
        print(f"{solution.answer} after {solution.calls} attempts ({solution.stop_reason.value})")
        return solution


if __name__ == "__main__":
    asyncio.run(main())
