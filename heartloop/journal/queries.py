"""What can be asked of a journal, by its writer's process and by a reader alike."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from heartloop.errors import JournalCorrupt, JournalError
from heartloop.journal.check import read_error
from heartloop.journal.codec import decode_problem, loads
from heartloop.journal.records import (
    Charge,
    Event,
    EventKey,
    PendingCall,
    Reserve,
    Result,
    Totals,
    Wave,
    WaveCall,
)
from heartloop.types import Problem, Spend, Usage

__all__ = ["JournalQueries"]

PAGE_ROWS = 256
PAGE_CHARS = 1 << 20
"""A page of an iteration ends at so many rows or characters of JSON, whichever comes first."""

_TOTALS = """
SELECT coalesce(s.state, 'open'), count(*), sum(coalesce(s.tokens, r.tokens)), sum(coalesce(s.calls, 1)),
    count(CASE WHEN s.id IS NULL THEN r.usd ELSE s.usd END),
    sum(CASE WHEN s.id IS NULL THEN r.usd ELSE s.usd END),
    sum(coalesce(s.prompt_tokens, CASE WHEN s.state = 'released' THEN 0 ELSE r.prompt_tokens END)),
    sum(coalesce(s.completion_tokens,
        CASE WHEN s.state = 'released' THEN 0 ELSE r.tokens - r.prompt_tokens END)),
    sum(s.reasoning_tokens), sum(s.cached_tokens)
