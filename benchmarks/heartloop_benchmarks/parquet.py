"""Rows of Parquet files, a few at a time, whatever the file says of itself.

Parquet packs what repeats to almost nothing, so a file of some kilobytes may unfold to more than a machine
holds. What unfolds to more than :data:`LARGE` and to more than :data:`RATIO` times its size is refused:

* a row group, by the metadata, before it is read: pages are decoded whole, and one may be a whole row group;
* texts in lists that repeat, before they are read: one record may name one long text a million times;
* all that was read so far (from :data:`MOST` on), since every problem is kept in the run's journal.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heartloop.errors import DataError, UsageError

__all__ = ["LARGE", "MOST", "RATIO", "parquet_records"]

LARGE = 1 << 28
"""Bytes to which anything may unfold, however small it is in the file."""

MOST = 1 << 32
"""Bytes to which a whole file may unfold, however small it is."""

RATIO = 100
"""How many times its size in the file what is larger may unfold to; texts and images seldom get to 20."""

_ROWS = 16
_LEAST = 4
"""Bytes of a value in memory, however many of them are one number in the file."""


def parquet_records(file: Path) -> Iterator[tuple[int, Any]]:
    """The records with their numbers (from 1).

    Raises:
        DataError: no Parquet, text that is no UTF-8, or what unfolds to far more than its size.
        UsageError: the extra is not installed.
        OSError: it can't be read.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(
            f"{file}: reading Parquet needs the extra [data]: pip install 'heartloop[data]'"
        ) from error
    try:
        with parquet.ParquetFile(file) as opened:
            rows = _rows_at_a_time(file, opened.metadata)
            most = max(MOST, RATIO * file.stat().st_size)
            number = total = 0
            for batch in opened.iter_batches(batch_size=rows):
                total += batch.nbytes
                if total > most:
                    raise _too_much(f"{file}, up to record {number + batch.num_rows}", total)
                try:
                    records = batch.to_pylist()
                except (ValueError, OverflowError) as error:  # text that is no UTF-8, dates before Christ
                    where = f"{file}, one of records {number + 1} to {number + batch.num_rows}"
                    raise DataError(f"{where}: can't be read: {error}") from error
                for record in records:
                    number += 1
                    yield number, record
    except arrow.ArrowException as error:
        raise DataError(f"{file}: not valid Parquet: {error}") from error


def _rows_at_a_time(file: Path, metadata: Any) -> int:
    """How many rows may be read at a time: few, since they may carry images or megabytes of tests.

    Raises:
        DataError: something unfolds to too much.
    """
    rows = _ROWS
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        where = f"{file}, row group {number + 1}"
        packed = unfolded = 0
        lists: list[Any] = []
        for column in map(group.column, range(group.num_columns)):
            size = column.total_uncompressed_size
            packed += column.total_compressed_size
            # A single record may hold all the values of a column of lists.
            nested = column.num_values > group.num_rows
            unfolded += max(size, _LEAST * column.num_values) if nested else size
            if column.has_dictionary_page:
                rows = min(rows, max(1, LARGE // max(1, size)))  # each of them may be the longest text
                if nested and size * column.num_values > LARGE >= size:
                    lists.append(column)
        _check(where, unfolded, packed)
        for column in lists:
            if column.physical_type == "BYTE_ARRAY":
                unfolded = _written_out(file, number, column.path_in_schema)
                _check(f"{where}, {column.path_in_schema}", unfolded, column.total_compressed_size)
    return rows


def _check(where: str, unfolded: int, packed: int) -> None:
    if unfolded > LARGE and unfolded > RATIO * packed:
        raise _too_much(where, unfolded)


def _too_much(where: str, size: int) -> DataError:
    return DataError(
        f"{where}: unfolds to {size / 2**20:,.0f} MiB, far more than its size in the file. If that is meant, "
        "write the data as JSONL"
    )


def _written_out(file: Path, group: int, path: str) -> int:
    """Bytes of the texts in a column of lists, read as references to a dictionary of them."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(file, read_dictionary=[path]) as opened:
        table = opened.read_row_group(group, columns=[path])
    return sum(_size(chunk) for column in table.columns for chunk in column.chunks)


def _size(array: Any) -> int:
    import pyarrow as arrow
    import pyarrow.compute as compute

    kind, types = array.type, arrow.types
    if types.is_dictionary(kind):
        lengths = compute.binary_length(array.dictionary).cast("int64")
        return int(compute.sum(compute.take(lengths, array.indices)).as_py() or 0)
    if types.is_map(kind):
        return _size(array.keys) + _size(array.items)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _size(array.flatten())
    if types.is_struct(kind):
        return sum(_size(array.field(place)) for place in range(kind.num_fields))
    return int(array.nbytes)
