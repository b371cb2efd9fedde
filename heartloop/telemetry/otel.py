"""Spans and metrics of engines. Imports OpenTelemetry; :mod:`heartloop.telemetry` imports this when told to.

::

    heartloop.run                        an engine, from its making to its gateway's end
    └── invoke_workflow STRATEGY         a problem
        └── heartloop.attempt            an attempt: round, branch, cue
            └── chat MODEL               one request to a backend; retries and hedges are further ones

A problem that is solved inside somebody else's span (a web request's) is that span's child, with a link to
the run's. Of an error there is the class: messages may quote prompts, or what a server said of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider

from heartloop import __version__
from heartloop.engine.events import AttemptJudged, LoopEvent, ProblemSolved
from heartloop.engine.tries import Tries
from heartloop.errors import BackendError
from heartloop.telemetry.names import DURATION_BUCKETS, TOKEN_BUCKETS, answered, asked, provider_of
from heartloop.types import Attempt, Completion, Cue, Problem, StopReason, Verdict

if TYPE_CHECKING:
    from heartloop.engine.engine import Engine
    from heartloop.engine.hedge import Flight
    from heartloop.engine.ledger import Reservation
    from heartloop.engine.solving import Arm
    from heartloop.journal.records import Settle
    from heartloop.responders.base import Responder

__all__ = ["Telemetry"]

_SCOPE = "heartloop"


class Telemetry:
    """Makes the watch of each engine, and owns what they all record with."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        *,
        content: bool = False,
    ) -> None:
        self.content = content
        self.tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens of a call, by type.",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="Seconds of a call, from sending to its answer or failure.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self.queued = meter.create_histogram(
            "heartloop.queue.duration",
            unit="s",
            description="Seconds a call waited for a slot, the rate limits and the budget.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self.problems = meter.create_counter(
            "heartloop.problems", unit="{problem}", description="Problems that ended, by why and how."
        )
        self._engines: WeakSet[Engine] = WeakSet()
        self._observe(meter)

    def __call__(self, engine: Engine) -> EngineWatch:
        self._engines.add(engine)
        return EngineWatch(self, engine)

    def forget(self, engine: Engine) -> None:
        self._engines.discard(engine)

    def _observe(self, meter: metrics.Meter) -> None:
        """Gauges: read when somebody collects, by no call."""

        def callback(look: Callable[[Engine], Iterator[Observation]]) -> Any:
            def observe(options: CallbackOptions) -> Iterable[Observation]:
                return [seen for engine in list(self._engines) for seen in look(engine)]

            return [observe]

        def in_flight(engine: Engine) -> Iterator[Observation]:
            yield Observation(engine.gateway.in_flight)

        def waiting(engine: Engine) -> Iterator[Observation]:
            for name, lane in engine.gateway.lanes.items():
                yield Observation(lane.waiting, {"heartloop.lane": name})

        def spent(what: str) -> Callable[[Engine], Iterator[Observation]]:
            def look(engine: Engine) -> Iterator[Observation]:
                run = engine.ledger.run
                amounts = {"confirmed": run.confirmed, "assumed": run.assumed, "reserved": run.open}
                for state, amount in amounts.items():
                    if (value := getattr(amount, what)) is not None:
                        yield Observation(value, {"heartloop.budget.state": state})

            return look

        def limit(what: str) -> Callable[[Engine], Iterator[Observation]]:
            def look(engine: Engine) -> Iterator[Observation]:
                if (value := getattr(engine.ledger.run.budget, what)) is not None:
                    yield Observation(value)

            return look

        gauge = meter.create_observable_gauge
        gauge("heartloop.calls.in_flight", callback(in_flight), "{call}", "Calls sent and not answered.")
        gauge("heartloop.calls.waiting", callback(waiting), "{call}", "Calls in the queue of a model.")
        for what, unit in (("tokens", "{token}"), ("calls", "{call}"), ("usd", "{USD}")):
            gauge(f"heartloop.budget.{what}", callback(spent(what)), unit, "The run's spending, by state.")
            gauge(f"heartloop.budget.{what}.limit", callback(limit(what)), unit, "The run's limit.")


class EngineWatch:
    """One engine's spans; see :class:`~heartloop.engine.watch.Watch`."""

    def __init__(self, telemetry: Telemetry, engine: Engine) -> None:
        self.telemetry = telemetry
        self._engine = engine
        self._outer = trace.get_current_span().get_span_context()
        models = {lane.backend.name for lane in engine.gateway.lanes.values()}
        about = {"heartloop.models": sorted(models)}
        self.run = telemetry.tracer.start_span("heartloop.run", attributes=about)
        self.tries = _traced(telemetry)
        engine.observers.append(self._seen)

    @contextmanager
    def problem(self, problem: Problem, arm: Arm) -> Iterator[Arm]:
        current = trace.get_current_span().get_span_context()
        # Somebody's span, if it is not the one that the whole run stands in.
        own = not current.is_valid or current.span_id == self._outer.span_id
        name = arm.strategy.name
        with _current(
            self.telemetry.tracer,
            f"invoke_workflow {name}",
            context=trace.set_span_in_context(self.run) if own else None,
            links=None if own else [Link(self.run.get_span_context())],
            attributes={
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": name,
                "heartloop.problem.id": problem.id,
                "heartloop.arm": arm.name,
                "heartloop.judge": arm.judge.name,
            },
        ):
            yield replace(arm, responder=_TracedResponder(self.telemetry, arm.responder))

    def _seen(self, event: LoopEvent) -> None:
        # Told in the task that solves the problem, so the current span is the problem's.
        span = trace.get_current_span()
        if isinstance(event, AttemptJudged):
            span.add_event("heartloop.verdict", _verdict(event.attempt.verdict, event.attempt))
        elif isinstance(event, ProblemSolved):
            solution = event.solution
            outcome: dict[str, Any] = {"heartloop.stop_reason": solution.stop_reason.value}
            if solution.correct is not None:
                outcome["heartloop.correct"] = solution.correct
            self.telemetry.problems.add(1, {**outcome, "heartloop.arm": event.arm})
            span.set_attributes(
                {
                    **outcome,
                    "heartloop.attempts": len(solution.attempts),
                    "heartloop.calls": solution.calls,
                    "gen_ai.usage.input_tokens": solution.usage.prompt_tokens,
                    "gen_ai.usage.output_tokens": solution.usage.completion_tokens,
                }
            )
            if solution.stop_reason is StopReason.FAILED:
                span.set_status(Status(StatusCode.ERROR, (solution.error or "").partition(":")[0]))

    def closed(self) -> None:
        self.telemetry.forget(self._engine)
        self.run.end()


