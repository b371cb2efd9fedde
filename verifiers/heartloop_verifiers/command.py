"""``heartloop verify``: a file of cases in, a file of verdicts out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from heartloop.errors import UsageError

__all__ = ["register", "verify_file"]

_FIELDS = frozenset(("kind", "mode", "precision", "unit", "multiple"))
_CHUNK = 2000


def register(app: typer.Typer) -> None:
    """Add the command to a typer application."""

    @app.command(name="verify")
    def verify(
        cases: Annotated[
            Path,
            typer.Argument(
                help="JSON lines: id, prediction, reference[, kind, mode, precision, unit, multiple]"
            ),
        ],
        out: Annotated[Path, typer.Option("--out", help="where to write the verdicts (JSON lines)")],
        timeout: Annotated[float, typer.Option(help="seconds per case before its worker is killed")] = 2.0,
        workers: Annotated[int, typer.Option(help="worker processes; 0: as many as CPUs")] = 0,
    ) -> None:
        """Check answers against references: CASES.jsonl in, verdicts out."""
        raise typer.Exit(verify_file(cases, out, timeout=timeout, workers=workers))


def verify_file(cases: Path, out: Path, *, timeout: float = 2.0, workers: int = 0) -> int:
    """Read cases, write verdicts in their order; returns the exit code (0 done, 1 failed, 2 bad usage).

    A broken line is reported by number on standard error; the others are still judged, and the code is 1.
    """
    from .api import verify_many
    from .options import Case
    from .pool import Pool

    if not timeout > 0 or workers < 0:
        print("heartloop verify: --timeout must be positive and --workers not negative", file=sys.stderr)
        return 2
    try:
        source = cases.open("rb")
    except OSError as error:
        print(f"heartloop verify: can't read {cases}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        target = out.open("wb")
    except OSError as error:
        source.close()
        print(f"heartloop verify: can't write {out}: {error.strerror}", file=sys.stderr)
        return 2
    pool = Pool(workers or None)
    counts = {True: 0, False: 0, None: 0}
    broken = 0
    try:
        with source, target:
            chunk: list[tuple[Any, Case]] = []

            def settle() -> None:
                for (ident, _), verdict in zip(
                    chunk, verify_many([c for _, c in chunk], timeout=timeout, pool=pool), strict=True
                ):
                    counts[verdict.correct] += 1
                    line = {
                        "id": ident,
                        "correct": verdict.correct,
                        "method": verdict.method,
                        "seconds": round(verdict.seconds, 6),
                        "reason": verdict.reason,
                    }
                    target.write(orjson.dumps(line) + b"\n")
                chunk.clear()

            for number, parsed in _lines(source):
                if isinstance(parsed, str):
                    broken += 1
                    print(f"{cases}:{number}: {parsed}", file=sys.stderr)
                    continue
                chunk.append(parsed)
                if len(chunk) >= _CHUNK:
                    settle()
            settle()
    except OSError as error:
        print(f"heartloop verify: {error}", file=sys.stderr)
        return 1
    finally:
        pool.close()
    total = sum(counts.values())
    print(
        f"{total} cases: {counts[True]} right, {counts[False]} wrong, {counts[None]} unknown"
        + (f"; {broken} broken lines" if broken else ""),
        file=sys.stderr,
    )
    return 1 if broken else 0


def _lines(source: Any) -> Iterator[tuple[int, Any]]:
    """(line number, (id, case)) or (line number, what is wrong with it)."""
    from .options import Case, Options

    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield number, f"not JSON: {error}"
            continue
        if not isinstance(record, dict):
            yield number, "not a JSON object"
            continue
        missing = [key for key in ("id", "prediction", "reference") if key not in record]
        if missing:
            yield number, f"lacks {', '.join(missing)}"
            continue
        reference = record["reference"]
        texts = reference if isinstance(reference, list) else [reference]
        if (
            not isinstance(record["prediction"], str)
            or not texts
            or not all(isinstance(t, str) for t in texts)
        ):
            yield number, "prediction must be text, reference text or a list of texts"
            continue
        try:
            options = Options.of(**{key: record[key] for key in _FIELDS if record.get(key) is not None})
        except (UsageError, AttributeError, TypeError) as error:
            yield number, str(error)
            continue
        yield number, (record["id"], Case(record["prediction"], reference, options))
