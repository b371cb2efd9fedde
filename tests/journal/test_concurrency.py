"""Many writers at once: order, atomicity, cancellation, several loops, and a dict as the model."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from journal_helpers import bare, event, key

from heartloop.errors import JournalError
from heartloop.journal.reader import JournalReader
from heartloop.journal.records import Event, Reserve, Result, Settle
from heartloop.journal.sqlite import SqliteJournal


def test_writes_are_acknowledged_after_their_commit_and_kept_in_order(journal: SqliteJournal) -> None:
    async def writer(name: str) -> None:
        for n in range(20):
            await journal.write(event(n, problem=name), event(n, problem=name, kind="verdict"))
            assert len(journal.events("a", name)) == 2 * (n + 1)  # there before we are told

    async def go() -> None:
        await asyncio.gather(*(writer(f"p{n}") for n in range(32)))

    asyncio.run(go())
    for n in range(32):
        got = [(e.key.ordinal, e.key.kind) for e in journal.events("a", f"p{n}")]
        assert got == [(o, kind) for o in range(20) for kind in ("completion", "verdict")]


def test_what_is_queued_during_a_commit_shares_the_next(path: Path) -> None:
    commits: list[int] = []
    held, let_go = threading.Event(), threading.Event()

    def hold(records: int) -> None:
        commits.append(records)
        held.set()
        assert let_go.wait(5)

    with SqliteJournal.create(path, meta={}, on_commit=hold) as journal:

        async def go() -> None:
            first = asyncio.create_task(journal.write(event(0)))
            await asyncio.to_thread(held.wait, 5)
            rest = [asyncio.create_task(journal.write(event(n), event(-n))) for n in range(1, 51)]
            await asyncio.sleep(0)
            let_go.set()
            await asyncio.gather(first, *rest)

        asyncio.run(go())
        assert commits == [1, 100]
        expected = [0, *(n for k in range(1, 51) for n in (k, -k))]
        assert [e.key.ordinal for e in journal.events("a", "p")] == expected


def test_seqs_follow_the_order_of_calls_across_problems(journal: SqliteJournal) -> None:
    async def go() -> None:
        await asyncio.gather(*(journal.write(event(n, problem=f"p{n % 7}")) for n in range(500)))

    asyncio.run(go())
    order = sorted((e.seq, e.key.ordinal) for n in range(7) for e in journal.events("a", f"p{n}"))
    assert [ordinal for _, ordinal in order] == list(range(500))


def test_what_is_posted_is_committed_before_a_later_write_returns(journal: SqliteJournal) -> None:
    async def go() -> None:
        await journal.write(Reserve(1, key(), 1, "m", 10, 0.0))
        journal.post(Settle(1, "assumed", None, 10, 0.0, reason="cancelled"))
        await journal.write()
        assert journal.charges().assumed.tokens == 10

    asyncio.run(go())


def test_a_cancelled_write_is_still_written(path: Path) -> None:
    held, let_go = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        held.set()
        assert let_go.wait(5)

    with SqliteJournal.create(path, meta={}, on_commit=hold) as journal:

        async def go() -> None:
            first = asyncio.create_task(journal.write(event(1)))
            await asyncio.to_thread(held.wait, 5)
            second = asyncio.create_task(journal.write(event(2)))  # queued behind a commit that hangs
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert not first.done()
            let_go.set()
            await first
            await journal.write()
            assert [e.key.ordinal for e in journal.events("a", "p")] == [1, 2]

        asyncio.run(go())


def test_writers_on_several_event_loops(journal: SqliteJournal) -> None:
    async def work(name: str) -> None:
        for n in range(50):
            await journal.write(event(n, problem=name))

    threads = [threading.Thread(target=lambda name=f"p{n}": asyncio.run(work(name))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [len(journal.events("a", f"p{n}")) for n in range(4)] == [50] * 4


def test_a_loop_that_ended_without_waiting_harms_nobody(journal: SqliteJournal) -> None:
    async def leave() -> None:
        task = asyncio.create_task(journal.write(event(1)))
        await asyncio.sleep(0)
        task.cancel()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(leave())
    asyncio.run(journal.write(event(2)))
    assert len(journal.events("a", "p")) == 2


def test_a_reader_sees_only_whole_transactions_while_one_writes(path: Path) -> None:
    with SqliteJournal.create(path, meta={}) as journal:
        done = threading.Event()

        async def write() -> None:
            for n in range(150):
                await journal.write(*(event(10 * n + k) for k in range(10)))

        writer = threading.Thread(target=lambda: (asyncio.run(write()), done.set()))
        writer.start()
        sizes = []
        while not done.is_set():
            with JournalReader(path) as reader:
                sizes.append(len(reader.events("a", "p")))
        writer.join()
        assert all(size % 10 == 0 for size in sizes)
        assert sizes == sorted(sizes)
        assert len(journal.events("a", "p")) == 1500


def test_one_problem_among_100_000_events_is_found_by_index(journal: SqliteJournal) -> None:
    async def fill() -> None:
        for first in range(0, 100_000, 10_000):
            await journal.write(
                *(event(n, problem=f"p{n // 10}", text="t") for n in range(first, first + 10_000))
            )

    asyncio.run(fill())
    best = float("inf")
    for attempt in range(3):
        start = time.perf_counter()
        for n in range(100):
            assert len(journal.events("a", f"p{(attempt * 3331 + n * 97) % 10_000}")) == 10
        best = min(best, time.perf_counter() - start)
    assert best < 0.5  # a scan would take 100 times 10 ms and more


class AgainstADict(RuleBasedStateMachine):
    """Any interleaving of writes, reads and reopenings shows what a plain model says."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "j.db")
        self.journal = SqliteJournal.create(self.path, meta={})
        self.events: list[Event] = []
        self.results: dict[tuple[str, str], Result] = {}
        self.open: dict[int, int] = {}
        self.charged = {"confirmed": 0, "assumed": 0, "released": 0}
        self.next_id = 1

    keys = st.builds(
        key,
        ordinal=st.integers(0, 4),
        problem=st.sampled_from(["p", "q", ""]),
        kind=st.sampled_from(["completion", "failure"]),
        arm=st.sampled_from(["a", "b"]),
    )

    @rule(batch=st.lists(st.tuples(keys, st.integers()), min_size=1, max_size=4), waits=st.booleans())
    def write_events(self, batch: list[tuple[object, int]], waits: bool) -> None:
        records = [Event(k, "f", {"n": n}) for k, n in batch]  # type: ignore[arg-type]
        taken = {e.key for e in self.events}
        bad = False
        for record in records:
            if record.key.kind != "failure":
                bad = bad or record.key in taken
                taken.add(record.key)
        if bad:
            with pytest.raises(JournalError):
                asyncio.run(self.journal.write(*records))
            return
        if waits:
            asyncio.run(self.journal.write(*records))
        else:
            self.journal.post(*records)
        for record in records:
            self.events = [e for e in self.events if e.key != record.key]
            self.events.append(record)

    @rule(problem=st.sampled_from(["p", "q"]), status=st.sampled_from(["done", "budget", "failed"]))
    def write_result(self, problem: str, status: str) -> None:
        result = Result("a", problem, status, {"events": len(self.events)})  # type: ignore[arg-type]
        self.journal.post(result)
        self.results["a", problem] = result

    @rule(tokens=st.integers(0, 1000))
    def reserve(self, tokens: int) -> None:
        asyncio.run(self.journal.write(Reserve(self.next_id, key(), 1, "m", tokens, None)))
        self.open[self.next_id] = tokens
        self.next_id += 1

    @precondition(lambda self: self.open)
    @rule(state=st.sampled_from(["confirmed", "assumed", "released"]), data=st.data())
    def settle(self, state: str, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.open)))
        self.journal.post(Settle(id, state, None, self.open[id], None))  # type: ignore[arg-type]
        self.charged[state] += self.open.pop(id)

    @rule(close_open=st.booleans())
    def reopen(self, close_open: bool) -> None:
        self.journal.close()
        self.journal = SqliteJournal.open(self.path)
        assert self.journal.next_reservation_id() == self.next_id
        if close_open:
            assert self.journal.close_open_reservations() == len(self.open)
            self.charged["assumed"] += sum(self.open.values())
            self.open = {}

    @invariant()
    def agrees(self) -> None:
        asyncio.run(self.journal.write())
        for arm in "ab":
            for problem in ("p", "q", ""):
                mine = [bare(e) for e in self.events if (e.key.arm, e.key.problem) == (arm, problem)]
                assert [bare(e) for e in self.journal.events(arm, problem)] == mine
        assert {(r.arm, r.problem): r for r in self.journal.results()} == self.results
        totals = self.journal.charges()
        assert totals.open.tokens == sum(self.open.values())
        assert totals.open.calls == len(self.open)
        for state, tokens in self.charged.items():
            assert getattr(totals, state).tokens == tokens

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=12, stateful_step_count=20, deadline=None, derandomize=True)
