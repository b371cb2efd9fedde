"""One wave's way to the server and back, with what a kill -9 can cut in two.

Order of commits:

1. reservations, wave ``made``, calls: nothing has left; resume sends it;
2. wave ``creating``, with what it can be found by: the server may have it; resume looks for it there, and
   sends it only if it is not;
3. wave ``sent``, with the server's name for it: resume asks after it;
4. for each answer its event and its settlement, in one transaction;
5. wave ``ended``.

Whoever is killed in between finds the wave in the journal, its unsettled calls as open reservations, and
goes on from there. Looking after a wave never gives up: what is at the server is paid for, and servers
come back.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from heartloop.backends.waves import Outcome, WaveLook
from heartloop.confidence import summed_up
from heartloop.engine.outcomes import answered, failed, settlement, spent
from heartloop.engine.serial import request_to_dict
from heartloop.engine.wave_call import Member
from heartloop.errors import (
    BackendError,
    BackendUnreachable,
    BadRequest,
    BadResponse,
    BatchEnded,
    ConnectionFailed,
    HeartLoopError,
    QuotaExceeded,
    RetryableError,
)
from heartloop.journal.records import Record, Settle, Wave, WaveCall, WaveState
from heartloop.types import Completion

if TYPE_CHECKING:
    from heartloop.engine.waves import Waves

__all__ = ["WaveFlight"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK = 512
"""Answers in one transaction."""
LOOKUPS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each look for a wave that may be at the server: it may not be listed at once."""
LONGEST_WAIT = 60.0
"""Seconds between two tries to reach a server that has the wave."""
MOST_REFUSALS = 8
"""How often a wave that the server would not begin with is sent again without the lines it did not like."""


