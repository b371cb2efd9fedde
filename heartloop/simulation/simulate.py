"""A run simulated call by call, under the same policy objects that the engine uses.

What every attempt would come to is fixed beforehand (a *world*: drawn from a population, or recorded), so
that policies are compared on the very same attempts: they differ in which of them they pay for.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from heartloop.engine.scheduler import Answered, Ended, Judged, Learning, Made, Scheduler, Waiting

__all__ = ["Curve", "Sample", "World", "simulate"]


class Sample(NamedTuple):
    """One attempt: what it costs, and what it comes to. ``seconds`` is how long it takes."""

    tokens: int
    correct: bool
    answer: str
    seconds: float = 1.0


World: TypeAlias = Sequence[Sequence[Sample]]
"""For each problem its attempts, in the order of its rounds; it ends when they do."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What a run had reached at each moment.

    Attributes:
        tokens: spent so far, after each attempt; grows.
        right: problems whose answer was right then.
        problems: in all.
        order: which problem each attempt was for.
    """

    tokens: tuple[int, ...]
    right: tuple[int, ...]
    problems: int
    order: tuple[int, ...] = ()

    def right_at(self, budget: float) -> int:
        """Problems right once ``budget`` tokens are spent (the attempt that would exceed it is not made)."""
        place = bisect_right(self.tokens, budget)
        return self.right[place - 1] if place else 0

    def accuracy_at(self, budget: float) -> float:
        """Share of the problems that are right when ``budget`` tokens are spent."""
        return self.right_at(budget) / self.problems

    def tokens_for(self, right: int) -> int | None:
        """Tokens after which so many problems are right for the first time; None if that never happens.

        Meant for curves that never fall (those of runs with an oracle).
        """
        place = bisect_left(self.right, right)
        return self.tokens[place] if place < len(self.tokens) else None


def simulate(
    world: World,
    policy: Scheduler,
    *,
    oracle: bool = True,
    stop: bool = True,
    concurrency: int = 1,
    active: int | None = None,
    names: Sequence[str] | None = None,
    arm: str = "main",
    last: bool = False,
) -> Curve:
    """Let every problem of ``world`` take its attempts one after another, in the order ``policy`` gives.

    Args:
        oracle: attempts are judged; a problem is right once one of them is. Otherwise its answer is the
            one with the most votes so far (the first found, in a tie), and nobody knows whether it is right.
        stop: with an oracle, a problem ends with its first right attempt. False pays for all its rounds,
            right or not: uniform allocation as in the literature.
        concurrency: calls in flight at once.
        active: problems begun and not ended, at most; None: all.
        names: the problems' ids; by default their places.
        last: without an oracle, whether the answer of a problem that has made all its attempts is its last
            one (a line of rounds that nobody judges) and not the one with the most votes.
    """
    ids = [str(i) for i in range(len(world))] if names is None else list(names)
    learning = policy if isinstance(policy, Learning) else None
    waiting: list[tuple[float, int, int, Waiting]] = []
    flying: list[tuple[float, int, int, int]] = []
    backlog = iter(range(len(world)))
    voting = [_Votes() for _ in world]
    solved = [False] * len(world)
    tokens: list[int] = []
    right: list[int] = []
    order: list[int] = []
    clock, spent, correct, arrivals, sorted_at = 0.0, 0, 0, 0, 0

    def ask(problem: int, round: int) -> None:
        nonlocal arrivals
        call = Waiting(ids[problem], round, "generator", arrivals, arm, clock)
        heapq.heappush(waiting, (policy.priority(call), arrivals, problem, call))
        arrivals += 1

    def begin() -> None:
        problem = next(backlog, None)
        while problem is not None and not world[problem]:
            problem = next(backlog, None)
        if problem is not None:
            ask(problem, 1)

    for _ in range(len(world) if active is None else active):
        begin()
    while waiting or flying:
        if learning is not None and learning.revision != sorted_at:
            sorted_at = learning.revision
            waiting = [
                (policy.priority(replace(call, at=clock)), arrival, problem, call)
                for _, arrival, problem, call in waiting
            ]
            heapq.heapify(waiting)
        while waiting and len(flying) < concurrency:
            _, arrival, problem, call = heapq.heappop(waiting)
            sample = world[problem][call.round - 1]
            heapq.heappush(flying, (clock + sample.seconds, arrival, problem, call.round))
        clock, _, problem, round = heapq.heappop(flying)
        sample, id = world[problem][round - 1], ids[problem]
        spent += sample.tokens
        voting[problem].add(sample)
        if learning is not None:
            learning.observe(Answered("generator", sample.seconds))
            learning.observe(Made(arm, id, "0", round, sample.tokens, sample.answer))
            if oracle:
                learning.observe(Judged(arm, id, "0", round, sample.answer, sample.correct))
        was = solved[problem]
        if oracle:
            solved[problem] = was or sample.correct
        elif last and round == len(world[problem]):
            solved[problem] = sample.correct
        else:
            solved[problem] = voting[problem].right
        correct += solved[problem] - was
        tokens.append(spent)
        right.append(correct)
        order.append(problem)
        if (oracle and stop and solved[problem]) or round == len(world[problem]):
            if learning is not None:
                learning.observe(Ended(arm, id))
            begin()
        else:
            ask(problem, round + 1)
    return Curve(tuple(tokens), tuple(right), len(world), tuple(order))


class _Votes:
    """One problem's answers so far, and whether the one with the most votes is right."""

    __slots__ = ("_counts", "_first", "_leader", "right")

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, int] = {}
        self._leader: str | None = None
        self.right = False

    def add(self, sample: Sample) -> None:
        answer = sample.answer
        self._counts[answer] += 1
        self._first.setdefault(answer, len(self._first))
        leader = self._leader
        if leader == answer:
            return
        if leader is None or (self._counts[answer], -self._first[answer]) > (
            self._counts[leader],
            -self._first[leader],
        ):
            self._leader, self.right = answer, sample.correct
