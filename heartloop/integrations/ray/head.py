"""The head of a run on several engines: it hands out problems, writes the journal and keeps the limits.

Each worker has a *peer* that carries messages to and from it. What a worker writes goes into the journal's
queue in the order in which it was sent, and is acknowledged when it is committed; what it reserves and
settles is followed on the way (:mod:`heartloop.integrations.ray.leases`). When a peer fails, its worker is
dead: what it had reserved and not settled is charged as assumed, its problems go back into the queue with
all that the journal knows of them, and another worker is begun.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from heartloop.engine.replay import SHARED_ARM, grading_scope
from heartloop.errors import HeartLoopError, JournalError, JournalWriteError
from heartloop.integrations.ray import messages as say
from heartloop.integrations.ray.leases import Leases
from heartloop.integrations.ray.shares import LaneShares
from heartloop.journal.records import Settle
from heartloop.journal.sqlite import SqliteJournal
from heartloop.runs.config import RunConfig
from heartloop.types import Budget, Problem

__all__ = ["Head", "Peer", "PeerDied", "Spawn"]

logger = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at shares, and at workers that are not there."""
SILENT = 120.0
"""Seconds without a word after which a worker counts as dead."""
IDS = 1 << 32
"""Reservation ids of one worker: more than it will ever need."""
STARTING = 300.0
"""Seconds that the first worker may take to begin, and by when others are no longer counted on."""
IN_VAIN = 6
"""Workers that may die in a row without one problem being finished; more are a fault that
will not go away."""
DIED = "worker died before the answer"


class PeerDied(Exception):
    """The worker is gone, or can't be reached. The message says what is known of why."""


class Peer(Protocol):
    """The way to one worker."""

    async def take(self) -> list[say.FromWorker]:
        """Wait for what the worker has to say. Raises PeerDied."""
        ...

    async def deliver(self, messages: list[say.ToWorker]) -> None:
        """Tell the worker; returns when it has heard. Raises PeerDied."""
        ...

    def kill(self) -> None:
        """Make sure that it is dead. May be called more than once."""
        ...


Spawn = Callable[[say.Start], Peer]


@dataclass(slots=True)
class _Member:
    """A worker, as the head sees it: ``up`` when its engine stands, ``ready`` when it has a share of the
    models' limits and may be given problems."""

    name: str
    peer: Peer
    begun: float
    heard: float
    up: bool = False
    ready: bool = False
    closed: bool = False
    outbox: list[say.ToWorker] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    problems: dict[str, say.Assign] = field(default_factory=dict)
    status: say.Status = field(default_factory=lambda: say.Status(0, {}))

    def tell(self, *messages: say.ToWorker) -> None:
        self.outbox += messages
        if self.up:
            self.news.set()

    def said(self) -> list[say.ToWorker]:
        """What is to be told next; acknowledgements in a row as one."""
        self.news.clear()
        found: list[say.ToWorker] = []
        for message in self.outbox:
            if isinstance(message, say.Committed) and found and isinstance(found[-1], say.Committed):
                found[-1] = say.Committed(found[-1].tickets + message.tickets)
            else:
                found.append(message)
        self.outbox = []
        return found