FROM reservations r LEFT JOIN settlements s ON s.id = r.id
"""
_TOTALS_BY_ARM = _TOTALS.replace("\nFROM", ", r.arm\nFROM")


def _charge(row: Sequence[Any]) -> tuple[str, Charge]:
    """A state and its sum, from a row of :data:`_TOTALS`."""
    state, count, tokens, calls, priced, usd, *usage = row
    price = None if priced < count else float(usd)
    return state, Charge(tokens, calls, price, Usage(*(part or 0 for part in usage)))


class JournalQueries:
    """Reading, on one connection that threads share under a lock.

    Iterations fetch page by page and hold neither the lock nor a transaction in between: one that is
    left half-way can't keep SQLite from clearing its log.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._reading: sqlite3.Connection | None = connection
        self._reading_lock = threading.Lock()

    def _close_reading(self) -> None:
        with self._reading_lock:
            if self._reading is not None:
                self._reading.close()
                self._reading = None

    def _fetch(self, sql: str, parameters: tuple[Any, ...] = (), chars_at: int | None = None) -> list[Any]:
        """All rows; with ``chars_at`` (the index of a text column) only the first page of them."""
        with self._reading_lock:
            if self._reading is None:
                raise JournalError(f"the journal {self.path} is closed")
            try:
                cursor = self._reading.execute(sql, parameters)
                if chars_at is None:
                    return cursor.fetchall()
                rows, chars = [], 0
                for row in cursor:
                    rows.append(row)
                    chars += len(row[chars_at])
                    if len(rows) >= PAGE_ROWS or chars >= PAGE_CHARS:
                        break
                cursor.close()
                return rows
            except sqlite3.Error as error:
                raise read_error(self.path, error) from error

    def _json(self, text: str, what: str) -> Any:
        try:
            return loads(text)
        except ValueError as error:
            raise JournalCorrupt(f"{self.path} is damaged: {what} holds no JSON ({error})") from error

    # --- the run ---------------------------------------------------------------------------------

    @property
    def meta(self) -> dict[str, Any]:
        """What the run said about itself: settings, versions, prompts."""
        rows = self._fetch("SELECT key, value FROM meta ORDER BY key")
        return {key: self._json(value, f"meta {key!r}") for key, value in rows}

    def elapsed_before(self) -> float:
        """Wall-clock seconds that processes before this one were at work on the journal."""
        return self._elapsed("")

    def _elapsed(self, where: str, parameters: tuple[Any, ...] = ()) -> float:
        rows = self._fetch(f"SELECT total(max(last_seen - started, 0)) FROM sessions {where}", parameters)
        return float(rows[0][0])

    # --- problems --------------------------------------------------------------------------------

    def problem(self, id: str) -> Problem | None:
        """The problem of that id, if the journal holds it."""
        rows = self._fetch("SELECT data FROM problems WHERE id = ?", (id,))
        return decode_problem(id, rows[0][0]) if rows else None

    def count_problems(self) -> int:
        """How many problems the run has."""
        return int(self._fetch("SELECT count(*) FROM problems")[0][0])

    def problem_places(self) -> list[tuple[int, str]]:
        """Position (from 1) and id of every problem, in order."""
        return self._fetch("SELECT position, id FROM problems ORDER BY position")

    def iter_problems(
        self, after_position: int = 0, limit: int | None = None
    ) -> Iterator[tuple[int, Problem]]:
        """Problems with their positions (from 1), in order, at most ``limit``, with bounded memory."""
        left = limit
        while left is None or left > 0:
            rows = self._fetch(
                "SELECT position, id, data FROM problems WHERE position > ? ORDER BY position LIMIT ?",
                (after_position, PAGE_ROWS if left is None else min(left, PAGE_ROWS)),
                chars_at=2,
            )
            if not rows:
                return
            for position, id, data in rows:
                yield position, decode_problem(id, data)
            after_position = rows[-1][0]
            left = None if left is None else left - len(rows)

    # --- events and results ----------------------------------------------------------------------

    def events(self, arm: str, problem: str) -> list[Event]:
        """What is committed of one problem, in the order in which it was written."""
        return self._events_where("arm = ? AND problem = ?", (arm, problem))

    def events_of_kinds(self, arm: str, problem: str, kinds: Sequence[str]) -> list[Event]:
        """:meth:`events` of these kinds only: whole prompts of calls need not be read for the rest."""
        only = ", ".join("?" * len(kinds))
        return self._events_where(f"arm = ? AND problem = ? AND kind IN ({only})", (arm, problem, *kinds))

    def _events_where(self, where: str, parameters: tuple[str, ...]) -> list[Event]:
        rows = self._fetch(
            "SELECT arm, problem, branch, kind, ordinal, fingerprint, data, seq, at FROM events"
            f" WHERE {where} ORDER BY seq",
            parameters,
        )
        return [
            Event(EventKey(*key), fingerprint, self._json(data, f"event {seq}"), seq, at)
            for *key, fingerprint, data, seq, at in rows
        ]

    def said_by_judges(self, arm: str, problem: str) -> list[tuple[str, str]]:
        """(role, text) of the answers to calls that were not the generator's, in order."""
        rows = self._fetch(
            # Not ->>, which ends a text at NUL and makes bytes of half a surrogate pair.
            "SELECT data -> '$.role', data -> '$.completion.text' FROM events WHERE arm = ? AND problem = ?"
            " AND kind = 'completion' AND data -> '$.role' IS NOT NULL ORDER BY seq",
            (arm, problem),
        )
        return [(str(json.loads(role)), str(json.loads(text))) for role, text in rows if text is not None]

    def call_seconds(self, arm: str, problem: str) -> dict[tuple[str, int], float]:
        """Seconds that each answered call took, by branch and ordinal."""
        rows = self._fetch(
            "SELECT branch, ordinal, data ->> '$.completion.seconds' FROM events"
            " WHERE arm = ? AND problem = ? AND kind = 'completion'",
            (arm, problem),
        )
        return {(branch, ordinal): float(seconds or 0) for branch, ordinal, seconds in rows}

    def iter_events(self) -> Iterator[Event]:
        """All events by key (arm, problem, branch, kind, ordinal), with bounded memory."""
        last: tuple[Any, ...] = ("", "", "", "", -1)
        while True:
            rows = self._fetch(
                "SELECT arm, problem, branch, kind, ordinal, fingerprint, data, seq, at FROM events"
                " WHERE (arm, problem, branch, kind, ordinal) > (?, ?, ?, ?, ?)"
                f" ORDER BY arm, problem, branch, kind, ordinal LIMIT {PAGE_ROWS}",
                last,
                chars_at=6,
            )
            if not rows:
                return
            for *key, fingerprint, data, seq, at in rows:
                yield Event(EventKey(*key), fingerprint, self._json(data, f"event {seq}"), seq, at)
            last = rows[-1][:5]

    def result(self, arm: str, problem: str) -> Result | None:
        """What the problem ended with, if it has."""
        rows = self._fetch("SELECT status, data FROM results WHERE arm = ? AND problem = ?", (arm, problem))
        if not rows:
            return None
        status, data = rows[0]
        return Result(arm, problem, status, self._json(data, f"the result of {problem!r}"))

    def results(self, arm: str | None = None) -> Iterator[Result]:
        """All results (of one arm), by arm and problem id, with bounded memory."""
        last: tuple[str, str] | None = None
        only = "1" if arm is None else "arm = ?"
        while True:
            after = "" if last is None else "AND (arm, problem) > (?, ?)"
            rows = self._fetch(
                f"SELECT arm, problem, status, data FROM results WHERE {only} {after}"
                f" ORDER BY arm, problem LIMIT {PAGE_ROWS}",
                (*(() if arm is None else (arm,)), *(last or ())),
                chars_at=3,
            )
            if not rows:
                return
            for of, problem, status, data in rows:
                yield Result(of, problem, status, self._json(data, f"the result of {problem!r}"))
            last = rows[-1][:2]

    def results_from(self, mark: int) -> Iterator[tuple[int, float, Result]]:
        """Results with their marks and times, from a mark on: what was stored since is at ``mark`` or behind.

        A result that replaces another gets a new mark, or keeps the highest; so who has seen all up to the
        highest mark asks from that very one again.
        """
        while True:
            rows = self._fetch(
                "SELECT rowid, at, arm, problem, status, data FROM results WHERE rowid >= ?"
                f" ORDER BY rowid LIMIT {PAGE_ROWS}",
                (mark,),
                chars_at=5,
            )
            for at_mark, at, arm, problem, status, data in rows:
                what = f"the result of {problem!r}"
                yield at_mark, at, Result(arm, problem, status, self._json(data, what))
            if not rows:
                return
            mark = rows[-1][0] + 1

    def latest(self, conversations: int, attempts: int = 400) -> list[tuple[str, str, int]]:
        """Arm, problem and last event of the conversations with the newest attempts, newest first.

        Found among so many newest attempts and verdicts.
        """
        rows = self._fetch(
            "SELECT arm, problem, max(seq) FROM (SELECT arm, problem, seq FROM events"
            " WHERE kind IN ('attempt', 'verdict') ORDER BY seq DESC LIMIT ?)"
            " GROUP BY arm, problem ORDER BY 3 DESC LIMIT ?",
            (attempts, conversations),
        )
        return [(arm, problem, seq) for arm, problem, seq in rows]

    def sessions(self) -> list[tuple[float, float]]:
        """When each process that worked on the journal began and was last seen at work (Unix time)."""
        return [(float(a), float(b)) for a, b in self._fetch("SELECT started, last_seen FROM sessions")]

    # --- money -----------------------------------------------------------------------------------

    def charges(
        self, arm: str | None = None, problem: str | None = None, *, lane: str | None = None
    ) -> Totals:
        """Reservations summed by state: all, or those of one arm, of one problem of it, of one lane."""
        if problem is not None and arm is None:
            raise ValueError("charges of a problem need its arm as well")
        given = {"arm": arm, "problem": problem, "lane": lane}
        asked = {name: value for name, value in given.items() if value is not None}
        where = "WHERE " + " AND ".join(f"r.{name} = ?" for name in asked) if asked else ""
        rows = self._fetch(f"{_TOTALS} {where} GROUP BY 1", tuple(asked.values()))
        return Totals(**dict(_charge(row) for row in rows))

    def charges_by_arm(self) -> dict[str, Totals]:
        """:meth:`charges` of each arm; calls that arms share are in a scope of their own."""
        sums: dict[str, dict[str, Charge]] = {}
        for *row, arm in self._fetch(f"{_TOTALS_BY_ARM} GROUP BY 1, r.arm"):
            state, charge = _charge(row)
            sums.setdefault(arm, {})[state] = charge
        return {arm: Totals(**by_state) for arm, by_state in sums.items()}

    def taken(self, arm: str) -> tuple[Spend, Spend]:
        """What the first attempts count that ``arm`` took from those that arms share: confirmed, assumed."""
        sums = {False: Spend(), True: Spend()}
        for assumed, count, tokens, calls, priced, usd in self._fetch(
            "SELECT data ->> '$.assumed', count(*), sum(data ->> '$.tokens'), sum(data ->> '$.calls'),"
            " count(data ->> '$.usd'), sum(data ->> '$.usd') FROM events"
            " WHERE arm = ? AND kind = 'taken' GROUP BY 1",
            (arm,),
        ):
            sums[bool(assumed)] = Spend(tokens, calls, None if priced < count else float(usd))
        return sums[False], sums[True]

    # --- waves -----------------------------------------------------------------------------------

    def pending_waves(self) -> list[tuple[Wave, list[PendingCall]]]:
        """Waves that have not ended, oldest first, with those of their calls that are not settled."""
        if not self._has_waves():
            return []
        waves = []
        for id, lane, model, state, ref, data in self._fetch(
            "SELECT id, lane, model, state, ref, data FROM waves WHERE state <> 'ended' ORDER BY at, id"
        ):
            wave = Wave(id, lane, model, state, ref, self._json(data, f"wave {id}"))
            rows = self._fetch(
                "SELECT r.id, r.arm, r.problem, r.branch, r.kind, r.ordinal, r.attempt, r.model, r.tokens,"
                " r.usd, r.prompt_tokens, r.lane, c.fingerprint, c.data FROM wave_calls c"
                " JOIN reservations r ON r.id = c.reservation LEFT JOIN settlements s ON s.id = r.id"
                " WHERE c.wave = ? AND s.id IS NULL ORDER BY r.id",
                (id,),
            )
            calls = []
            for number, *key, attempt, asked, tokens, usd, prompt, of, mark, request in rows:
                reserve = Reserve(number, EventKey(*key), attempt, asked, tokens, usd, prompt, of)
                call = WaveCall(number, id, mark, self._json(request, f"the request of reservation {number}"))
                calls.append(PendingCall(call, reserve))
            waves.append((wave, calls))
        return waves

    def waves_out(self) -> list[tuple[str, int]]:
        """Waves that have not ended: the server's name ("" before it has one), and their open calls."""
        if not self._has_waves():
            return []
        return [
            (str(ref), int(count))
            for ref, count in self._fetch(
                "SELECT w.ref, count(*) FROM waves w JOIN wave_calls c ON c.wave = w.id"
                " LEFT JOIN settlements s ON s.id = c.reservation"
                " WHERE w.state <> 'ended' AND s.id IS NULL GROUP BY w.id ORDER BY w.at, w.id"
            )
        ]

    def _has_waves(self) -> bool:
        """Whether the file has the tables: it may be an older one, opened to read."""
        return bool(self._fetch("SELECT 1 FROM sqlite_master WHERE name = 'wave_calls'"))
