"""A server that is away: one call at a time asks whether it is back, and the others wait.

Away is one that refuses connections, answers 502 or 503 (a proxy in front of nothing, a model that is being
loaded), or 429 without saying until when, several times in a row, whoever calls: any other answer shows that
it is there. Then the lane lets one call go at a time, at growing intervals, until one is answered. None of
them counts against its call, so an outage costs no problem; and a server that comes back meets no herd.

A server that breaks every call in another way (500, resets, nonsense) is asked as seldom, which leaves most
calls their tries; but those count, since it may be the call that breaks the server.
"""

from __future__ import annotations

import asyncio
import logging

from heartloop.errors import (
    BackendError,
    CallTimeout,
    ConnectionFailed,
    PermanentError,
    RateLimited,
    ServerError,
)

__all__ = ["Breaker"]

logger = logging.getLogger(__name__)

OPENS = 3
"""Failures in a row, of all calls to the model, that mean more than a fault of single calls."""
FIRST, LONGER, LONGEST = 0.1, 1.25, 10.0
"""Seconds between two calls that ask whether the server is back; in vain it grows by this factor, to this.
Not faster: of a rate that is limited in windows, what is waited beyond the next one's beginning is lost."""
WORTH_TELLING = 2.0
"""Seconds between two such calls from which on the user is told."""
_AWAY = (502, 503)


class Breaker:
    """What a lane knows of whether its server is there. Times are of the running event loop's clock.

    Attributes:
        open: it is away.
        patience: seconds that it may be away; then all may go, and are told. 0: nobody is ever held back.
    """

    __slots__ = ("_begun", "_failures", "_gap", "_name", "_next", "_seen", "_told", "open", "patience")

    def __init__(self, name: str) -> None:
        self.open = False
        self.patience = 0.0
        self._name = name
        self._failures = 0
        self._begun = self._next = 0.0
        self._gap = FIRST
        self._seen = 0
        self._told = False

    @staticmethod
    def concerns(error: BackendError) -> bool:
        """Whether ``error`` is what a server that is away is known by, and not the call's own fault."""
        if isinstance(error, ServerError):
            return error.status in _AWAY
        if isinstance(error, RateLimited):
            return not error.retry_after
        return isinstance(error, ConnectionFailed)

    def failed(self, error: BackendError, number: int, sent: int) -> None:
        """The call that left as the ``number``-th failed; ``sent`` have left by now."""
        if isinstance(error, PermanentError) or (isinstance(error, RateLimited) and error.retry_after):
            self.answered()
            return
        if isinstance(error, CallTimeout):  # says nothing of it
            return
        now = asyncio.get_running_loop().time()
        if self.open:
            if number <= self._seen:
                return  # it left before the last that was learned
            self._gap = min(LONGER * self._gap, LONGEST)
            if self._gap >= WORTH_TELLING and not self._told:
                self._told = True
                logger.warning("%s is away, and asked now and then until it is back: %s", self._name, error)
        else:
            if not self._failures:
                self._begun = now
            self._failures += 1
            if self._failures < OPENS:
                return
            self.open = True
            self._gap = FIRST
        self._seen = sent
        self._next = now + self._gap

    def answered(self) -> None:
        """A call was answered, whatever with."""
        if self._told:
            logger.warning("%s is back after %.0f s", self._name, self.away)
        self.open = self._told = False
        self._failures = 0

    def left(self) -> None:
        """A call leaves."""
        if self.open:
            self._next = asyncio.get_running_loop().time() + self._gap

    @property
    def wait(self) -> float:
        """Seconds until a call may leave; 0 for now."""
        if not (self.open and self.patience) or self.away > self.patience:
            return 0.0
        return max(0.0, self._next - asyncio.get_running_loop().time())

    @property
    def away(self) -> float:
        """For how many seconds the server has been away; 0 where it is there, or nobody waits for it."""
        return asyncio.get_running_loop().time() - self._begun if self.open and self.patience else 0.0
