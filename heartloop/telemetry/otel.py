"""Spans and metrics of engines. Imports OpenTelemetry; :mod:`heartloop.telemetry` imports this when told to.

::

    heartloop.run                        an engine, from its making to its gateway's end
    ├── invoke_workflow STRATEGY         a problem
    │   └── heartloop.attempt            an attempt: round, branch, cue
    │       └── chat MODEL               one request to a backend; retries and hedges are further ones
    └── heartloop.wave                   a batch of calls, linked with each of them

A problem that is solved inside somebody else's span (a web request's) is that span's child, with a link to
the run's. Of an error there is the class: messages may quote prompts, or what a server said of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Link, Span, TracerProvider

from heartloop import __version__
from heartloop.engine.events import AttemptJudged, LoopEvent, ProblemSolved
from heartloop.telemetry.calls import Calls, failed, traced_tries
from heartloop.telemetry.names import DURATION_BUCKETS, SCHEMA_URL, TOKEN_BUCKETS
from heartloop.telemetry.requests import SERVING, Tell, answering
from heartloop.telemetry.waves import TracedFlight, traced_flights
from heartloop.types import Attempt, Cue, Problem, StopReason, Verdict

if TYPE_CHECKING:
    from heartloop.engine.engine import Engine
    from heartloop.engine.solving import Arm
    from heartloop.responders.base import Responder

__all__ = ["Telemetry"]

_SCOPE = "heartloop"
_LOOKS = 5
"""How often a gauge is looked at that changes meanwhile."""

Look: TypeAlias = Callable[["Engine"], Iterator[Observation]]


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
        self.tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider, SCHEMA_URL)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider, SCHEMA_URL)
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
        self.first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Seconds until an answer that is streamed began to come.",
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
        self._looks: list[Look] = []
        self._last: dict[Look, list[Observation]] = {}
        self._observe(meter)

    def __call__(self, engine: Engine) -> EngineWatch:
        self._engines.add(engine)
        return EngineWatch(self, engine)

    def forget(self, engine: Engine) -> None:
        self._engines.discard(engine)
        self._last = {look: list(look(engine)) for look in self._looks}

    def _observe(self, meter: metrics.Meter) -> None:
        """Gauges: read when somebody collects, by no call."""

        def callback(look: Look) -> Any:
            self._looks.append(look)

            def observe(options: CallbackOptions) -> Iterable[Observation]:
                for _ in range(_LOOKS):
                    # An exporter's thread looks while the loop works: what it walks through may change.
                    with suppress(RuntimeError):
                        if engines := list(self._engines):
                            return [seen for engine in engines for seen in look(engine)]
                        # A run may be over before anybody looks: what the last one came to stays to be seen.
                        return self._last.get(look, [])
                return []

            return [observe]

        def in_flight(engine: Engine) -> Iterator[Observation]:
            yield Observation(engine.gateway.in_flight)

        def in_waves(engine: Engine) -> Iterator[Observation]:
            if engine.gateway.waves:
                out = engine.gateway.waves_out()
                yield Observation(out.collected, {"heartloop.wave.state": "collected"})
                yield Observation(out.calls, {"heartloop.wave.state": "out"})

        def waiting(engine: Engine) -> Iterator[Observation]:
            for name, lane in engine.gateway.lanes.items():
                yield Observation(lane.waiting, {"heartloop.lane": name})

        def spent(what: str) -> Look:
            def look(engine: Engine) -> Iterator[Observation]:
                run = engine.ledger.run
                amounts = {"confirmed": run.confirmed, "assumed": run.assumed, "reserved": run.open}
                for state, amount in amounts.items():
                    if (value := getattr(amount, what)) is not None:
                        yield Observation(value, {"heartloop.budget.state": state})

            return look

        def limit(what: str) -> Look:
            def look(engine: Engine) -> Iterator[Observation]:
                if (value := getattr(engine.ledger.run.budget, what)) is not None:
                    yield Observation(value)

            return look

        gauge = meter.create_observable_gauge
        gauge("heartloop.calls.in_flight", callback(in_flight), "{call}", "Calls sent and not answered.")
        gauge(
            "heartloop.calls.in_waves",
            callback(in_waves),
            "{call}",
            "Calls in waves or waiting for one.",
        )
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
        calls = Calls(telemetry)
        self.tries = traced_tries(calls)
        self._flying: set[TracedFlight] = set()
        self.flights = traced_flights(calls, self.run, self._flying)
        self._arm: Arm | None = None
        self._traced_arm: Arm
        engine.observers.append(self._seen)

    @contextmanager
    def problem(self, problem: Problem, arm: Arm) -> Iterator[Arm]:
        current = trace.get_current_span().get_span_context()
        # Somebody's span, if it is not the one that the whole run stands in.
        own = not current.is_valid or current.span_id == self._outer.span_id
        name = arm.strategy.name
        with _Current(
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
            yield self._traced(arm)

    def _traced(self, arm: Arm) -> Arm:
        if arm is not self._arm:  # most runs have one
            self._arm = arm
            self._traced_arm = replace(arm, responder=_TracedResponder(self.telemetry, arm.responder))
        return self._traced_arm

    def request(
        self, method: str, path: str, route: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[Tell]:
        return answering(self.telemetry.tracer, method, path, route, headers)

    def _seen(self, event: LoopEvent) -> None:
        # Told in the task that solves the problem, so the current span is the problem's.
        if isinstance(event, AttemptJudged):
            span = trace.get_current_span()
            span.add_event("heartloop.verdict", _verdict(event.attempt.verdict, event.attempt))
        elif isinstance(event, ProblemSolved):
            span, solution = trace.get_current_span(), event.solution
            outcome: dict[str, Any] = {"heartloop.stop_reason": solution.stop_reason.value}
            if solution.correct is not None:
                outcome["heartloop.correct"] = solution.correct
            # A server has an arm for each request: no name for a metric.
            arm = {} if SERVING.get() else {"heartloop.arm": event.arm}
            self.telemetry.problems.add(1, {**outcome, **arm})
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
                failed(span, (solution.error or "").partition(":")[0] or "_OTHER")

    def closed(self) -> None:
        self.telemetry.forget(self._engine)
        for flight in list(self._flying):
            flight.close()
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
        with _Current(self._tracer, "heartloop.attempt", attributes=attributes) as span:
            attempt = await self._inner.respond(problem, history, session, **told)
            span.set_attribute("heartloop.answered", attempt.answer is not None)
            return attempt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Current:
    """A span that is current while this is entered, and in an error says the error's class alone.

    By hand, since a generator within the API's own generators took a fifth of a span's time.
    """

    __slots__ = ("_settings", "_token", "_tracer", "span")

    def __init__(self, tracer: trace.Tracer, name: str, **settings: Any) -> None:
        self._tracer, self._settings = tracer, {"name": name, **settings}

    def __enter__(self) -> Span:
        self.span = self._tracer.start_span(**self._settings)
        self._token = context.attach(trace.set_span_in_context(self.span))
        return self.span

    def __exit__(self, kind: object, error: BaseException | None, trail: object) -> None:
        context.detach(self._token)
        if error is not None:
            failed(self.span, error)
        self.span.end()


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
