"""Several servers of one model as one backend: routing, health, and nothing lost when one of them dies.

Still one attempt a call. A call that fails raises its error, and the gateway's retry comes back here and
lands elsewhere: a replica that failed (or sat on) this very request is avoided while another is up. So
is one that is still at work on it, for a hedge, as long as that is the same ``Request`` object.

Health. A replica that refuses a connection is taken out at once; one with three failures in a row (5xx,
broken connections, timeouts, malformed answers) as well, and one that would end the run (it does not have the
model, refuses the key), while another is up. Then it is probed, at growing intervals, and comes back when it
answers; if it fails the first call then, it is out again, for twice as long. With none up, calls are tried on
whichever was left alone longest, so the error that comes out is real, and so is the moment when it goes away.

Load. The queue of a replica is the work in flight there, in tokens as :mod:`heartloop.backends.router` counts
them, with the answers' length as it has been lately. Calls that others sent are seen in vLLM's gauges,
polled while there is something in flight, and taken to be like ours (those that run: after their prompt).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from heartloop.backends.base import Backend
from heartloop.backends.replica import Measured, Member, Probed, Replica, name_of
from heartloop.backends.router import Conversation, PrefixRouter, Router
from heartloop.backends.vllm_metrics import VllmMetrics
from heartloop.errors import (
    BackendError,
    BadResponse,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    RetryableError,
    ServerError,
    UsageError,
)
from heartloop.types import Completion, Message, Request

__all__ = ["Replica", "ReplicaSet"]

logger = logging.getLogger(__name__)

_FAILURES = (ServerError, ConnectionLost, CallTimeout, BadResponse)
_TOLERATED = 2
"""Failures in a row that leave a replica in: single ones are the network's."""

_REMEMBERED = 1024
_FIRST_TOKENS = 256
_LEAVE_SECONDS = 10.0
"""What a server that has closed its port gets, at least, to answer what it has."""
_STALE_SECONDS = 10.0


