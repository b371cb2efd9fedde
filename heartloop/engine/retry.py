"""When to try a failed call again, and after how long.

Decided by the error's class alone (the table is the tree in :mod:`heartloop.errors`):

=====================================  ==================================================================
RateLimited                            until ``rate_limit_patience`` seconds have passed
any that a server is away by           until it has been away for ``outage_patience`` seconds
(:mod:`heartloop.engine.breaker`)
ServerError, ConnectionFailed,         until ``attempts`` tries have been made (rate-limited tries aside)
ConnectionLost, CallTimeout,
BadResponse
PermanentError                         never
=====================================  ==================================================================

A server's Retry-After is honoured (plus up to a tenth, so that waiters don't return as one herd). One longer
than ``max_retry_after`` ends the call; after a 429, or where the server is away, it ends the run, since all
others would be told the same. So does the end of either patience where nothing was answered meanwhile.
Otherwise the wait doubles from ``first_wait`` up to ``max_wait``, with full jitter over its upper half.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from heartloop.errors import RateLimited, RetryableError

__all__ = ["RetryPolicy", "retrying"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """See the module. All times in seconds."""

    attempts: int = 6
    first_wait: float = 0.5
    max_wait: float = 30.0
    max_retry_after: float = 300.0
    rate_limit_patience: float = 900.0
    outage_patience: float = 900.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"retry: attempts must be at least 1 (the first counts), not {self.attempts}")

    def wait(self, failures: int, error: BaseException | None) -> float:
        """Seconds to wait after the ``failures``-th failure in a row."""
        retry_after = error.retry_after if isinstance(error, RetryableError) else None
        if retry_after:  # a server that says 0 is backed off from all the same
            return retry_after * (1 + 0.1 * random.random())
        span: float = min(self.max_wait, self.first_wait * 2 ** min(failures - 1, 30))
        return span * (0.5 + 0.5 * random.random())


async def retrying(
    first: RetryableError,
    again: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    sleep: Callable[[float], Awaitable[None]],
    away: Callable[[RetryableError], float],
) -> T:
    """Go on after ``first`` failed: wait, call ``again``, by ``policy``.

    ``away``: for how long the server has been away by now, if the error is one that it is known by, else 0.

    The first try is made bare by the caller, since entering tenacity costs more than the rest of a call.

    Raises:
        RetryableError: the last one, when the policy gives up.
        BaseException: whatever else ``again`` raises, at once.
    """
    uncounted = asking = 0
    pending: RetryableError | None = first

    def give_up(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, RetryableError) and (error.retry_after or 0.0) > policy.max_retry_after:
            return True
        if isinstance(error, RateLimited):
            return (state.seconds_since_start or 0.0) > policy.rate_limit_patience
        if isinstance(error, RetryableError) and (gone := away(error)):
            return gone > policy.outage_patience
        return state.attempt_number - uncounted >= policy.attempts

    def wait(state: tenacity.RetryCallState) -> float:
        # Where the server is away, the lane sees to it that it isn't asked too often.
        failures = max(1, state.attempt_number - asking)
        return policy.wait(failures, state.outcome.exception() if state.outcome else None)

    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(RetryableError),
        stop=give_up,
        wait=wait,
        sleep=sleep,
        reraise=True,
    ):
        with attempt:
            try:
                if pending is not None:
                    error, pending = pending, None
                    raise error
                return await again()
            except RetryableError as error:
                uncounted += isinstance(error, RateLimited) or away(error) > 0
                asking += away(error) > 0
                raise
    raise AssertionError("unreachable: tenacity reraises the last error")
