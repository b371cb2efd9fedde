"""A journal in memory, that can be cut off after any event as a killed process would leave it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from heartloop.journal.base import NullJournal
from heartloop.journal.records import Event, Record, Result


class MemoryJournal(NullJournal):
    """Keeps events and results in order; charges are not kept."""

    def __init__(self, events: Sequence[Event] = (), results: Sequence[Result] = ()) -> None:
        self.kept = list(events)
        self.ends = {(result.arm, result.problem): result for result in results}

    async def write(self, *records: Record) -> None:
        self.post(*records)

    def post(self, *records: Record) -> None:
        for record in records:
            if isinstance(record, Event):
                assert record.key not in {event.key for event in self.kept}, f"written twice: {record.key}"
                self.kept.append(record)
            elif isinstance(record, Result):
                self.ends[(record.arm, record.problem)] = record

    def events(self, arm: str, problem: str) -> list[Event]:
        return [event for event in self.kept if (event.key.arm, event.key.problem) == (arm, problem)]

    def result(self, arm: str, problem: str) -> Result | None:
        return self.ends.get((arm, problem))

    def results(self, arm: str | None = None) -> Iterator[Result]:
        return iter([end for end in self.ends.values() if arm in (None, end.arm)])

    def cut(self, after: int) -> MemoryJournal:
        """What a process leaves that was killed after so many events."""
        return MemoryJournal(self.kept[:after])

    def decisions(self, prefix: str) -> list[Any]:
        """Values of the decisions whose name begins so, in order."""
        named = [event.data for event in self.kept if event.key.kind == "decision"]
        return [data["value"] for data in named if data["name"].startswith(prefix)]
