"""A span and the metrics of each call, whether it goes alone or in a wave."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from opentelemetry import context, trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from heartloop.engine.tries import Tries
from heartloop.errors import BackendError
from heartloop.telemetry.names import answered, asked, common_of, said_by
from heartloop.types import Completion, Request

if TYPE_CHECKING:
    from heartloop.backends.base import Backend
    from heartloop.engine.dispatch import Lane
    from heartloop.engine.hedge import Flight
    from heartloop.engine.ledger import Reservation
    from heartloop.engine.wave_call import Member
    from heartloop.engine.waves import Waves
    from heartloop.journal.records import Settle
    from heartloop.telemetry.otel import Telemetry

__all__ = ["OVERTAKEN", "CallSpan", "Calls", "failed", "traced_tries"]

OVERTAKEN = "Overtaken"
"""``error.type`` of the slower of two tries that ran side by side."""


def failed(span: Span, error: BaseException | str) -> None:
    """Note the class of an error, and nothing that it says: that may quote prompts, or a server's words."""
    span.set_attribute("error.type", error if isinstance(error, str) else type(error).__name__)
    if isinstance(error, BackendError) and error.status is not None:
        span.set_attribute("http.response.status_code", error.status)
    span.set_status(Status(StatusCode.ERROR))


class Calls:
    """Begins the spans of an engine's calls; what is the same for all of a model's is worked out once."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self._common: dict[tuple[int, str], dict[str, Any]] = {}

    def begin(
        self,
        request: Request,
        backend: Backend,
        more: dict[str, Any],
        *,
        inside: context.Context | None = None,
        links: list[Link] | None = None,
        start_time: int | None = None,
        batched: bool = False,
    ) -> CallSpan:
        """The span of a request that leaves now (or left at ``start_time``, in ns since 1970)."""
        place = (id(backend), request.model)
        common = self._common.get(place)
        if common is None:
            common = self._common[place] = common_of(backend, request.model, batched=batched)
        telemetry = self.telemetry
        span = telemetry.tracer.start_span(
            f"chat {request.model}",
            inside,
            SpanKind.CLIENT,
            {**common, **asked(request, backend), **more},
            links,
            start_time,
        )
        if telemetry.content and span.is_recording():
            span.set_attribute("gen_ai.input.messages", said_by(request))
        return CallSpan(telemetry, span, common)


@runtime_checkable
class Claimed(Protocol):
    """A wave that is told who waits for its calls."""

    def claimed(self, member: Member) -> None:
        """Somebody waits for a call that an earlier process sent."""
        ...


class CallSpan:
    """One call's span, until its end; its metrics are recorded then."""

    __slots__ = ("_begun", "_common", "_telemetry", "open", "span")

    def __init__(self, telemetry: Telemetry, span: Span, common: dict[str, Any]) -> None:
        self.span = span
        self.open = True
        self._telemetry, self._common = telemetry, common
        self._begun = time.perf_counter()

    def in_wave(self, wave: SpanContext, id: str) -> None:
        """The call is in that wave from now on."""
        if wave.is_valid:
            self.span.add_link(wave)
        self.span.set_attribute("heartloop.wave.id", id)

    def answered(self, completion: Completion) -> None:
        """It has its answer."""
        telemetry, span = self._telemetry, self.span
        if span.is_recording():
            span.set_attributes(answered(completion, content=telemetry.content))
        ended = self._common
        if completion.model:
            ended = {**ended, "gen_ai.response.model": completion.model}
        telemetry.duration.record(completion.seconds, ended)
        if completion.first_chunk is not None:
            telemetry.first_chunk.record(completion.first_chunk, ended)
        if (usage := completion.usage) is not None:
            telemetry.tokens.record(usage.prompt_tokens, {**ended, "gen_ai.token.type": "input"})
            telemetry.tokens.record(usage.completion_tokens, {**ended, "gen_ai.token.type": "output"})
        self.end()

    def failed(self, error: BaseException | str) -> None:
        """It has ended without one."""
        name = error if isinstance(error, str) else type(error).__name__
        failed(self.span, error)
        seconds = time.perf_counter() - self._begun
        self._telemetry.duration.record(seconds, {**self._common, "error.type": name})
        self.end()

    def left(self) -> None:
        """The process ends, and the call goes on at the server."""
        self.span.set_attribute("heartloop.wave.left", True)
        self.end()

    def end(self) -> None:
        self.open = False
        self.span.end()


def traced_tries(calls: Calls) -> type[Tries]:
    """The gateway's tries, with a span and the metrics of each."""
    telemetry = calls.telemetry

    class TracedTries(Tries):
        queued_at = 0.0
        inside: context.Context | None = None
        has_answer = False
        member: Member | None = None

        async def once(self) -> Completion:
            self.queued_at = time.perf_counter()
            # A hedge is begun by a timer, or by whichever call ended then: not in this call's context.
            self.inside = context.get_current()
            return await super().once()

        async def _attempt(
            self, reservation: Reservation, flight: Flight | None = None, *, hedge: bool = False
        ) -> tuple[Completion, Settle]:
            queued = time.perf_counter() - self.queued_at
            if not hedge:
                telemetry.queued.record(queued, _lane(self.lane))
            more = self._about(self.made + 1, hedge, queued)
            call = calls.begin(self.call.request, self.lane.backend, more, inside=self.inside)
            token = context.attach(trace.set_span_in_context(call.span, self.inside))
            try:
                completion, settle = await super()._attempt(reservation, flight, hedge=hedge)
            except BaseException as error:
                lost = hedge and self.has_answer and isinstance(error, asyncio.CancelledError)
                call.failed(OVERTAKEN if lost else error)
                raise
            else:
                self.has_answer = True
                call.answered(completion)
                return completion, settle
            finally:
                context.detach(token)

        def _about(self, number: int, hedge: bool, queued: float) -> dict[str, Any]:
            return {
                "heartloop.lane": self.lane.name,
                "heartloop.role": self.call.role,
                "heartloop.try": number,
                "heartloop.hedge": hedge,
                "heartloop.reserved_tokens": self.cost.tokens,
                "heartloop.queued_s": queued,
            }

        # A call in a wave has its span from joining until its outcome is recorded, which may be long after
        # whoever asked has gone: the wave's flight ends it.

        async def _in_a_wave(self, waves: Waves) -> Completion:
            try:
                return await super()._in_a_wave(waves)
            except BaseException as error:
                member = self.member
                if member is not None and not member.sent and isinstance(member.watched, CallSpan):
                    member.watched.failed(error)  # taken out before the wave left
                raise

        async def _member(self, waves: Waves) -> Member:
            made = self.made
            self.member = member = await super()._member(waves)
            if member.watched is not None:
                return member
            queued = time.perf_counter() - self.queued_at
            resumed = made == self.made  # it is in a wave that an earlier process made
            more = self._about(member.reserve.attempt, False, queued)
            if resumed:
                more["heartloop.wave.resumed"] = True
            else:
                telemetry.queued.record(queued, _lane(self.lane))
            call = calls.begin(self.call.request, self.lane.backend, more, inside=self.inside, batched=True)
            member.watched = call
            if resumed:
                for flight in waves.flights:
                    if flight.members.get(member.line.id) is member and isinstance(flight, Claimed):
                        flight.claimed(member)
            return member

    return TracedTries


def _lane(lane: Lane) -> dict[str, Any]:
    return {"heartloop.lane": lane.name}
