"""What is written comes back: through the writer, after reopening, and in a reader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_helpers import bare, event, key

from heartloop.errors import DataError, JournalError, JournalWriteError, UsageError
from heartloop.journal.base import Journal, NullJournal
from heartloop.journal.reader import JournalReader
from heartloop.journal.records import Charge, Event, Reserve, Result, Settle, Totals
from heartloop.journal.sqlite import SqliteJournal
from heartloop.types import Problem, Usage


def test_events_come_back_in_the_order_of_writing_from_all_three(path: Path) -> None:
    wrote = [
        event(2, text="é 🎈 \x00"),
        event(1, kind="verdict", correct=None, score=0.5),
        event(3, problem="q"),
    ]
    before = time.time()
    with SqliteJournal.create(path, meta={}) as journal:
        asyncio.run(journal.write(*wrote))
        with JournalReader(path) as reader:
            for source in (journal, reader):
                assert [bare(e) for e in source.events("a", "p")] == [bare(e) for e in wrote[:2]]
        seqs = [e.seq for e in journal.events("a", "p")]
        assert seqs == sorted(set(seqs))
        assert seqs[0] > 0
        assert all(before - 1 <= e.at <= time.time() + 1 for e in journal.events("a", "p"))
    with SqliteJournal.open(path) as journal:
        assert [bare(e) for e in journal.events("a", "p")] == [bare(e) for e in wrote[:2]]
        assert journal.events("other", "p") == []
    assert [f.name for f in path.parent.iterdir()] == [path.name]  # no log, no lock left behind


def test_a_failure_that_happens_again_moves_to_the_end(journal: SqliteJournal) -> None:
    async def go() -> None:
        await journal.write(event(1, kind="failure", error="reset"))
        await journal.write(event(1, kind="decision"))
        await journal.write(event(1, kind="failure", error="timeout"))

    asyncio.run(go())
    assert [(e.key.kind, e.data) for e in journal.events("a", "p")] == [
        ("decision", {}),
        ("failure", {"error": "timeout"}),
    ]


@pytest.mark.parametrize(
    "bad",
    [event(1), Settle(99, "released", None, 0, 0.0), Event(key(7, problem="\ud800"), "f", {})],
    ids=["key taken", "settles nothing", "lone surrogate in a key"],
)
def test_a_record_that_cannot_be_stored_costs_only_its_writer(
    journal: SqliteJournal, bad: Event | Settle
) -> None:
    async def go() -> list[BaseException | None]:
        await journal.write(event(1))
        writes = [journal.write(event(n)) for n in range(2, 6)]
        writes.insert(2, journal.write(event(50), bad, event(51)))
        return await asyncio.gather(*writes, return_exceptions=True)

    outcomes = asyncio.run(go())
    assert isinstance(outcomes.pop(2), JournalError)
    assert outcomes == [None] * 4
    assert [e.key.ordinal for e in journal.events("a", "p")] == [1, 2, 3, 4, 5]  # nothing of its write either
    asyncio.run(journal.write(event(6)))


def test_data_that_is_not_json_is_refused_at_once(journal: SqliteJournal) -> None:
    with pytest.raises(JournalError, match="can't be stored"):
        asyncio.run(journal.write(event(1, text=object())))
    with pytest.raises(UsageError, match="'k'"):
        journal.set_meta("k", object())
    assert journal.events("a", "p") == []


def test_hostile_but_valid_data_survives(journal: SqliteJournal) -> None:
    data = {"text": "\ud800 lone", "n": [2**80 + 1, -(2**63) - 1, 2**64], "quote": "'; DROP TABLE events; --"}
    asyncio.run(journal.write(event(1, **data)))
    assert journal.events("a", "p")[0].data == data


def test_reservations_add_up_by_state_and_scope(path: Path) -> None:
    with SqliteJournal.create(path, meta={}) as journal:
        assert journal.next_reservation_id() == 1
        asyncio.run(
            journal.write(
                *(Reserve(n, key(n, problem=f"p{n}"), 1, "m", 100 * n, 0.5, 60 * n) for n in range(1, 6)),
                Settle(1, "confirmed", Usage(3, 4, 2, 1), 7, 0.25),
                Settle(2, "assumed", None, 200, 0.5, reason="client killed"),
                Settle(3, "released", None, 0, 0.0, calls=0),
                Settle(4, "confirmed", Usage(5, 5), 10, 0.125),
            )
        )
        expected = Totals(
            confirmed=Charge(17, 2, 0.375, Usage(8, 9, 2, 1)),
            assumed=Charge(200, 1, 0.5, Usage(120, 80)),
            open=Charge(500, 1, 0.5, Usage(300, 200)),
            released=Charge(0, 0, 0.0),
        )
        assert journal.charges() == expected == journal.charges("a")
        assert journal.charges("b") == Totals()
        assert journal.charges("a", "p1") == Totals(confirmed=Charge(7, 1, 0.25, Usage(3, 4, 2, 1)))
        assert journal.close_open_reservations() == 0  # they are this process's own
    with SqliteJournal.open(path) as journal:
        assert journal.next_reservation_id() == 6
        assert journal.close_open_reservations() == 1
        assert journal.charges().assumed == Charge(700, 2, 1.0, Usage(420, 280))
        assert journal.charges().open == Charge()
        assert journal.close_open_reservations() == 0


def test_an_unknown_price_makes_the_sum_unknown_and_a_later_settlement_replaces(
    journal: SqliteJournal,
) -> None:
    async def go() -> None:
        await journal.write(Reserve(1, key(1), 1, "m", 10, 0.5), Reserve(2, key(2), 1, "m", 10, None))
        await journal.write(Settle(1, "assumed", None, 10, 0.5), Settle(2, "assumed", None, 10, None))
        assert journal.charges().assumed == Charge(20, 2, None, Usage(0, 20))
        await journal.write(Settle(2, "confirmed", Usage(1, 1), 2, 0.0))

    asyncio.run(go())
    assert journal.charges() == Totals(
        assumed=Charge(10, 1, 0.5, Usage(0, 10)), confirmed=Charge(2, 1, 0.0, Usage(1, 1))
    )


def test_results_replace_each_other_and_page_through(journal: SqliteJournal) -> None:
    many = [Result("a", f"p{n:04}", "done", {"n": n}) for n in range(700)]
    asyncio.run(journal.write(*many, Result("b", "p", "budget", {})))
    asyncio.run(journal.write(Result("a", "p0003", "failed", {"error": "x"})))
    assert journal.result("a", "p0003") == Result("a", "p0003", "failed", {"error": "x"})
    assert journal.result("a", "nobody") is None
    many[3] = Result("a", "p0003", "failed", {"error": "x"})
    assert list(journal.results("a")) == many
    assert list(journal.results()) == [*many, Result("b", "p", "budget", {})]
    assert list(journal.results("c")) == []


PROBLEMS = [
    Problem("1", "2+2?", "4", "number", {"level": 3, "tags": ["easy"]}),
    Problem("ü", ({"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "x"}})),
    Problem("3", "either", ("a", "b")),
]


def test_problems_come_back_whole_and_in_order(path: Path) -> None:
    with SqliteJournal.create(path, meta={}) as journal:
        assert journal.add_problems(PROBLEMS) == 3
        assert journal.add_problems(Problem(f"more{n}", "q") for n in range(600)) == 600
    with JournalReader(path) as reader:
        assert reader.count_problems() == 603
        assert [p for _, p in reader.iter_problems(limit=3)] == PROBLEMS
        positions = [position for position, _ in reader.iter_problems()]
        assert positions == list(range(1, 604))
        assert [p.id for _, p in reader.iter_problems(after_position=3, limit=300)] == [
            f"more{n}" for n in range(300)
        ]
        assert reader.problem("3") == PROBLEMS[2]
        assert reader.problem("no") is None


def broken_source() -> Iterator[Problem]:
    yield Problem("x", "q")
    raise OSError("line 2 is broken")


@pytest.mark.parametrize(
    ("source", "error", "names"),
    [
        ([Problem("x", "q"), Problem("1", "again")], DataError, "'1'"),
        ([Problem("x", "q"), Problem("y", "q", metadata={"o": object()})], DataError, "'y'"),
        ([Problem("x", "q"), Problem("\udfff", "q")], DataError, "udfff"),
        (broken_source(), OSError, "line 2"),
    ],
)
def test_problems_are_stored_all_or_none(
    journal: SqliteJournal, source: list[Problem], error: type[Exception], names: str
) -> None:
    journal.add_problems(PROBLEMS)
    with pytest.raises(error, match=names):
        journal.add_problems(source)
    assert [p for _, p in journal.iter_problems()] == PROBLEMS
    asyncio.run(journal.write(event(1)))  # and the journal goes on


def test_adding_problems_and_leaving_an_iteration_hold_nobody_up(journal: SqliteJournal) -> None:
    journal.add_problems(Problem(f"{n}", "q") for n in range(1000))
    left = journal.iter_problems()
    next(left)
    asyncio.run(journal.write(event(1)))
    assert len(journal.events("a", "p")) == 1
    assert next(left)[1].id == "1"


def test_meta_is_kept_and_changed(path: Path) -> None:
    with SqliteJournal.create(path, meta={"seed": 1, "settings": {"rounds": 6}}) as journal:
        journal.set_meta("seed", [2])
        journal.set_meta("new", None)
    with JournalReader(path) as reader:
        assert reader.meta == {"seed": [2], "settings": {"rounds": 6}, "new": None}


def test_seconds_of_earlier_processes_are_summed(path: Path) -> None:
    with SqliteJournal.create(path, meta={}) as journal:
        assert journal.elapsed_before() == 0.0
        time.sleep(0.15)
    with SqliteJournal.open(path) as journal:
        first = journal.elapsed_before()
        assert 0.15 <= first < 5
        time.sleep(0.05)
    with SqliteJournal.open(path) as journal:
        assert journal.elapsed_before() >= first + 0.05


def test_last_seen_is_refreshed_while_nothing_happens(path: Path) -> None:
    with SqliteJournal.create(path, meta={}), JournalReader(path) as reader:
        deadline = time.monotonic() + 5
        while reader.elapsed_before() == 0.0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert reader.elapsed_before() >= 0.9


def test_a_closed_journal_says_so(path: Path) -> None:
    journal = SqliteJournal.create(path, meta={})
    journal.post(event(1, text="posted"))
    asyncio.run(journal.aclose())
    journal.close()
    with pytest.raises(JournalWriteError, match="closed"):
        asyncio.run(journal.write(event(2)))
    with pytest.raises(JournalError, match="closed"):
        journal.events("a", "p")
    with JournalReader(path) as reader:
        assert [e.data for e in reader.events("a", "p")] == [{"text": "posted"}]


def test_the_null_journal_is_a_journal_that_forgets(journal: SqliteJournal) -> None:
    null = NullJournal()
    assert isinstance(null, Journal)
    assert isinstance(journal, Journal)
    asyncio.run(null.write(event(1), Result("a", "p", "done", {})))
    null.post(event(2))
    assert null.events("a", "p") == []
    assert null.result("a", "p") is None
    assert list(null.results()) == []
    assert null.charges() == Totals()
    assert null.next_reservation_id() == 1
    asyncio.run(null.aclose())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.dictionaries(st.text(max_size=8), json_values, max_size=4), min_size=1, max_size=20))
def test_any_json_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, many: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "j.db"
    with SqliteJournal.create(path, meta={}) as journal:
        asyncio.run(journal.write(*(Event(key(n), "f", data) for n, data in enumerate(many))))
        assert [e.data for e in journal.events("a", "p")] == many
