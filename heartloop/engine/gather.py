"""Branches side by side: all are waited for, and one that fails takes nobody with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, Mapping
from typing import Any, TypeVar

from heartloop.engine.strands import spread
from heartloop.errors import BackendError, BudgetExhausted

__all__ = ["gather_surviving"]

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


async def gather_surviving(work: Mapping[K, Coroutine[Any, Any, T]]) -> dict[K, T]:
    """The results of the coroutines that did not fail, by key, in the mapping's order.

    All are waited for before anything is raised, since their calls are paid for; being cancelled
    cancels them all.

    Raises:
        BudgetExhausted: if any ran into it.
        BackendError: the first, if all failed.
        BaseException: anything else, the first in order.
    """
    if len(work) == 1:
        [(key, coroutine)] = work.items()
        return {key: await coroutine}
    tasks = {key: asyncio.ensure_future(coroutine) for key, coroutine in work.items()}
    spread(tasks.values())
    try:
        outcomes = await asyncio.gather(*tasks.values(), return_exceptions=True)
    except asyncio.CancelledError:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        raise
    survivors: dict[K, T] = {}
    failures: list[BackendError] = []
    exhausted: BudgetExhausted | None = None
    for key, outcome in zip(tasks, outcomes, strict=True):
        if isinstance(outcome, BudgetExhausted):
            exhausted = exhausted or outcome
        elif isinstance(outcome, BackendError) and not outcome.ends_run:
            failures.append(outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            survivors[key] = outcome
    if exhausted is not None:
        raise exhausted
    if failures and not survivors:
        raise failures[0]
    return survivors
