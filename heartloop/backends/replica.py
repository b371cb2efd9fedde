"""One replica of a set: what is kept of it, and what is shown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from heartloop.backends.base import Backend
from heartloop.backends.router import ReplicaState
from heartloop.backends.vllm_metrics import VllmMetrics
from heartloop.errors import BackendError

__all__ = ["Measured", "Member", "Probed", "Replica", "name_of"]


@runtime_checkable
class Probed(Protocol):
    """A backend that can say whether it is up; raises BackendError if not."""

    async def probe(self) -> None: ...


@runtime_checkable
class Measured(Protocol):
    """A backend that shows vLLM's gauges."""

    async def metrics(self) -> VllmMetrics: ...


@dataclass(frozen=True, slots=True)
class Replica:
    """How a replica was when it was asked after.

    Attributes:
        up: whether calls go there.
        in_flight: calls of ours that it has not answered.
        running, waiting: what it said of itself when last polled, others' calls included; None if never.
        queue: the estimate that routing goes by, in generated tokens' worth of work.
        calls, failures: answered, and failed (cancelled ones are neither).
        error: what took it out, while it is out.
    """

    name: str
    up: bool
    in_flight: int
    running: int | None
    waiting: int | None
    queue: float
    calls: int
    failures: int
    error: str | None


@dataclass(slots=True, eq=False)
class Member:
    """A replica as the set keeps it."""

    backend: Backend
    name: str
    index: int
    state: ReplicaState = field(default_factory=ReplicaState)
    units: float = 0.0  # of the calls in flight, as expected
    started: int = 0
    calls: int = 0
    failed: int = 0
    in_a_row: int = 0
    error: BackendError | None = None
    back_at: float = 0.0  # when the next call may try it, for those that can't be probed
    out_for: float = 0.0
    tried_at: float = 0.0
    out_from: int = 0  # the last call begun before it was taken out
    seen: VllmMetrics | None = None
    seen_at: float = 0.0
    others: int = 0  # calls there that are not ours
    unmeasured: int = 0
    polled: bool = False
    prober: asyncio.Task[None] | None = None
    refused_at: float | None = None  # when it last began to refuse connections
    flights: dict[asyncio.Timeout, float] = field(default_factory=dict)  # calls in flight: when they began


def name_of(backend: Backend, index: int) -> str:
    """What a replica is called in logs and errors: its address, or its model and place."""
    address = getattr(backend, "address", None)
    return f"{backend.name}#{index + 1}" if address is None else str(address.shown)
