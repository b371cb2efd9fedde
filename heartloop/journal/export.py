"""The canonical export: what a run did, without when it did it.

Two runs of the same problems with the same seed on a scripted backend export the same bytes.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator
from typing import Any

import orjson

from heartloop.journal.queries import JournalQueries
from heartloop.journal.reader import JournalReader
from heartloop.journal.records import Event, Result

__all__ = ["canonical"]

_TIMES = frozenset({"seconds", "at"})


def canonical(source: JournalQueries | str | os.PathLike[str]) -> Iterator[bytes]:
    """Events and results as JSON lines, each with its newline, in the order of their keys.

    They sort by (arm, problem, branch, kind, ordinal); a result as branch ``""`` and kind ``"result"``.
    Left out: the order of writing, and every field named ``seconds`` or ``at``, at any depth.

    Args:
        source: a journal, open for reading or writing, or the path of one.
    """
    if isinstance(source, JournalQueries):
        yield from _lines(source)
        return
    with JournalReader(source) as reader:
        yield from _lines(reader)


def _lines(journal: JournalQueries) -> Iterator[bytes]:
    events: Iterator[Event | Result] = journal.iter_events()
    results: Iterator[Event | Result] = journal.results()
    for item in heapq.merge(events, results, key=_place):
        yield _line(item)


def _place(item: Event | Result) -> tuple[Any, ...]:
    # By UTF-8, as SQLite sorts; the order of Python's strings is the same.
    if isinstance(item, Result):
        return (item.arm, item.problem, "", "result", 0)
    key = item.key
    return (key.arm, key.problem, key.branch, key.kind, key.ordinal)


def _line(item: Event | Result) -> bytes:
    fields = dict(zip(("arm", "problem", "branch", "kind", "ordinal"), _place(item), strict=True))
    if isinstance(item, Result):
        fields["status"] = item.status
    else:
        fields["fingerprint"] = item.fingerprint
    fields["data"] = _timeless(item.data)
    try:
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # lone surrogates, huge integers
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in _TIMES}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return value
