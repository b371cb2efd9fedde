"""The span of a wave: from its making, or being taken over from an earlier process, to its end.

A wave belongs to no single problem, so its span is the run's child. The calls in it are children of their
attempts, and each is linked to its wave; the wave's own links name the first :data:`LINKS` of them, which is
how OpenTelemetry's conventions for messaging have a batch and its messages.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind

from heartloop.engine.wave_flight import WaveFlight
from heartloop.journal.base import NullJournal
from heartloop.telemetry.calls import Calls, CallSpan, failed
from heartloop.telemetry.names import common_of
from heartloop.types import Completion

if TYPE_CHECKING:
    from heartloop.backends.waves import Outcome, WaveLook
    from heartloop.engine.wave_call import Member
    from heartloop.errors import BackendError
    from heartloop.journal.records import WaveState

__all__ = ["LINKS", "TracedFlight", "traced_flights"]

LINKS = 128
"""As many as OpenTelemetry lets a span have by default."""


class TracedFlight(WaveFlight):
    """A wave with a span."""

    calls: Calls
    run: Span
    flying: set[TracedFlight]

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.span: Span | None = None
        self._size = len(self.members)
        self._links = 0
        self._told = {True: 0, False: 0}
        self._trouble: BaseException | str | None = None

    # --- the span -----------------------------------------------------------------------------------------

    def begin(self) -> Span:
        """Its span, begun if it was not."""
        if self.span is not None:
            return self.span
        lane = self._waves.lane
        common = common_of(lane.backend, lane.backend.name, batched=True)
        del common["gen_ai.operation.name"]  # the calls in it are operations: counted once
        about = {
            **common,
            "heartloop.lane": lane.name,
            "heartloop.wave.id": self.id,
            "heartloop.wave.size": self._size,
            "heartloop.wave.resumed": self.resumed,
        }
        if self.ref:
            about["heartloop.wave.ref"] = self.ref
        if self._state is not None:
            about["heartloop.wave.state"] = self._state
        if self.resumed and (made := self._data.get("made")):
            about["heartloop.wave.age_s"] = max(0.0, time.time() - float(made))
        if self._refusals:
            about["heartloop.wave.refusals"] = self._refusals
        known = [m.watched for m in self.members.values() if isinstance(m.watched, CallSpan)]
        self._links = min(len(known), LINKS)
        self._started = time.time_ns()
        self.span = self.calls.telemetry.tracer.start_span(
            "heartloop.wave",
            trace.set_span_in_context(self.run),
            SpanKind.CLIENT,
            about,
            [Link(call.span.get_span_context()) for call in islice(known, LINKS)],
            self._started,
        )
        wave = self.span.get_span_context()
        for call in known:
            call.in_wave(wave, self.id)
        self.flying.add(self)
        return self.span

    def claimed(self, member: Member) -> None:
        """Somebody waits for a call that an earlier process sent."""
        if self.span is None:
            self.begin()  # this call with the others
        elif isinstance(member.watched, CallSpan):
            member.watched.in_wave(self.span.get_span_context(), self.id)
            if self._links < LINKS:
                self._links += 1
                self.span.add_link(member.watched.span.get_span_context())

    def close(self) -> None:
        """The engine closes: what is at the server goes on there, unless no journal remembers it."""
        lost = isinstance(self._waves.journal, NullJournal)
        for member in self.members.values():
            if isinstance(member.watched, CallSpan) and member.watched.open:
                if lost:
                    member.watched.failed("CancelledError")
                else:
                    member.watched.left()
        if self.span is not None and not self.ended:
            self.span.set_attribute("heartloop.wave.left", not lost)
            self._trouble = self._trouble or ("CancelledError" if lost else None)
        self._end_span()

    def _end_span(self) -> None:
        self.flying.discard(self)
        if self.span is None:
            return
        self.span.set_attribute("heartloop.wave.answered", self._told[True])
        self.span.set_attribute("heartloop.wave.failed", self._told[False])
        if self._trouble is not None:
            failed(self.span, self._trouble)
        self.span.end()

    # --- what happens -------------------------------------------------------------------------------------

    async def fly(self) -> None:
        self._trouble = None
        # The task was begun in the context of whichever call made the wave full.
        with trace.use_span(self.begin(), record_exception=False, set_status_on_exception=False):
            await super().fly()

    async def collect_if_ended(self) -> None:
        with trace.use_span(self.begin(), record_exception=False, set_status_on_exception=False):
            await super().collect_if_ended()

    def _became(self, state: WaveState) -> None:
        super()._became(state)
        if self.span is None:
            return
        said = {"heartloop.wave.state": state}
        self.span.add_event("heartloop.wave.state", said)
        self.span.set_attributes(said)
        if self.ref:
            self.span.set_attribute("heartloop.wave.ref", self.ref)
        if self.ended:
            self._end_span()

    def _put_off(self, error: Exception) -> None:
        self._trouble = error
        super()._put_off(error)

    async def _none_begun(self, error: BackendError, tries: int) -> None:
        self._trouble = error
        await super()._none_begun(error, tries)

    async def _refused(self, look: WaveLook) -> None:
        self._trouble = look.refused or next(iter(look.refused_lines.values()), "BadRequest")
        await super()._refused(look)

    async def _land(self, look: WaveLook) -> None:
        if look.cut:
            self._trouble = "BatchEnded"
        await super()._land(look)

    def _tell(self, told: Mapping[Member, Outcome | BaseException]) -> None:
        super()._tell(told)
        for member, outcome in told.items():
            answered = isinstance(outcome, Completion)
            self._told[answered] += 1
            call = member.watched
            if not isinstance(call, CallSpan):
                call = member.watched = self._unclaimed(member)
            if isinstance(outcome, Completion):
                call.answered(outcome)
            else:
                call.failed(outcome)

    def _unclaimed(self, member: Member) -> CallSpan:
        """The span of an earlier process's call that nobody has come for: it is its wave's child."""
        span = self.begin()
        return self.calls.begin(
            member.line.request,
            self._waves.backend,
            {
                "heartloop.lane": self._waves.lane.name,
                "heartloop.role": member.role,
                "heartloop.try": member.reserve.attempt,
                "heartloop.hedge": False,
                "heartloop.reserved_tokens": member.reserve.tokens,
                "heartloop.wave.id": self.id,
                "heartloop.wave.resumed": True,
            },
            inside=trace.set_span_in_context(span),
            start_time=self._started,
            batched=True,
        )


def traced_flights(calls: Calls, run: Span, flying: set[TracedFlight]) -> type[WaveFlight]:
    """Flights whose spans are children of ``run``; those whose span is open are in ``flying``."""
    return type("TracedFlight", (TracedFlight,), {"calls": calls, "run": run, "flying": flying})
