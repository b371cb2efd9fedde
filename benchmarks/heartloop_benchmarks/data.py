"""Rows of a benchmark's data: from JSONL, JSON, CSV or Parquet files, a folder of them, or the hub.

Files are read one row at a time (a JSON file as a whole). What they say is not trusted: nothing in them is
executed or unpickled, and errors name file and row.
"""

from __future__ import annotations

import ast
import codecs
import csv
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from heartloop.errors import DataError
from heartloop_benchmarks.base import Benchmark, Row
from heartloop_benchmarks.parquet import parquet_records

__all__ = ["Data", "open_data", "strings"]

_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
_LARGEST_CELL = 1 << 27
"""Characters of one CSV cell: a test suite of LiveCodeBench may have megabytes."""
_LONGEST_LITERAL = 20_000


@dataclass(frozen=True, slots=True)
class Data:
    """Files of rows; iterating reads them.

    Attributes:
        files: in the order in which they are read.
        source: where they came from, for a person to read ("data.jsonl", "hf:cais/hle@5a81a4c").
        revision: the hub's commit; None for files of one's own.
    """

    files: tuple[Path, ...]
    source: str
    revision: str | None = None

    def __iter__(self) -> Iterator[Row]:
        """The rows, one after the other. Raises DataError for a file or row that can't be read."""
        for file in self.files:
            try:
                yield from _READERS[file.suffix.lower()](file)
            except OSError as error:
                raise DataError(f"{file}: can't read the data: {error.strerror or error}") from error

    def digest(self) -> str:
        """SHA-256 of the files' bytes, one after the other. Names and folders don't count."""
        state = hashlib.sha256()
        for file in self.files:
            try:
                with file.open("rb") as opened:
                    state.update(hashlib.file_digest(opened, "sha256").digest())
            except OSError as error:
                raise DataError(f"{file}: can't read the data: {error.strerror or error}") from error
        return state.hexdigest()


def open_data(
    benchmark: Benchmark,
    path: str | os.PathLike[str] | None = None,
    options: Any = None,
    *,
    revision: str | None = None,
) -> Data:
    """The benchmark's rows.

    Args:
        path: a file, or a folder whose files with a known ending are read in the order of their names; None:
            the Hugging Face hub.
        options: the benchmark's; they may narrow down which files of the hub are fetched.
        revision: of the hub's repository, in place of the one that is pinned.

    Raises:
        DataError: no such file, none of a known kind, or the hub gave none: how to mend it is said.
        UsageError: an extra that is needed is not installed.
    """
    if path is None:
        from heartloop_benchmarks.hub import fetch

        return fetch(benchmark, options, revision=revision)
    given = Path(path)
    if given.is_dir():
        files = tuple(sorted(f for f in given.rglob("*") if f.suffix.lower() in _SUFFIXES and f.is_file()))
        if not files:
            raise DataError(f"{given}: no data in this folder; known are {', '.join(_SUFFIXES)}")
        return Data(files, str(given))
    if not given.exists():
        raise DataError(f"{given}: no such file")
    if given.suffix.lower() not in _SUFFIXES:
        raise DataError(f"{given}: not a known kind of data; known are {', '.join(_SUFFIXES)}")
    return Data((given,), str(given))


# --- kinds of files ----------------------------------------------------------------------------------


def _jsonl(file: Path) -> Iterator[Row]:
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            begun, offset = offset, offset + len(line)
            where = f"{file}, line {number}"
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield _row(where, _parsed(line, where), file, None if number == 1 else begun)


def _json(file: Path) -> Iterator[Row]:
    whole = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    data = _parsed(whole, str(file))
    if isinstance(data, Mapping):
        lists = [value for value in data.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise DataError(f"{file}: neither a list of records nor an object with one list of them")
        data = lists[0]
    if not isinstance(data, list):
        raise DataError(f"{file}: not a list of records")
    for number, record in enumerate(data, 1):
        yield _row(f"{file}, record {number}", record, file)


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, strict=True)
        number = 1
        try:
            for number, record in enumerate(reader, 1):
                where = f"{file}, record {number}"
                if None in record:
                    raise DataError(f"{where}: more cells than the header has names")
                yield _row(where, {name: value or None for name, value in record.items()}, file)
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 text: {error.reason}") from error
        except csv.Error as error:
            raise DataError(f"{file}, record {number}: not valid CSV: {error}") from error


def _parquet(file: Path) -> Iterator[Row]:
    for number, record in parquet_records(file):
        yield _row(f"{file}, record {number}", record, file)


_READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}


def _parsed(text: bytes, where: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None


def _row(where: str, record: Any, file: Path, offset: int | None = None) -> Row:
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: not a record with named fields")
    return Row(where, record, file, offset)


# --- values ------------------------------------------------------------------------------------------


def strings(row: Row, *names: str) -> tuple[str, ...]:
    """A field that holds several texts: a list, or (in CSV) a list written as JSON or as Python writes it.

    Any other text is one text, so "[1, 3]" stays an interval. Raises DataError for what is neither.
    """
    value = row.get(*names)
    if isinstance(value, str) and value.lstrip().startswith("[") and len(value) <= _LONGEST_LITERAL:
        try:
            listed = orjson.loads(value)
        except orjson.JSONDecodeError:
            try:
                listed = ast.literal_eval(value.strip())  # literals only: nothing is run
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                listed = None
        if isinstance(listed, list) and listed and all(isinstance(one, str) for one in listed):
            value = listed
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        texts = tuple(
            repr(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in value
        )
        if not texts or not all(isinstance(one, str) and one.strip() for one in texts):
            raise row.error(f"the field {names[0]!r} is not a list of texts")
        return texts
    return (row.text(*names),)


def truth(row: Row, name: str) -> bool | None:
    """A field that is yes or no, however it is written; None where it is missing."""
    value = row.get(name)
    if value is None or isinstance(value, bool):
        return value
    said = str(value).strip().lower()
    if said in ("true", "1", "yes"):
        return True
    if said in ("false", "0", "no"):
        return False
    raise row.error(f"the field {name!r} is neither true nor false: {value!r}")