class Head:
    """Works on ``pending`` with ``workers`` engines.

    Args:
        pending: problems and arms to work on, those of one problem in a row; read as they are needed.
        first_id: of the reservations of this process.
        total: how many pairs ``pending`` has at most.
        active: of them in work at once, all workers together.
        solved: is told of every arm that finished a problem.

    Attributes:
        deaths: workers that died.
        failure: what ended the run early, if anything did.
    """

    def __init__(
        self,
        config: RunConfig,
        journal: SqliteJournal,
        pending: Iterator[tuple[Problem, str]],
        spawn: Spawn,
        *,
        workers: int,
        leases: Leases,
        shares: Mapping[str, LaneShares],
        elapsed_before: float,
        total: int,
        active: int,
        only: tuple[str, ...] | None = None,
        solved: Callable[[say.Solved], None] = lambda message: None,
    ) -> None:
        self.config = config
        self.journal = journal
        self.leases = leases
        self.shares = dict(shares)
        self.deaths = 0
        self.failure: say.Failed | None = None
        self.members: dict[str, _Member] = {}
        self._spawn = spawn
        self._workers = workers
        self._active = max(1, active)
        self._rest = total
        self._only = only
        self._solved = solved
        self._groups = itertools.groupby(pending, key=lambda pair: pair[0].id)
        self._again: deque[say.Assign] = deque()
        self._exhausted = False
        self._next_id = journal.next_reservation_id()
        self._names = itertools.count(1)
        self._started = time.monotonic()
        self._elapsed_before = elapsed_before
        self._in_vain = 0
        self._taking_over = 0
        self._stopping: say.ToWorker | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._broken: BaseException | None = None
        self._looked = self._started

    @property
    def elapsed(self) -> float:
        """Seconds of the run, earlier processes included."""
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def in_flight(self) -> int:
        return sum(member.status.in_flight for member in self.members.values())

    # --- from beginning to end ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until every problem has been worked on, or the run was stopped, or failed.

        Raises:
            JournalError: the journal can't be written.
            HeartLoopError: workers die one after the other.
        """
        try:
            while True:
                if self._broken is not None:
                    raise self._broken
                if self.failure is not None and self._stopping is None:
                    self._stop(say.Cancel())
                if self._stopping is None:
                    self._hand_out()
                    if self._exhausted and not (self._again or self._in_work()):
                        self._stop(say.Finish())
                    else:
                        self._recruit()
                if self._stopping is not None and all(m.closed for m in self.members.values()):
                    return
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), LOOK)
                except TimeoutError:
                    pass
                if time.monotonic() - self._looked >= LOOK:
                    self._looked = time.monotonic()
                    self._look()
        finally:
            for member in self.members.values():
                member.peer.kill()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def stop(self, how: say.Drain | say.Cancel) -> None:
        """Hand out nothing more; drain the workers, or cancel their calls."""
        if self._stopping is None or isinstance(how, say.Cancel):
            self._stop(how)

    def set_budget(self, budget: Budget) -> None:
        """Other limits of the run, from now on."""
        self.leases.set_budget("run", budget)
        for member in self.members.values():
            member.tell(say.NewBudget(budget))
        self._serve()

    def _stop(self, how: say.ToWorker) -> None:
        self._stopping = how
        for member in list(self.members.values()):
            if member.up:
                member.tell(how)
            else:  # it has begun nothing
                member.peer.kill()
                self._bury(member)
        self._changed.set()

    # --- problems
    # ---------------------------------------------------------------------------------------------

    def _in_work(self) -> bool:
        return self._taking_over > 0 or any(member.problems for member in self.members.values())

    def _hand_out(self) -> None:
        ready = [member for member in self.members.values() if member.ready and not member.closed]
        if not ready:
            return
        now = time.monotonic()
        coming = sum(not m.ready and now - m.begun < STARTING for m in self.members.values())
        among = max(len(ready) + coming, 1)
        each = min(-(-self._active // among), max(1, -(-self._rest // among)))
        while True:
            # The least busy first, so that problems don't wait at one worker while another has none.
            member = min(ready, key=_load)
            if _load(member) >= each or (assigned := self._next()) is None:
                return
            member.problems[assigned.problem.id] = assigned
            member.tell(assigned)

    def _next(self) -> say.Assign | None:
        # Where seeds have orders of their own a problem comes once for each; it is in one place at a time.
        for place, waiting in enumerate(self._again):
            if not self._busy(waiting.problem.id):
                del self._again[place]
                return self._known(waiting)
        for id, pairs in self._groups:
            found = list(pairs)
            self._rest -= len(found)
            assigned = say.Assign(found[0][0], tuple(arm for _, arm in found))
            if not self._busy(id):
                return self._known(assigned)
            self._again.append(assigned)
        self._exhausted = True
        return None

    def _busy(self, problem: str) -> bool:
        return any(problem in member.problems for member in self.members.values())

    def _known(self, assigned: say.Assign) -> say.Assign:
        """``assigned`` with what the journal has of it."""
        journal, problem = self.journal, assigned.problem
        scopes = [SHARED_ARM, *assigned.arms, *map(grading_scope, assigned.arms)]
        events = {scope: tuple(found) for scope in scopes if (found := journal.events(scope, problem.id))}
        ends = ((arm, journal.result(arm, problem.id)) for arm in assigned.arms)
        results = {arm: end for arm, end in ends if end is not None}
        charges = {}
        if events and not self.config.problem_budget.unlimited:
            charges = {arm: journal.charges(arm, problem.id) for arm in assigned.arms}
        return say.Assign(problem, assigned.arms, events, results, charges)

    # --- workers
    # ----------------------------------------------------------------------------------------------

    def _recruit(self) -> None:
        while len(self.members) < self._workers:
            # Not more than there is work for.
            if self.members and self._exhausted and not self._again:
                return
            name = f"w{next(self._names)}"
            self.leases.join(name)
            start = say.Start(
                worker=name,
                config=self.config.to_dict(),
                only=self._only,
                first_id=self._next_id,
                elsewhere=self.leases.elsewhere(name),
            )
            self._next_id += IDS
            now = time.monotonic()
            member = self.members[name] = _Member(name, self._spawn(start), now, now)
            self._go(self._listen(member))

    def _admit(self, member: _Member) -> None:
        """Give ``member`` its first shares, if there are any to give yet."""
        given: dict[str, say.Share] = {}
        for lane, shares in self.shares.items():
            if (share := shares.join(member.name, self._workers)) is None:
                for joined in self.shares.values():
                    joined.leave(member.name)
                return  # until others have given up some
            given[lane] = share
        tight = [say.Tight(scope, True) for scope, pool in self.leases.pools.items() if pool.tight]
        # Before whatever was to be told already.
        member.outbox[:0] = [say.Begin(self.elapsed, given), *tight]
        member.ready = True
        member.news.set()
        self._changed.set()

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, member: _Member) -> None:
        speaking = asyncio.create_task(self._speak(member))
        try:
            while not member.closed:
                for message in await member.peer.take():
                    if member.name not in self.members:
                        return  # it was given up meanwhile
                    self._heed(member, message)
                member.heard = time.monotonic()
        except PeerDied as error:
            self._died(member, str(error))
        except Exception as error:
            logger.exception("worker %s: what it said could not be followed", member.name)
            self._break(error)
        finally:
            speaking.cancel()
            if member.closed:
                member.peer.kill()
            self._changed.set()

    async def _speak(self, member: _Member) -> None:
        while True:
            await member.news.wait()
            try:
                await member.peer.deliver(member.said())
            except PeerDied:
                return  # take() hears of it too

    def _heed(self, member: _Member, message: say.FromWorker) -> None:
        match message:
            case say.Wrote(_, records):
                charged = self.leases.note(member.name, records)
                self._write(member, message)
                if charged:
                    self._serve()
            case say.Want():
                self.leases.want(member.name, message)
                self._serve()
            case say.Return(scope, less):
                self.leases.give_back(member.name, scope, less)
                self._serve()
            case say.Solved():
                self._in_vain = 0
                self._solved(message)
            case say.Finished(problem):
                member.problems.pop(problem, None)
                self._changed.set()
            case say.Holds(lane, slots, version):
                self.shares[lane].told(member.name, slots, version)
            case say.Status():
                member.status = message
            case say.Ready():
                member.up = True
                self._admit(member)
            case say.Failed():
                if self.failure is None:
                    self.failure = message
                self._changed.set()
            case say.Closed():
                self._left(member)

    def _left(self, member: _Member) -> None:
        member.closed = True
        member.problems.clear()
        self._settle_lost(member)
        for shares in self.shares.values():
            shares.leave(member.name)
        self._changed.set()

    def _died(self, member: _Member, why: str) -> None:
        """Charge what it had sent, and have others do its work."""
        if member.closed or member.name not in self.members:
            return
        self.deaths += 1
        self._in_vain += 1
        logger.warning("worker %s died (%s); another takes over", member.name, why)
        member.peer.kill()
        again = list(member.problems.values())
        self._bury(member)
        if self._stopping is None and again:
            self._taking_over += 1
            self._go(self._take_over(again))
        if self._in_vain > max(IN_VAIN, 2 * self._workers):
            self._break(
                HeartLoopError(
                    f"{self._in_vain} workers died one after the other without finishing a problem; the last "
                    f"one: {why}"
                )
            )

    def _bury(self, member: _Member) -> None:
        self._settle_lost(member)
        for shares in self.shares.values():
            shares.leave(member.name)
        del self.members[member.name]
        self._changed.set()

    def _settle_lost(self, member: _Member) -> None:
        lost = self.leases.leave(member.name)
        if lost:
            self.journal.post(
                *(
                    Settle(id, "assumed", None, cost.tokens, cost.usd, reason=DIED, calls=cost.calls)
                    for id, cost in lost
                )
            )
        self._serve()

    async def _take_over(self, problems: list[say.Assign]) -> None:
        try:
            await self.journal.write()  # what the dead worker wrote is committed before it is read
        except JournalError as error:
            self._break(error)
            return
        finally:
            self._taking_over -= 1
        self._again.extend(say.Assign(assigned.problem, assigned.arms) for assigned in problems)
        self._changed.set()

    def _break(self, error: BaseException) -> None:
        if self._broken is None:
            self._broken = error
        self._changed.set()

    # --- the journal
    # --------------------------------------------------------------------------------------------

    def _write(self, member: _Member, wrote: say.Wrote) -> None:
        if wrote.ticket == 0:
            self.journal.post(*wrote.records)
            return
        try:
            # Queued now, so that the order is the worker's.
            future = self.journal.submit(*wrote.records)
        except JournalError as error:
            self._refuse(member, wrote.ticket, error)
            return

        def done(future: asyncio.Future[None]) -> None:
            if future.cancelled():
                return
            if (error := future.exception()) is None:
                member.tell(say.Committed((wrote.ticket,)))
            else:
                self._refuse(member, wrote.ticket, error)

        future.add_done_callback(done)

    def _refuse(self, member: _Member, ticket: int, error: BaseException) -> None:
        broken = isinstance(error, JournalWriteError)
        member.tell(say.Refused(ticket, str(error), broken))
        if broken:
            self._break(error)

    # --- limits
    # -------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        for worker, message in self.leases.serve():
            if (member := self.members.get(worker)) is not None:
                member.tell(message)

    def _look(self) -> None:
        """What is due now and then."""
        now = time.monotonic()
        for member in list(self.members.values()):
            if member.ready and not member.closed and now - member.heard > SILENT:
                self._died(member, f"not a word for {SILENT:g} seconds")
        if self._stopping is not None:
            return
        for member in list(self.members.values()):
            if member.up and not member.ready:
                self._admit(member)
        members = self.members.values()
        if members and all(not m.up and now - m.begun > STARTING for m in members):
            self._break(
                HeartLoopError(
                    f"no worker has begun in {STARTING:g} seconds: is there room for one on the cluster?"
                )
            )
        for lane, shares in self.shares.items():
            demand = {
                name: found.in_flight + found.waiting
                for name, member in self.members.items()
                if (found := member.status.lanes.get(lane)) is not None
            }
            newcomers = sum(m.up and not m.ready for m in self.members.values())
            for name, share in shares.divide(demand, newcomers=newcomers).items():
                if (found_member := self.members.get(name)) is not None:
                    found_member.tell(say.NewShares({lane: share}))


def _load(member: _Member) -> int:
    return sum(len(assigned.arms) for assigned in member.problems.values())
