"""Waves: calls that leave together, to a backend that takes them by the batch.

A call comes here with its reservation and waits in the wave that is being collected. The wave leaves when
every active strategy is blocked (:mod:`heartloop.engine.strands`), when it is full, or when its first call
has waited for ``wave_seconds``. There is no limit on how many are at the server at once, no time limit on
any and no hedge; the ledger's reservation was made before a call came here.

A call that was sent belongs to the journal, not to who waits for it: its answer is recorded and charged
when it comes, whether anybody still waits (a strategy may have been cancelled, or its process killed). Who
asks for the same call later finds it with :meth:`Waves.claim`. :mod:`heartloop.engine.wave_flight` has a
wave's way to the server and back.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from heartloop.backends.waves import TakesWaves, WaveLine
from heartloop.engine.ledger import Account, Ledger, Reservation, exhausted
from heartloop.engine.retry import RetryPolicy
from heartloop.engine.serial import request_from_dict
from heartloop.engine.strands import Activity, blocked
from heartloop.engine.wave_call import Member
from heartloop.engine.wave_flight import WaveFlight
from heartloop.errors import BadRequest, HeartLoopError, ReplayMismatch
from heartloop.journal.base import Journal, NullJournal
from heartloop.journal.records import EventKey, PendingCall, Reserve, Wave
from heartloop.types import Completion, Spend

if TYPE_CHECKING:
    from heartloop.engine.dispatch import Lane
    from heartloop.engine.tries import Call

__all__ = ["Waves", "WavesOut", "line_id"]

logger = logging.getLogger(__name__)

SETTLE_DOWN_SECONDS = 30.0
"""How long a run that is told to end waits for a wave on its way to the server."""
LANDING_SECONDS = 5.0
"""How long a run that ends waits for a wave whose calls are all answered."""
FIRST_AGAIN, LAST_AGAIN = 30.0, 600.0
"""Seconds until a wave that was too much is tried again: the first time, and later at most."""
MOST_WAITS = 150
"""How often a single call is tried that is too much by itself: a day, about."""


@dataclass(frozen=True, slots=True)
class WavesOut:
    """Calls that wait for a wave to leave; waves at the server, their calls, and how many it has run."""

    collected: int = 0
    waves: int = 0
    calls: int = 0
    done: int = 0

    def __add__(self, other: WavesOut) -> WavesOut:
        return WavesOut(
            self.collected + other.collected,
            self.waves + other.waves,
            self.calls + other.calls,
            self.done + other.done,
        )


def line_id(key: EventKey) -> str:
    """A call's id within its wave: a hash of its key, so that the server is told nothing of the run."""
    text = "\0".join((key.arm, key.problem, key.branch, key.kind, str(key.ordinal)))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Waves:
    """The waves of one lane. Used from one event loop."""

    def __init__(
        self, lane: Lane, backend: TakesWaves, *, ledger: Ledger, journal: Journal, retry: RetryPolicy
    ) -> None:
        self.lane = lane
        self.backend = backend
        self.ledger = ledger
        self.journal = journal
        self.retry = retry
        self.activity: Activity | None = None
        self.most = self.largest = min(backend.wave_calls, lane.wave_size or backend.wave_calls)
        self.flight: type[WaveFlight] = WaveFlight
        self.flights: set[WaveFlight] = set()
        self.crowded = False
        self.turn = asyncio.Lock()
        self._collected: list[Member] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sent: dict[EventKey, Member] = {}
        self._of_problem: dict[tuple[str, str], set[EventKey]] = {}
        self._tasks: dict[WaveFlight, asyncio.Task[None]] = {}
        self.stopped = False

    # --- calls ----------------------------------------------------------------------------------------------

    def claim(self, key: EventKey, fingerprint: str) -> Member | None:
        """The call of that key which is in a wave already, if there is one.

        Raises:
            ReplayMismatch: something else was asked there.
        """
        member = self._sent.get(key)
        if member is not None and member.fingerprint != fingerprint:
            raise ReplayMismatch(
                f"problem {key.problem!r}: completion number {key.ordinal} on branch {key.branch!r} is in a "
                "batch at the server, and differs from the one made now. Prompts, settings, data or code "
                "have changed since the run began: resume with the old ones, or start a new run in another "
                "folder."
            )
        return member

    def join(self, call: Call, reservation: Reservation, reserve: Reserve) -> Member:
        """Add a call to the wave that is being collected.

        Raises:
            BadRequest: it can't be sent; its reservation is released.
        """
        id = line_id(reserve.key)
        try:
            line = WaveLine(id, call.request, self.backend.wave_line(id, call.request))
            if len(line.line) > self.backend.wave_bytes:
                raise BadRequest(
                    f"the request has {len(line.line):,} bytes, more than a whole batch may have"
                )
        except HeartLoopError:
            self.ledger.settle(reservation, "released")
            raise
        if self._bytes + len(line.line) > self.backend.wave_bytes or len(self._collected) >= self.most:
            self.send()
        answer: asyncio.Future[Completion | BaseException | None] = asyncio.get_running_loop().create_future()
        member = Member(call.fingerprint, call.role, reservation, reserve, line, answer)
        self._collected.append(member)
        self._bytes += len(line.line)
        if len(self._collected) >= self.most:
            self.send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.lane.wave_seconds, self.send)
        if self.activity is not None:
            self.activity.look()
        return member

    async def answer(self, member: Member) -> Completion:
        """Wait for a call's answer, however long, but not beyond a budget of seconds.

        Raises:
            BackendError: what became of it instead.
            BudgetExhausted: the seconds have passed. The call stays where it is.
        """
        member.waiters += 1
        answer = member.answer
        try:
            with blocked():
                while not answer.done() or answer.result() is None:
                    answer = member.answer
                    left = member.reservation.seconds_left()
                    if left is not None and left <= 0:
                        raise self._out_of_time(member.reservation)
                    await asyncio.wait([answer], timeout=None if left is None else left + 0.001)
        finally:
            member.waiters -= 1
            if not (member.sent or member.waiters or answer.done()):
                self._withdraw(member)
        if member.reservation.settled:
            self.drop(member)
        outcome = answer.result()
        if isinstance(outcome, Completion):
            return outcome
        assert outcome is not None
        raise copy.copy(outcome)  # one error may be the answer to thousands

    def look_again(self) -> None:
        """Limits have changed: whoever waits for an answer may have another time to wait until."""
        for member in [*self._collected, *self._sent.values()]:
            if member.waiters and not member.answer.done():
                member.wake()

    def _out_of_time(self, reservation: Reservation) -> Exception:
        late = next(a for a in reservation.accounts if (s := a.seconds_left) is not None and s <= 0)
        return exhausted(late, "seconds", reservation.cost)

    def _withdraw(self, member: Member) -> None:
        """Take a call that nobody waits for out of the wave that is being collected."""
        self._collected.remove(member)
        self._bytes -= len(member.line.line)
        self.ledger.settle(member.reservation, "released")
        self.lane.on_change()

    # --- waves ----------------------------------------------------------------------------------------------

    def send(self) -> None:
        """Let the wave go that has been collected, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._collected or self.stopped:
            return
        members, self._collected, self._bytes = self._collected, [], 0
        for member in members:
            member.sent = True
            self._track(member)
        self.begin(self.flight(self, uuid.uuid4().hex, members))

    def _track(self, member: Member) -> None:
        """From now on the call is the journal's, and can be claimed."""
        key = member.reserve.key
        self._sent[key] = member
        self._of_problem.setdefault((key.arm, key.problem), set()).add(key)

    def drop(self, member: Member) -> None:
        """Nobody need claim the call any more."""
        key = member.reserve.key
        if self._sent.get(key) is member:
            del self._sent[key]
            keys = self._of_problem[key.arm, key.problem]
            keys.discard(key)
            if not keys:
                del self._of_problem[key.arm, key.problem]

    def begin(self, flight: WaveFlight) -> None:
        """Look after a wave from now on."""
        self.flights.add(flight)
        task = self._tasks[flight] = asyncio.get_running_loop().create_task(flight.fly())
        task.add_done_callback(lambda _: self._landed(flight))

    def _landed(self, flight: WaveFlight) -> None:
        self._tasks.pop(flight, None)
        if flight.ended:
            self.flights.discard(flight)
        self.lane.on_change()

    # --- servers that have no room --------------------------------------------------------------------------

    def too_much(self, flight: WaveFlight, refusals: int) -> tuple[int, float]:
        """The server refused a wave for its size: how large its parts should be, and after how long.

        From now on waves go one after the other. One that was alone there is halved. The size is 0
        where nothing is left to try: a single call, for the :data:`MOST_WAITS`-th time.
        """
        self.crowded = True
        size = len(flight.members)
        alone = not any(other.ref and not other.ended for other in self.flights - {flight})
        if alone:
            if size == 1 and refusals >= MOST_WAITS:
                return 0, 0.0
            size = self.most = max(1, size // 2)
        return size, min(LAST_AGAIN, FIRST_AGAIN * 2.0 ** min(refusals - 1, 30))

    def took(self, flight: WaveFlight) -> None:
        """The server has run a wave: where room is short, it may take larger ones again."""
        if self.crowded:
            self.most = min(self.largest, 2 * self.most)

    # --- waves of earlier processes -------------------------------------------------------------------------

    def adopt(self, wave: Wave, calls: Sequence[PendingCall]) -> None:
        """Take over a wave that an earlier process made: its calls are open reservations of this one."""
        loop = asyncio.get_running_loop()
        members = []
        for pending in calls:
            reserve, data = pending.reserve, pending.call.data
            cost = Spend(reserve.tokens, 1, reserve.usd)
            reservation = self.ledger.adopt(reserve.id, cost, self.lane.accounts)
            request, id = request_from_dict(data["request"]), line_id(reserve.key)
            line = WaveLine(id, request, b"" if wave.state == "sent" else self.backend.wave_line(id, request))
            role = str(data.get("role", "generator"))
            member = Member(
                *(pending.call.fingerprint, role, reservation, reserve, line, loop.create_future()),
                sent=True,
                number=int(data.get("line", 0)),
            )
            members.append(member)
            self._track(member)
        self.flights.add(self.flight(self, wave.id, members, recorded=wave))

    def start(self) -> None:
        """Go on with adopted waves that nobody looks after yet."""
        for flight in list(self.flights):
            if flight not in self._tasks and not flight.ended and not self.stopped:
                self.begin(flight)

    def attach(self, arm: str, problem: str, account: Account) -> None:
        """What is in waves for this problem counts on ``account`` too."""
        for key in self._of_problem.get((arm, problem), ()):
            self.ledger.join(self._sent[key].reservation, account)

    def attach_arm(self, arm: str, account: Account) -> None:
        """What is in waves for this arm counts on ``account`` too."""
        for key, member in self._sent.items():
            if key.arm == arm:
                self.ledger.join(member.reservation, account)

    def forget(self, arm: str, problem: str) -> None:
        """Drop answers that nobody came for: they are in the journal."""
        for key in list(self._of_problem.get((arm, problem), ())):
            if (member := self._sent[key]).answer.done():
                self.drop(member)

    def out(self) -> WavesOut:
        """See :class:`WavesOut`."""
        flying = [flight for flight in self.flights if not flight.ended]
        return WavesOut(
            len(self._collected),
            len(flying),
            sum(len(flight.members) for flight in flying),
            sum(flight.done for flight in flying),
        )

    # --- the end --------------------------------------------------------------------------------------------

    async def collect(self) -> None:
        """Look once after each wave, and take the results of those that have ended."""
        for flight in list(self.flights):
            task = self._tasks.pop(flight, None)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            with suppress(HeartLoopError):
                await flight.collect_if_ended()

    async def settle_down(self) -> None:
        """Send no more; returns when those on their way are at the server, or after half a minute."""
        self.stopped = True
        on_their_way = [flight.there.wait() for flight in self._tasks]
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_DOWN_SECONDS):
                await asyncio.gather(*on_their_way)

    async def aclose(self) -> None:
        """Let go of the waves; what is at the server goes on there, unless no journal remembers it."""
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
        # Everybody has an answer from these, and they are only about to say that they have ended.
        if landing := [task for flight, task in self._tasks.items() if not flight.members]:
            await asyncio.wait(landing, timeout=LANDING_SECONDS)
        flights, tasks = list(self.flights), list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in [*self._collected, *self._sent.values()]:
            member.answer.cancel()
        if isinstance(self.journal, NullJournal):
            for flight in flights:
                if flight.ref and not flight.ended:
                    logger.warning(
                        "the batch %s is cancelled: without a journal nobody could come back for it",
                        flight.ref,
                    )
                    with suppress(HeartLoopError, TimeoutError):
                        async with asyncio.timeout(5):
                            await self.backend.cancel(flight.ref)