class _TracedResponder:
    """A responder with a span around each attempt."""

    def __init__(self, telemetry: Telemetry, inner: Responder) -> None:
        self._tracer, self._inner = telemetry.tracer, inner

    async def respond(self, problem: Problem, history: Any, session: Any, **told: Any) -> Attempt:
        attributes: dict[str, Any] = {
            "heartloop.round": told["round"],
            "heartloop.branch": session.branch_name,
            **_cue(told["cue"]),
        }
        with _current(self._tracer, "heartloop.attempt", attributes=attributes) as span:
            attempt = await self._inner.respond(problem, history, session, **told)
            span.set_attribute("heartloop.answered", attempt.answer is not None)
            return attempt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _traced(telemetry: Telemetry) -> type[Tries]:
    """The gateway's tries, with a span and the metrics of each."""

    class TracedTries(Tries):
        queued_at = 0.0
        inside: context.Context | None = None

        async def once(self) -> Completion:
            self.queued_at = time.perf_counter()
            # A hedge is begun by a timer, or by whichever call ended then: not in this call's context.
            self.inside = context.get_current()
            return await super().once()

        async def _attempt(
            self, reservation: Reservation, flight: Flight | None = None, *, hedge: bool = False
        ) -> tuple[Completion, Settle]:
            call, backend = self.call, self.lane.backend
            common = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": provider_of(backend),
                "gen_ai.request.model": call.request.model,
            }
            begun = time.perf_counter()
            if not hedge:
                telemetry.queued.record(begun - self.queued_at, {"heartloop.lane": call.lane})
            span = telemetry.tracer.start_span(
                f"chat {call.request.model}", self.inside, kind=SpanKind.CLIENT, attributes=common
            )
            if span.is_recording():
                span.set_attributes(asked(call.request, backend, content=telemetry.content))
                span.set_attributes(
                    {
                        "heartloop.role": call.role,
                        "heartloop.try": self.made + 1,
                        "heartloop.hedge": hedge,
                        "heartloop.reserved_tokens": self.cost.tokens,
                        "heartloop.queued_s": begun - self.queued_at,
                    }
                )
            try:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    completion, settle = await super()._attempt(reservation, flight, hedge=hedge)
            except BaseException as error:
                _failed(span, error)
                ended = {**common, "error.type": type(error).__name__}
                telemetry.duration.record(time.perf_counter() - begun, ended)
                raise
            else:
                if span.is_recording():
                    span.set_attributes(answered(completion, content=telemetry.content))
                ended = {**common, "gen_ai.response.model": completion.model or call.request.model}
                telemetry.duration.record(completion.seconds, ended)
                if (usage := completion.usage) is not None:
                    telemetry.tokens.record(usage.prompt_tokens, {**ended, "gen_ai.token.type": "input"})
                    telemetry.tokens.record(usage.completion_tokens, {**ended, "gen_ai.token.type": "output"})
                return completion, settle
            finally:
                span.end()

    return TracedTries


@contextmanager
def _current(tracer: trace.Tracer, name: str, **settings: Any) -> Iterator[Span]:
    """A span that is current, and in an error says the error's class alone."""
    with tracer.start_as_current_span(
        name, record_exception=False, set_status_on_exception=False, **settings
    ) as span:
        try:
            yield span
        except BaseException as error:
            _failed(span, error)
            raise


def _failed(span: Span, error: BaseException) -> None:
    name = type(error).__name__
    span.set_attribute("error.type", name)
    if isinstance(error, BackendError) and error.status is not None:
        span.set_attribute("http.response.status_code", error.status)
    span.set_status(Status(StatusCode.ERROR, name))


def _cue(cue: Cue | None) -> Mapping[str, Any]:
    if cue is None:
        return {}
    said: dict[str, Any] = {"heartloop.cue.id": cue.id, "heartloop.cue.affective": cue.affective}
    if cue.emotion is not None:
        said["heartloop.cue.emotion"] = cue.emotion.value
    return said


def _verdict(verdict: Verdict | None, attempt: Attempt) -> Mapping[str, Any]:
    said: dict[str, Any] = {"heartloop.round": attempt.round, "heartloop.branch": attempt.branch}
    if verdict is not None:
        said["heartloop.verdict.method"] = verdict.method
        if verdict.correct is not None:
            said["heartloop.correct"] = verdict.correct
        if verdict.score is not None:
            said["heartloop.verdict.score"] = verdict.score
    return said
