"""What an engine at work looks like at a moment: plain figures, for whoever shows them.

Everything here only reads, from the event loop that the engine works on, and takes some tens of
microseconds: a sample now and then costs the calls nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heartloop.backends.replica import Replica
from heartloop.engine.rates import Window
from heartloop.engine.waves import WavesOut
from heartloop.types import Budget, Spend

if TYPE_CHECKING:
    from heartloop.engine.dispatch import Lane
    from heartloop.engine.engine import Engine
    from heartloop.engine.ledger import Account

__all__ = ["AccountGauges", "EngineGauges", "LaneGauges", "account_gauges", "gauges_of"]


@dataclass(frozen=True, slots=True)
class AccountGauges:
    """One budget, and what counts against it.

    Attributes:
        confirmed, assumed: spent; reserved: worst cases of the calls that are out.
        seconds: since the account was opened, earlier processes included.
    """

    name: str
    budget: Budget
    confirmed: Spend
    assumed: Spend
    reserved: Spend
    seconds: float


@dataclass(frozen=True, slots=True)
class LaneGauges:
    """One model's queue and its limits.

    Attributes:
        name: as the run calls the model (its role); model: as the backend does.
        in_flight: calls that hold a slot; waiting: calls in the queue.
        allowed: calls at once, just now; limit: at most.
        paused: seconds until calls may leave again (a Retry-After, a server that is away), 0 when not paused.
        requests_per_minute, tokens_per_minute: as the run was told; None: no limit of ours.
        tokens_ready: tokens that may leave at once under ``tokens_per_minute``; below 0: owed.
        windows: what the server said is left until its own limits reset.
        server: calls running and waiting at the server, as it said itself; None where it does not.
        replicas: of a set of servers; empty for a single one.
        waves: of a model that is called by the batch.
        account: of a model that has a budget of its own.
    """

    name: str
    model: str
    in_flight: int
    waiting: int
    allowed: int
    limit: int
    adaptive: bool
    paused: float
    requests_per_minute: float | None
    tokens_per_minute: float | None
    tokens_ready: float | None
    windows: tuple[Window, ...]
    server: tuple[int, int] | None
    replicas: tuple[Replica, ...]
    waves: WavesOut | None
    account: AccountGauges | None


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """All of it.

    Attributes:
        in_flight: calls that were sent, batches apart.
        account: the run's; arms: of each arm that has limits, by its name, with what it shares in full.
    """

    in_flight: int
    account: AccountGauges
    arms: tuple[AccountGauges, ...]
    lanes: tuple[LaneGauges, ...]
    waves: WavesOut


def gauges_of(engine: Engine) -> EngineGauges:
    """How ``engine`` is now. Call it from the engine's event loop."""
    gateway = engine.gateway
    return EngineGauges(
        in_flight=gateway.in_flight,
        account=account_gauges(engine.ledger.run),
        arms=tuple(
            replace(account_gauges(account), name=arm) for arm, account in engine.arm_accounts.items()
        ),
        lanes=tuple(_lane_gauges(lane) for lane in gateway.lanes.values()),
        waves=gateway.waves_out(),
    )


def account_gauges(account: Account) -> AccountGauges:
    """How ``account`` is now."""
    return AccountGauges(
        name=account.name,
        budget=account.budget,
        confirmed=account.confirmed,
        assumed=account.assumed,
        reserved=account.open,
        seconds=account.elapsed,
    )


def _lane_gauges(lane: Lane) -> LaneGauges:
    limiter, rates = lane.limiter, lane.rates
    replicas: tuple[Replica, ...] = getattr(lane.backend, "replicas", ())
    return LaneGauges(
        name=lane.name,
        model=lane.backend.name,
        in_flight=limiter.running,
        waiting=lane.waiting,
        allowed=limiter.allowed,
        limit=limiter.limit,
        adaptive=limiter.adaptive,
        paused=max(limiter.paused_for(), lane.breaker.wait),
        requests_per_minute=lane.requests_per_minute,
        tokens_per_minute=lane.tokens_per_minute,
        tokens_ready=None if rates is None else rates.ready,
        windows=() if rates is None else rates.windows(),
        server=lane.server_queue(),
        replicas=replicas,
        waves=None if lane.waves is None else lane.waves.out(),
        account=account_gauges(lane.account) if lane.accounts else None,
    )
