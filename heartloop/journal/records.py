"""What a journal holds: events, reservations with their settlements, and results.

An *event* is something a strategy has seen: a completion, a failure, a decision or a verdict, under a key
that a second run of the same code reaches again. A *reservation* is the worst case of one request, made
before it leaves; its *settlement* says what it came to. A *result* is what a problem ended with. A *wave*
is a batch of requests that left together, and may be at the server longer than this process lives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from heartloop.types import Usage

__all__ = [
    "Charge",
    "Event",
    "EventKey",
    "PendingCall",
    "Record",
    "Reserve",
    "Result",
    "ResultStatus",
    "Settle",
    "SettledState",
    "Totals",
    "Wave",
    "WaveCall",
    "WaveState",
]

SettledState: TypeAlias = Literal["confirmed", "assumed", "released"]
ResultStatus: TypeAlias = Literal["done", "budget", "failed"]
WaveState: TypeAlias = Literal["made", "creating", "sent", "ended"]


@dataclass(slots=True, unsafe_hash=True)
class EventKey:
    """Where in a run something happened: the same place in every replay.

    Attributes:
        arm: the arm of the comparison (a strategy with its settings), or a scope that arms share.
        problem: the problem's id.
        branch: the session's branch, ``"0"``, ``"0.1"``, ...
        kind: ``"completion"``, ``"failure"``, ``"decision"`` or ``"verdict"``. A failure has the key of
            the completion that failed, but for its kind.
        ordinal: counts the events of that branch.
    """

    arm: str
    problem: str
    branch: str
    kind: str
    ordinal: int


@dataclass(slots=True, unsafe_hash=True)
class Event:
    """One thing that happened.

    Attributes:
        fingerprint: of the request behind it, to notice that a replay asks something else.
        data: JSON-ready; infinities and NaN are stored as null.
        seq: its place in the journal's order; set when it is read.
        at: Unix time in seconds; set when it is written.
    """

    key: EventKey
    fingerprint: str
    data: dict[str, Any]
    seq: int = 0
    at: float = 0.0


@dataclass(slots=True, unsafe_hash=True)
class Reserve:
    """The worst case of one request, open until a :class:`Settle` of the same id.

    Attributes:
        id: unique in the journal; the first free one is ``Journal.next_reservation_id()``.
        key: of the completion it is for.
        attempt: 1 for the first try of that completion.
        model: as the backend calls it.
        tokens: prompt and completion tokens together, at most; prompt_tokens: the prompt's part of them.
        usd: None where the price is unknown.
        lane: as the run calls the model (the name that its own budget goes by).
    """

    id: int
    key: EventKey
    attempt: int
    model: str
    tokens: int
    usd: float | None
    prompt_tokens: int = 0
    lane: str = ""


@dataclass(slots=True, unsafe_hash=True)
class Settle:
    """What a reservation came to. A later one of the same id replaces it.

    Attributes:
        state: ``"confirmed"`` (usage known), ``"assumed"`` (may have been billed without an answer,
            charged in full), ``"released"`` (nothing was spent).
        usage: None where it is not known.
        tokens, usd, calls: what is charged.
        reason: for a person to read.
    """

    id: int
    state: SettledState
    usage: Usage | None
    tokens: int
    usd: float | None
    reason: str = ""
    calls: int = 1


@dataclass(slots=True, unsafe_hash=True)
class Result:
    """What a problem of one arm ended with. A later one replaces it (a finished run was extended)."""

    arm: str
    problem: str
    status: ResultStatus
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wave:
    """A batch of requests. A later one of the same id replaces it; with ``"ended"`` its calls are forgotten.

    Attributes:
        id: HeartLoop's own, told to the server with the batch.
        lane: as the run calls the model; ``model``: as the backend calls it.
        state: ``"made"`` (the server can't know of it yet), ``"creating"`` (it may), ``"sent"`` (it does, as
            ``ref``), ``"ended"``.
        ref: the server's name for it.
        data: what the backend wants to find it by; ``made``: Unix time.
    """

    id: str
    lane: str
    model: str
    state: WaveState
    ref: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WaveCall:
    """One request of a wave. A later one of the same reservation replaces it (moved to another wave).

    Attributes:
        reservation: id of its reservation, whose key is the call's.
        data: ``request``, and ``role`` where it is not the generator's: what its completion is recorded with.
    """

    reservation: int
    wave: str
    fingerprint: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call of a wave that has not ended, with its reservation, as read back from a journal."""

    call: WaveCall
    reserve: Reserve


Record: TypeAlias = Event | Reserve | Settle | Result | Wave | WaveCall


@dataclass(frozen=True, slots=True)
class Charge:
    """A sum over reservations. ``usd`` is None as soon as one of them has no known price.

    ``usage`` counts the reserved worst case where an answer's own is not known (open and assumed ones).
    """

    tokens: int = 0
    calls: int = 0
    usd: float | None = 0.0
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Totals:
    """All reservations, summed by state; the open ones count as one call and in full."""

    confirmed: Charge = field(default_factory=Charge)
    assumed: Charge = field(default_factory=Charge)
    open: Charge = field(default_factory=Charge)
    released: Charge = field(default_factory=Charge)