class WaveFlight:
    """One wave, from its record to its end.

    Attributes:
        members: calls without an outcome so far, by the line's id.
        ref: the server's name for it, "" before it has one.
        there: not set while it is on its way to the server.
        resumed: an earlier process made it.
        ended: there is nothing more to do for it.
        done: calls that the server has run, as last known.
    """

    def __init__(
        self,
        waves: Waves,
        id: str,
        members: Sequence[Member],
        *,
        recorded: Wave | None = None,
        refusals: int = 0,
        wait: float = 0.0,
    ) -> None:
        """
        Args:
            recorded: it is in the journal already (with ``members``), as that.
            refusals: how many waves its calls were in that the server would not take.
            wait: seconds until it is sent.
        """
        self.id = id
        self.members = {member.line.id: member for member in members}
        self.ref = "" if recorded is None else recorded.ref
        self.resumed = recorded is not None
        self.ended = False
        self.done = 0
        self._waves = waves
        self._state: WaveState | None = None if recorded is None else recorded.state
        self._data: dict[str, Any] = {"made": time.time()} if recorded is None else dict(recorded.data)
        self._refusals = refusals
        self._wait = wait
        self._began = time.monotonic()
        self.there = asyncio.Event()
        self.there.set()
        if recorded is None:
            for number, member in enumerate(members):
                member.number = number

    # --- the way --------------------------------------------------------------------------------------------

    async def fly(self) -> None:
        """All of it; what goes wrong for good is told to whoever waits."""
        try:
            if self._state is None:
                await self._record()
            if self._state == "sent":
                await self._land(await self._follow())
            elif self._waves.crowded:
                async with self._waves.turn:
                    await self._go()
            else:
                await self._go()
        except Exception as error:
            if not isinstance(error, HeartLoopError):
                logger.exception("the batch %s broke", self.ref or self.id)
            self._put_off(error)

    def _put_off(self, error: Exception) -> None:
        # Its record stays: who asks for one of its calls later, here or in another process, may get it.
        for member in self.members.values():
            member.fail_for_now(error)

    def _became(self, state: WaveState) -> None:
        """Its record says so now."""
        self._state = state
        self.ended = state == "ended"

    async def _go(self) -> None:
        """To the server and back; where the run is about to end, a later process does that."""
        await asyncio.sleep(self._wait)
        if self._waves.stopped:
            return
        if self._waves.crowded and len(self.members) > self._waves.most:
            await self._move(self._waves.most, 0.0)
        elif await self._send():
            await self._land(await self._follow())

    async def collect_if_ended(self) -> None:
        """Look once, and land if it has ended."""
        if self._state == "sent":
            look = await self._waves.backend.look(self.ref)
            if look.ended:
                await self._land(look)

    async def _record(self) -> None:
        reserves = [member.reserve for member in self.members.values()]
        try:
            await self._waves.journal.write(*reserves, *self.records())
        except BaseException:
            for member in self.members.values():
                self._waves.ledger.settle(member.reservation, "released")
            raise
        self._became("made")

    async def _send(self) -> bool:
        """Have it at the server. False where the server would not have it, and everybody was told."""
        self.there.clear()
        try:
            return await self._submit()
        finally:
            self.there.set()

    async def _submit(self) -> bool:
        backend, tries = self._waves.backend, 0
        lines = [member.line for member in sorted(self.members.values(), key=lambda member: member.number)]
        while True:
            if self._state == "creating":
                found = await self._persevere(self._find, "look for")
                if found is not None:
                    self.ref = found
                    break
            try:
                self.ref = await backend.submit(self.id, lines, self._note)
                break
            except RetryableError as error:
                tries += 1
                if self._state == "creating":
                    logger.warning("batch %s: %s; looking whether the server has it", self.id, error)
                if tries >= self._waves.retry.attempts:
                    found = None
                    if self._state == "creating":
                        found = await self._persevere(self._find, "look for")
                    if found is None:
                        await self._none_begun(error, tries)
                        return False
                    self.ref = found
                    break
                await asyncio.sleep(self._waves.retry.wait(tries, error))
            except BackendError as error:
                await self._none_begun(error, tries)
                return False
        self._waves.lane.reached = True
        await self._waves.journal.write(self._wave("sent"))
        self._became("sent")
        logger.info("a wave of %d calls is at the server as %s", len(self.members), self.ref)
        return True

    async def _note(self, data: Mapping[str, Any]) -> None:
        self._data |= data
        await self._waves.journal.write(self._wave("creating"))
        self._became("creating")

    async def _find(self) -> str | None:
        for seconds in LOOKUPS:
            await asyncio.sleep(seconds)
            if (found := await self._waves.backend.find(self.id, self._data)) is not None:
                return found
        return None

    async def _follow(self) -> WaveLook:
        """Ask after it until it has ended."""
        shortest, longest = self._waves.backend.poll_seconds
        while True:
            look = await self._persevere(lambda: self._waves.backend.look(self.ref), "ask after")
            self.done = look.done
            if look.ended:
                return look
            age = time.monotonic() - self._began
            await asyncio.sleep(min(longest, max(shortest, age / 10)))

    async def _persevere(self, work: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        failures = 0
        while True:
            try:
                return await work()
            except RetryableError as error:
                failures += 1
                if failures in (3, 10) or failures % 60 == 0:
                    logger.warning(
                        "can't %s the batch %s: %s; trying again", what, self.ref or self.id, error
                    )
                await asyncio.sleep(min(LONGEST_WAIT, self._waves.retry.wait(failures, error)))

    # --- the end --------------------------------------------------------------------------------------------

    async def _land(self, look: WaveLook) -> None:
        if look.refused is not None or look.refused_lines:
            await self._refused(look)
            return
        await self._persevere(self._take_results, "get the results of")
        self._waves.took(self)
        name = self.ref
        left: Outcome = (
            BatchEnded(f"the batch {name} ended before it came to this request")
            if look.cut
            else BadResponse(f"the batch {name} has no result for this request")
        )
        await self._deliver(dict.fromkeys(self.members.values(), left))
        await self._end()

    async def _take_results(self) -> None:
        chunk: dict[Member, Outcome] = {}
        async for id, outcome in self._waves.backend.results(self.ref):
            member = self.members.get(id)
            if member is None or member in chunk:
                continue  # settled earlier, or said twice
            chunk[member] = outcome
            if len(chunk) >= CHUNK:
                await self._deliver(chunk)
                chunk = {}
        await self._deliver(chunk)

    async def _deliver(
        self, outcomes: Mapping[Member, Outcome], *, calls: int = 1, more: Sequence[Record] = ()
    ) -> None:
        """Record and charge outcomes, then tell who waits. A failure that is not billed costs ``calls``.

        Being cancelled does not cut it in two: what is committed must not be delivered again.
        """
        work = asyncio.ensure_future(self._deliver_all(outcomes, calls, more))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    async def _deliver_all(
        self, outcomes: Mapping[Member, Outcome], calls: int, more: Sequence[Record]
    ) -> None:
        records: list[Record] = list(more)
        settles: dict[Member, Settle] = {}
        told: dict[Member, Completion | BaseException] = {}
        seconds = time.time() - float(self._data.get("made", time.time()))
        for member, outcome in outcomes.items():
            if isinstance(outcome, Completion):
                answer = summed_up(outcome, member.line.request.sampling)
                answer = replace(answer, seconds=max(0.0, seconds))
                told[member], settle = answer, settlement(member.reservation, answer, self._waves.lane.price)
                key, request = member.reserve.key, member.line.request
                records.append(answered(key, member.fingerprint, request, member.role, answer))
            else:
                told[member], settle = outcome, failed(member.reservation, outcome, calls)
            settles[member] = settle
            records.append(settle)
        if records:
            await self._waves.journal.write(*records)
        # The ledger is told last: an account that is opened meanwhile may count a call twice, but never not.
        for member, settle in settles.items():
            self._waves.ledger.settle(member.reservation, settle.state, spent(settle))
            self.members.pop(member.line.id, None)
        self._tell(told)
        self._waves.lane.on_change()

    def _tell(self, told: Mapping[Member, Completion | BaseException]) -> None:
        for member, outcome in told.items():
            if not member.answer.done():
                member.answer.set_result(outcome)
            if not member.waiters and not isinstance(outcome, Completion):
                self._waves.drop(member)  # nobody came for it: who does later asks again

    async def _none_begun(self, error: BackendError, tries: int) -> None:
        """The server would not take it: every call has failed, and none was billed."""
        if isinstance(error, ConnectionFailed) and not self._waves.lane.reached:
            error = BackendUnreachable(f"{error} (tried {tries} times)")
        ended = dict.fromkeys(self.members.values(), error)
        # A creation that broke off may have been done and never listed: then it is charged as assumed.
        calls = int(self._state == "creating" and error.may_have_been_billed)
        await self._deliver(ended, calls=calls, more=[self._wave("ended")])
        self._became("ended")

    async def _refused(self, look: WaveLook) -> None:
        """The server would not begin with it: take out what it would not have, and send the rest anew."""
        numbered = {member.number: member for member in self.members.values()}
        bad: dict[Member, Outcome] = {
            numbered[number]: error for number, error in look.refused_lines.items() if number in numbered
        }
        self._refusals += 1
        failure = None if look.too_much else look.refused
        failure = failure or next((error for error in look.refused_lines.values() if error.ends_run), None)
        if failure is None and not look.too_much and (not bad or self._refusals >= MOST_REFUSALS):
            failure = next(iter(look.refused_lines.values()), BadRequest(f"the batch {self.ref} was refused"))
        size, wait = len(self.members), 0.0
        if look.too_much:
            size, wait = self._waves.too_much(self, self._refusals)
            if not size:
                failure = QuotaExceeded(f"{look.refused} (again and again, and it was a batch of one)")
            logger.warning("batch %s refused (%s): by %d, in %g s", self.ref, look.refused, size, wait)
        if failure is not None:
            bad = {member: bad.get(member, failure) for member in self.members.values()}
        await self._deliver(bad, calls=0)
        await self._move(max(1, size), wait)

    async def _move(self, size: int, wait: float) -> None:
        """End, and send what is left as waves of at most ``size`` calls, after ``wait`` seconds."""
        rest = list(self.members.values())
        flights = [
            self._waves.flight(
                self._waves,
                uuid.uuid4().hex,
                rest[start : start + size],
                refusals=self._refusals,
                wait=wait,
            )
            for start in range(0, len(rest), size)
        ]
        # In one transaction: the end of a wave takes along the calls that are still in it.
        await self._waves.journal.write(
            self._wave("ended"), *(record for flight in flights for record in flight.records())
        )
        self.members = {}
        self._became("ended")
        for flight in flights:
            flight._became("made")
            self._waves.begin(flight)

    async def _end(self) -> None:
        await self._waves.journal.write(self._wave("ended"))
        self._became("ended")

    # --- records --------------------------------------------------------------------------------------------

    def _wave(self, state: WaveState) -> Wave:
        lane = self._waves.lane
        return Wave(self.id, lane.name, lane.backend.name, state, self.ref, self._data)

    def records(self) -> list[Record]:
        """Its first record and those of its calls."""
        records: list[Record] = [self._wave("made")]
        for member in self.members.values():
            data: dict[str, Any] = {"line": member.number, "request": request_to_dict(member.line.request)}
            if member.role != "generator":
                data["role"] = member.role
            records.append(WaveCall(member.reservation.id, self.id, member.fingerprint, data))
        return records
