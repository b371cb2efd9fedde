"""Answers from a recorded run: for analysis and tests without paying twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from heartloop.backends.base import bytes_bound
from heartloop.engine.fingerprint import fingerprint, fingerprint_of
from heartloop.errors import JournalCorrupt, UnknownRequest, UsageError
from heartloop.types import Completion, Message, Request, text_of

__all__ = ["ReplayBackend"]

Recorded: TypeAlias = Mapping[str, Completion | Sequence[Completion]]


class ReplayBackend:
    """Answers each request as a journal recorded it.

    Equal requests that were recorded several times are answered in the order of the record; one more
    than were recorded is refused, since a repeated sample would pass for a fresh one.
    """

    real: bool = False
    max_concurrency: int | None = None
    context_tokens: int | None = None

    def __init__(self, recorded: str | os.PathLike[str] | Recorded, *, name: str | None = None) -> None:
        """
        Args:
            recorded: a journal's path, or a mapping from a request's fingerprint
                (:func:`heartloop.engine.fingerprint.fingerprint`) to its completion or completions.
            name: the model's name; by default the one that the journal's requests name. It is needed
                for a journal with several models, and ``"replay"`` for a mapping.

        Raises:
            UsageError: no completions in the journal, or those of several models and no ``name``.
            JournalError: the journal can't be read.
        """
        if isinstance(recorded, Mapping):
            pairs = [(key, c) for key, value in recorded.items() for c in _several(value)]
            self.name, self.structured_output = name or "replay", False
        else:
            self.name, pairs, self.structured_output = _read(Path(recorded), name)
        self._answers: dict[str, list[Completion]] = {}
        for key, completion in pairs:
            self._answers.setdefault(key, []).append(completion)
        self._asked: Counter[str] = Counter()
        self._closed = False

    def __repr__(self) -> str:
        return f"ReplayBackend(name={self.name!r}, requests={len(self._answers)})"

    async def complete(self, request: Request) -> Completion:
        """The recorded completion. Raises UnknownRequest where there is none (left)."""
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        key = fingerprint(request)
        answers = self._answers.get(key, [])
        place = self._asked[key]
        if place < len(answers):
            self._asked[key] += 1
            return answers[place]
        last = text_of(request.messages[-1].content)[:80] if request.messages else ""
        if answers:
            raise UnknownRequest(f"recorded {len(answers)} times, asked for once more: {last!r}")
        raise UnknownRequest(
            f"this request was not recorded: {last!r}. Prompts, sampling and the model's name must be "
            "those of the recorded run."
        )

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return bytes_bound(messages)

    async def aclose(self) -> None:
        self._closed = True


def _several(value: Completion | Sequence[Completion]) -> Iterable[Completion]:
    return (value,) if isinstance(value, Completion) else value


def _read(path: Path, name: str | None) -> tuple[str, list[tuple[str, Completion]], bool]:
    """The model's name and the completions of the journal at ``path``, in the order of the record, and
    whether any of them was asked for by a schema (judges then ask so again)."""
    from heartloop.engine.serial import completion_from_dict
    from heartloop.journal.reader import JournalReader

    found: dict[str, list[tuple[int, str, Completion]]] = {}
    by_schema: set[str] = set()
    with JournalReader(path) as reader:
        for event in reader.iter_events():
            if event.key.kind != "completion":
                continue
            try:
                request, completion = event.data["request"], completion_from_dict(event.data["completion"])
                row = (event.seq, fingerprint_of(request), completion)
                found.setdefault(request["model"], []).append(row)
                if "response_format" in request["sampling"].get("extra", {}):
                    by_schema.add(request["model"])
            except (KeyError, TypeError) as error:
                raise JournalCorrupt(f"{path}: event {event.seq} is no completion ({error})") from None
    if name is None:
        if len(found) != 1:
            which = f"several models ({', '.join(sorted(found))}): name one" if found else "no completions"
            raise UsageError(f"{path}: the journal holds {which}")
        name = next(iter(found))
    if name not in found:
        raise UsageError(f"{path}: the journal holds no completions of {name!r}, only of {sorted(found)}")
    # Events come by key; equal requests are answered in the order in which they were recorded.
    ordered = sorted(found[name], key=itemgetter(0))
    return name, [(key, completion) for _, key, completion in ordered], name in by_schema