class ReplicaSet:
    """A backend made of several that serve the same model. Used from one event loop.

    Args:
        backends: the replicas; all of one name. Those with ``probe()`` are probed while they are out,
            those with ``metrics()`` polled while they are busy; VllmBackend has both.
        router: the policy; default :class:`~heartloop.backends.router.PrefixRouter`.
        poll_seconds: between two looks at the gauges.
        probe_first, probe_max: seconds between the probes of a replica that is out: they double in between.
        seed: of the router's and the probes' random choices.

    Raises:
        UsageError: no replica, or replicas of different models.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        router: Router | None = None,
        poll_seconds: float = 1.0,
        probe_first: float = 0.25,
        probe_max: float = 15.0,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not backends:
            raise UsageError("a replica set needs at least one backend")
        names = sorted({backend.name for backend in backends})
        if len(names) > 1:
            raise UsageError(f"replicas serve one model, not {len(names)}: {', '.join(names)}")
        if min(poll_seconds, probe_first, probe_max) <= 0:
            raise UsageError("poll_seconds, probe_first and probe_max must be positive")
        self._members = [
            Member(backend, name_of(backend, index), index) for index, backend in enumerate(backends)
        ]
        self._states = [member.state for member in self._members]
        self._router: Router = PrefixRouter(len(backends), seed=seed) if router is None else router
        self._poll_seconds = poll_seconds
        self._probe_first, self._probe_max = probe_first, probe_max
        self._random = random.Random(seed)
        self._clock = clock
        self._in_flight = 0
        self._expected_tokens = 0.0
        self._chars_per_token = 4.0
        self._units_a_call = 0.0
        self._longest = 0.0
        # By identity, with the request itself so that no other gets its id.
        self._last: OrderedDict[int, tuple[Request, int]] = OrderedDict()
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        up = sum(state.up for state in self._states)
        return f"ReplicaSet({self.name!r}, {up} of {len(self._members)} up)"

    @property
    def name(self) -> str:
        return self._members[0].backend.name

    @property
    def real(self) -> bool:
        return any(member.backend.real for member in self._members)

    @property
    def serving(self) -> bool:
        """Whether any replica is up: then one that fails is no outage."""
        return any(state.up for state in self._states)

    @property
    def cuts(self) -> bool:
        return all(getattr(member.backend, "cuts", False) for member in self._members)

    @property
    def structured_output(self) -> bool:
        return all(getattr(member.backend, "structured_output", False) for member in self._members)

    @property
    def max_concurrency(self) -> int | None:
        each = [member.backend.max_concurrency for member in self._members]
        known = [limit for limit in each if limit is not None]
        return sum(known) if len(known) == len(each) else None

    @property
    def context_tokens(self) -> int | None:
        known = [tokens for member in self._members if (tokens := member.backend.context_tokens) is not None]
        return min(known, default=None)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The replicas as they are now, in the order in which they were given."""
        self._look_at_queues()
        return tuple(
            Replica(
                name=m.name,
                up=m.state.up,
                in_flight=m.state.in_flight,
                running=None if m.seen is None else m.seen.running,
                waiting=None if m.seen is None else m.seen.waiting,
                queue=m.state.queue,
                calls=m.calls,
                failures=m.failed,
                error=None if m.error is None else str(m.error),
            )
            for m in self._members
        )

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return self._members[0].backend.prompt_tokens_bound(messages)

    # --- one attempt -------------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Completion:
        """One attempt at one replica; see :class:`~heartloop.backends.base.Backend`.

        Raises:
            BackendError: that attempt's; a ServerError in place of one that would end the run, while another
                replica is up.
            UsageError: closed.
        """
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        conversation = Conversation.of(request.messages, self._chars_per_token)
        member = self._choose(request, conversation)
        cached = self._router.cached_tokens(conversation, member.index)
        units = self._units(conversation.prompt_tokens - cached, self._expected(request))
        self._start(member, units)
        number = member.started
        self._router.remember(conversation, member.index)
        self._note(request, member.index)
        failure: BackendError | None = None
        began, limit = self._clock(), asyncio.timeout(None)
        member.flights[limit] = began
        try:
            async with limit:
                completion = await member.backend.complete(request)
        except BackendError as error:
            failure = self._failed(member, error)
            if not isinstance(failure, RetryableError):
                self._last.pop(id(request), None)
        except TimeoutError:
            if not limit.expired():
                raise
            member.failed += 1
            failure = ConnectionLost(f"{member.name} went away and left the call unanswered")
        finally:
            del member.flights[limit]
            self._end(member, units)
        if failure is not None:
            raise failure
        self._last.pop(id(request), None)
        self._longest = max(self._longest, self._clock() - began)
        self._answered(member, number, conversation, cached, completion)
        return completion

    def _choose(self, request: Request, conversation: Conversation) -> Member:
        now = self._clock()
        for member in self._members:
            if not member.state.up and member.prober is None and member.back_at <= now:
                # It can't be probed: this call finds out, and the next only after as long again.
                member.back_at = now + member.out_for
                return member
        if not any(state.up for state in self._states):
            member = min(self._members, key=lambda m: m.tried_at)
            member.tried_at = now
            return member
        self._look_at_queues()
        before = self._last.get(id(request))
        index = self._router.choose(
            conversation,
            self._states,
            work=self._expected(request),
            avoid=None if before is None else before[1],
        )
        return self._members[index]

    def _note(self, request: Request, index: int) -> None:
        self._last[id(request)] = (request, index)
        self._last.move_to_end(id(request))
        # Those in flight are not too many to be kept; the rest are calls that were given up.
        if len(self._last) > _REMEMBERED + self._in_flight:
            self._last.popitem(last=False)

    def _start(self, member: Member, units: float) -> None:
        member.state.in_flight += 1
        member.started += 1
        member.units += units
        self._in_flight += 1
        if self._poller is None and any(isinstance(m.backend, Measured) for m in self._members):
            self._poller = asyncio.get_running_loop().create_task(self._poll())

    def _end(self, member: Member, units: float) -> None:
        member.state.in_flight -= 1
        self._in_flight -= 1
        member.units = member.units - units if member.state.in_flight else 0.0

    def _answered(
        self, member: Member, number: int, conversation: Conversation, cached: int, completion: Completion
    ) -> None:
        member.calls += 1
        member.in_a_row = 0
        if member.state.up:
            member.out_for = 0.0
        # A server that shuts down still answers what it had: only a call that began later shows it back.
        if not member.state.up and number > member.out_from:
            self._bring_back(member)
        self._router.remember(
            conversation.extended([Message("assistant", completion.text)], self._chars_per_token),
            member.index,
        )
        usage = completion.usage
        if usage is None:
            return
        # A server need not say what was cached (vLLM does with --enable-prompt-tokens-details).
        fresh = usage.prompt_tokens - (usage.cached_tokens or min(cached, usage.prompt_tokens))
        units = self._units(fresh, usage.completion_tokens)
        self._units_a_call += (units - self._units_a_call) * (0.05 if self._units_a_call else 1.0)
        gain = 0.05 if self._expected_tokens else 1.0
        self._expected_tokens += gain * (usage.completion_tokens - self._expected_tokens)
        if usage.prompt_tokens > 32:
            actual = self._chars_per_token * conversation.prompt_tokens / usage.prompt_tokens
            self._chars_per_token += 0.05 * (min(max(actual, 0.5), 8.0) - self._chars_per_token)

    # --- load --------------------------------------------------------------------------------------------

    def _units(self, prompt_tokens: int, completion_tokens: float) -> float:
        return max(prompt_tokens, 0) / self._router.prompt_per_generated + completion_tokens

    def _expected(self, request: Request) -> float:
        return min(self._expected_tokens or _FIRST_TOKENS, request.sampling.max_tokens)

    def _look_at_queues(self) -> None:
        now = self._clock()
        for member in self._members:
            member.state.queue = member.units
            if member.others and member.seen is not None and now - member.seen_at < _STALE_SECONDS:
                waiting = min(member.others, member.seen.waiting)
                member.state.queue += waiting * (self._units_a_call or _FIRST_TOKENS)
                member.state.queue += (member.others - waiting) * (self._expected_tokens or _FIRST_TOKENS)

    async def _poll(self) -> None:
        """Look at the gauges while anything is in flight."""
        try:
            while self._in_flight:
                self._leave_those_that_went_away()
                await asyncio.gather(*(self._measure(m) for m in self._members if m.state.up))
                await asyncio.sleep(self._poll_seconds)
        finally:
            self._poller = None

    def _leave_those_that_went_away(self) -> None:
        """End calls at replicas that stopped to listen so long ago that what they still answer is answered.

        vLLM that gets SIGTERM stops its engine, closes its port and keeps the calls it had, unanswered, until
        their clients leave (seen of 0.32).
        """
        patience = max(_LEAVE_SECONDS, self._longest)
        now = self._clock()
        for member in self._members:
            if member.refused_at is None or now - member.refused_at < patience:
                continue
            for limit, began in member.flights.items():
                if began <= member.refused_at and limit.when() is None:
                    limit.reschedule(asyncio.get_running_loop().time())

    async def _measure(self, member: Member) -> None:
        if not isinstance(member.backend, Measured) or member.unmeasured > 2:
            return
        # What of the server's count is ours: at most what was in flight before, and what started meanwhile.
        ours, started = member.state.in_flight, member.started
        try:
            seen = await member.backend.metrics()
        except (ConnectionFailed, CallTimeout) as error:
            # A server that hangs answers nobody; one that is only busy does so within seconds.
            member.unmeasured += isinstance(error, CallTimeout)
            if member.state.up and (isinstance(error, ConnectionFailed) or member.unmeasured > 2):
                self._take_out(member, error)
            return
        except BackendError:
            member.unmeasured += 1
            return
        member.unmeasured = 0
        if member.seen is not None and seen.prompt_tokens < member.seen.prompt_tokens:
            self._router.forget(member.index)  # its counters began anew, and its cache with them
        if seen.cache_tokens is not None:
            self._router.set_cache_tokens(member.index, seen.cache_tokens)
        member.seen, member.seen_at = seen, self._clock()
        ours += member.started - started
        member.others = max(0, seen.running + seen.waiting - ours)

    # --- health ------------------------------------------------------------------------------------------

    def _failed(self, member: Member, error: BackendError) -> BackendError:
        """What to raise for ``error``."""
        if isinstance(error, ConnectionFailed):
            member.failed += 1
            self._take_out(member, error)
        elif isinstance(error, _FAILURES):
            member.failed += 1
            member.in_a_row += 1
            if member.in_a_row > _TOLERATED:
                self._take_out(member, error)
        elif error.ends_run and any(m.state.up for m in self._members if m is not member):
            # Started with another model or key, or a proxy's 404 in the place of a server that is gone.
            member.failed += 1
            self._take_out(member, error)
            return ServerError(f"{error} (other replicas are up)", status=error.status)
        else:
            member.in_a_row = 0  # whatever it had against the call, it is there
        return error

    def _take_out(self, member: Member, error: BackendError) -> None:
        now = self._clock()
        member.error = error.with_traceback(None)
        member.tried_at = now
        if member.state.up or member.prober is None:
            member.out_for = min(self._probe_max, max(self._probe_first, 2 * member.out_for))
            member.back_at = now + member.out_for
        if not member.state.up:
            return
        member.state.up = False
        if isinstance(error, ConnectionFailed):
            member.refused_at = now
        member.out_from = member.started
        self._router.forget(member.index)
        logger.warning("%s: replica %s is out: %s", self.name, member.name, error)
        if isinstance(member.backend, Probed) and not self._closed:
            member.prober = asyncio.get_running_loop().create_task(self._probe(member, member.backend))

    async def _probe(self, member: Member, backend: Probed) -> None:
        wait = member.out_for
        while True:
            await asyncio.sleep(wait * (0.75 + 0.5 * self._random.random()))
            try:
                await backend.probe()
            except BackendError as error:
                member.error = error.with_traceback(None)
                wait = min(2 * wait, self._probe_max)
            else:
                member.prober = None
                out_for = member.out_for
                self._bring_back(member)
                # Fit to be probed is not yet fit to answer: one more failure takes it out, for longer.
                member.in_a_row, member.out_for = _TOLERATED, out_for
                return

    def _bring_back(self, member: Member) -> None:
        if member.prober is not None:
            member.prober.cancel()
            member.prober = None
        member.state.up = True
        member.error = None
        member.in_a_row = member.unmeasured = member.others = 0
        member.out_for = 0.0
        logger.warning("%s: replica %s is back", self.name, member.name)

    # --- what the servers know ---------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Let every replica that can learn what it needs to know (see VllmBackend.prepare); look at gauges.

        Raises:
            BackendError: none of them could; one that can't is taken out.
        """
        able = [(m, m.backend.prepare) for m in self._members if hasattr(m.backend, "prepare")]
        outcomes = await asyncio.gather(*(prepare() for _, prepare in able), return_exceptions=True)
        errors: list[BaseException] = []
        for (member, _), outcome in zip(able, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                continue
            if not isinstance(outcome, RetryableError):
                raise outcome
            errors.append(outcome)
            self._take_out(member, outcome)
        if errors and len(errors) == len(self._members):
            raise errors[-1]
        await asyncio.gather(*(self._measure(member) for member in self._members if member.state.up))

    def queue(self) -> tuple[int, int] | None:
        """Requests running and waiting at the replicas that are up, as last polled; None if long ago."""
        now = self._clock()
        seen = [
            m.seen
            for m in self._members
            if m.state.up and m.seen is not None and now - m.seen_at < _STALE_SECONDS
        ]
        return (sum(s.running for s in seen), sum(s.waiting for s in seen)) if seen else None

    async def metrics(self) -> VllmMetrics:
        """The sum over the replicas that are up and have ``metrics()``.

        Raises:
            BackendError: there is none, or one can't be asked.
        """
        total = VllmMetrics()
        for member in self._members:
            if member.state.up and isinstance(member.backend, Measured):
                total = total + await member.backend.metrics()
        return total

    async def aclose(self) -> None:
        self._closed = True
        tasks = [m.prober for m in self._members if m.prober is not None]
        if self._poller is not None:
            tasks.append(self._poller)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closing = (member.backend.aclose() for member in self._members)
        outcomes = await asyncio.gather(*closing, return_exceptions=True)
        for outcome in outcomes:  # one that can't be closed is no reason to leave the others open
            if isinstance(outcome, BaseException):
                raise outcome
