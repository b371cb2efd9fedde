"""The tree of errors.

::

    HeartLoopError
    ├── UsageError                   what the caller passed can't work (also a ValueError)
    │   ├── UnknownName              no such model, strategy, judge, ...: lists the known ones
    │   ├── DataError                a data set, deck or prompt file is broken: names file and line
    │   └── ConcurrentBranchError    two calls at once on one branch of a session
    ├── BudgetExhausted              a limit of the ledger leaves no room for the call
    ├── JournalError                 the run's record can't be used
    │   ├── JournalLocked            another process writes it
    │   ├── JournalCorrupt           not a journal, truncated, or damaged
    │   ├── JournalVersion           written by a newer HeartLoop
    │   └── JournalWriteError        disk full, read-only, ...: nothing more is sent
    ├── ReplayMismatch               a recorded request differs from the one made now
    ├── ModelCallsForbidden          a real model call while they are switched off
    └── BackendError                 one attempt at a backend failed
        ├── RetryableError           worth another try
        │   ├── RateLimited          429; may say when to come back
        │   ├── ServerError          5xx
        │   ├── ConnectionFailed     could not connect: nothing was sent
        │   ├── ConnectionLost       broke off after sending: may have been billed
        │   ├── CallTimeout          no answer in time: may have been billed
        │   ├── BatchEnded           the batch expired or was cancelled before the request was run
        │   └── BadResponse          malformed or truncated answer, no choices: may have been billed
        └── PermanentError           trying again won't help
            ├── AuthenticationFailed 401, 403: ends the run
            ├── ModelNotFound        404: ends the run
            ├── QuotaExceeded        the account's money or quota is used up: ends the run
            ├── BackendUnreachable   nothing listens there, and never did, or not for long: ends the run
            ├── BadRequest           400, 422
            ├── ContextOverflow      the prompt does not fit the model's context
            ├── ContentFiltered      refused by the provider's filter
        ├── LogprobsMissing      a judge needs log-probabilities that the model gives none of: ends the run
            └── UnknownRequest       a scripted or replay backend holds no answer to it

Backends raise the leaves of :class:`BackendError`, once, by cause; only the gateway sees the
retryable ones. ``may_have_been_billed`` decides what the ledger charges as *assumed*.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

__all__ = [
    "AuthenticationFailed",
    "BackendError",
    "BackendUnreachable",
    "BadRequest",
    "BadResponse",
    "BatchEnded",
    "BudgetExhausted",
    "CallTimeout",
    "ConcurrentBranchError",
    "ConnectionFailed",
    "ConnectionLost",
    "ContentFiltered",
    "ContextOverflow",
    "DataError",
    "HeartLoopError",
    "JournalCorrupt",
    "JournalError",
    "JournalLocked",
    "JournalVersion",
    "JournalWriteError",
    "LogprobsMissing",
    "ModelCallsForbidden",
    "ModelNotFound",
    "PermanentError",
    "QuotaExceeded",
    "RateLimited",
    "ReplayMismatch",
    "RetryableError",
    "ServerError",
    "UnknownName",
    "UnknownRequest",
    "UsageError",
]


class HeartLoopError(Exception):
    """Base of everything that HeartLoop raises on purpose."""


class UsageError(HeartLoopError, ValueError):
    """What the caller passed can't work; the message says what to change."""


class UnknownName(UsageError):
    """A name that nothing is registered under. The message lists the known names."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        self.what, self.name, self.known = what, name, sorted(known)
        close = get_close_matches(name, self.known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(self.known) or "none"
        super().__init__(f"unknown {what} {name!r}.{hint} Known: {listed}.")


class DataError(UsageError):
    """A file with problems, cues or prompts is broken. The message names file and line."""


class ConcurrentBranchError(UsageError):
    """Two calls at once on one branch. Use ``session.branch(k)`` for work side by side."""


class BudgetExhausted(HeartLoopError):
    """A limit leaves no room for the call, even if every open reservation were settled at zero.

    ``limit`` names it: ``"tokens"``, ``"calls"``, ``"seconds"`` or ``"usd"``; ``account`` whose limit it
    is: ``"run"``, ``"model NAME"`` or ``"problem ID"``.
    """

    def __init__(self, message: str, *, limit: str, account: str = "run") -> None:
        super().__init__(message)
        self.limit = limit
        self.account = account


class JournalError(HeartLoopError):
    """The run's record can't be used."""


class JournalLocked(JournalError):
    """Another process is writing this journal."""


class JournalCorrupt(JournalError):
    """Not a journal of HeartLoop, truncated, or damaged. The file was left as it was."""


class JournalVersion(JournalError):
    """Written by a newer HeartLoop. The file was left as it was."""


class JournalWriteError(JournalError):
    """The journal could not be written (disk full, read-only, ...). Nothing more is sent."""


class ReplayMismatch(HeartLoopError):
    """A recorded request differs from the one made now: prompts, settings or code have changed."""


class ModelCallsForbidden(HeartLoopError):
    """A real model was about to be called while ``HEARTLOOP_FORBID_MODEL_CALLS`` is set."""


class BackendError(HeartLoopError):
    """One attempt at a backend failed.

    Class attributes:
        may_have_been_billed: the backend may have charged for an answer that never came.
        ends_run: every other call would fail the same way (bad key, unknown model).
    """

    may_have_been_billed: ClassVar[bool] = False
    ends_run: ClassVar[bool] = False

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RetryableError(BackendError):
    """Worth another try, after ``retry_after`` seconds where the server said so."""

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class RateLimited(RetryableError):
    """429."""


class ServerError(RetryableError):
    """5xx."""


class ConnectionFailed(RetryableError):
    """Could not connect; nothing was sent."""


class ConnectionLost(RetryableError):
    """The connection broke off after the request was sent."""

    may_have_been_billed = True


class CallTimeout(RetryableError):
    """No answer within the attempt's time limit."""

    may_have_been_billed = True


class BatchEnded(RetryableError):
    """The batch that held the request expired or was cancelled before it was run: nothing was billed."""


class BadResponse(RetryableError):
    """The answer was malformed, truncated or had no choices."""

    may_have_been_billed = True


class PermanentError(BackendError):
    """Trying the same again won't help."""


class AuthenticationFailed(PermanentError):
    """401 or 403. The message never contains the key."""

    ends_run = True


class ModelNotFound(PermanentError):
    """The backend does not serve this model."""

    ends_run = True


class BackendUnreachable(PermanentError):
    """Nothing answers at the backend's address: it never did, or has not for as long as is waited for it."""

    ends_run = True


class QuotaExceeded(PermanentError):
    """The account behind the key has no money or quota left (402, or a 429 that says so or bids us wait)."""

    ends_run = True


class BadRequest(PermanentError):
    """400 or 422."""


class ContextOverflow(PermanentError):
    """The prompt (and ``max_tokens``) does not fit the model's context.

    ``context_tokens`` and ``prompt_tokens`` are the figures that the backend gave, where it did.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        context_tokens: int | None = None,
        prompt_tokens: int | None = None,
    ) -> None:
        super().__init__(message, status=status)
        self.context_tokens = context_tokens
        self.prompt_tokens = prompt_tokens


class ContentFiltered(PermanentError):
    """The provider's filter refused the prompt."""


class LogprobsMissing(PermanentError):
    """The answer came without the log-probabilities that a judge works with; so would all others."""

    ends_run = True


class UnknownRequest(PermanentError):
    """A scripted or replay backend holds no (further) answer to this request."""
