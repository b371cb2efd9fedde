"""heartloop_verifiers measured against Math-Verify on OlympiadBench's references, rewritten and perturbed.

::

    python -m venv mv && mv/bin/pip install "math-verify[antlr4_13_2]==0.9.0"
    python -m heartloop_benchmarks.perf.verifiers --data olympiadbench_oe_to_maths_en.jsonl --math-verify
    mv/bin/python

Math-Verify is no dependency of this project: it runs in its own environment, on the same cases, in one
process, after this package has run in one process (the caller) with one worker. Without ``--math-verify``
only this package is measured.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from heartloop_verifiers import Pool, verify, verify_many

from .verifiers_cases import BenchCase, cases, load

__all__ = ["Result", "main", "measure", "measure_peer"]


@dataclass(frozen=True, slots=True)
class Result:
    """One system's verdicts and times (seconds) on a list of cases."""

    name: str
    verdicts: tuple[bool | None, ...]
    seconds: tuple[float, ...]
    wall: float

    def figures(self, made: Sequence[BenchCase]) -> dict[str, Any]:
        """Accuracy, errors of both kinds, times. An unknown verdict counts as an error."""
        wrong = [
            (case, verdict)
            for case, verdict in zip(made, self.verdicts, strict=True)
            if verdict is not case.right
        ]
        ordered = sorted(self.seconds)
        return {
            "system": self.name,
            "cases": len(made),
            "accuracy": 1 - len(wrong) / len(made),
            "false_positives": sum(verdict is True for _, verdict in wrong),
            "false_negatives": sum(case.right for case, _ in wrong),
            "unknown": sum(verdict is None for _, verdict in wrong),
            "median_us": statistics.median(ordered) * 1e6,
            "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
            "cases_per_second": len(made) / self.wall,
        }


def measure(made: Sequence[BenchCase], workers: int, *, hints: bool) -> Result:
    """This package: times case by case through ``verify``, throughput through ``verify_many``."""
    pool = Pool(workers)
    try:
        verify(r"\sin 1", "2", pool=pool)  # starts a worker
        given = [_arguments(case, hints) for case in made]
        each: list[float] = []
        for arguments in given:
            begun = time.perf_counter()
            verify(**arguments, pool=pool)
            each.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        verdicts = verify_many(given, pool=pool)
        wall = time.perf_counter() - begun
    finally:
        pool.close()
    return Result(
        f"heartloop_verifiers, {workers} worker", tuple(v.correct for v in verdicts), tuple(each), wall
    )


def _arguments(case: BenchCase, hints: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {"prediction": case.prediction, "reference": case.reference}
    return (
        plain | {"kind": case.answer_type, "unit": case.unit, "multiple": case.multiple} if hints else plain
    )


def measure_peer(made: Sequence[BenchCase], python: str) -> Result:
    """Math-Verify in its own environment, one process."""
    script = Path(__file__).with_name("verifiers_peer.py")
    done = subprocess.run(
        [python, str(script)],
        input=orjson.dumps([[case.prediction, case.reference] for case in made]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    rows = orjson.loads(done.stdout)
    return Result(
        "Math-Verify", tuple(r[0] for r in rows), tuple(r[1] for r in rows), sum(r[1] for r in rows)
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="OlympiadBench problems, JSON lines")
    parser.add_argument(
        "--math-verify", metavar="PYTHON", help="interpreter of an environment with math-verify"
    )
    parser.add_argument(
        "--per-problem", type=int, default=3, help="rewritten and as many perturbed cases (0: all)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--hints", action="store_true", help="pass the answer's type and unit along")
    parser.add_argument("--show", action="store_true", help="print every wrong verdict")
    arguments = parser.parse_args(argv)
    made = list(
        cases(
            load(arguments.data),
            seed=arguments.seed,
            per_problem=arguments.per_problem,
            hints=arguments.hints,
        )
    )
    ours = measure(made, arguments.workers, hints=arguments.hints)
    report: dict[str, Any] = {"ours": ours.figures(made)}
    if arguments.math_verify:
        peer = measure_peer(made, arguments.math_verify)
        report["peer"] = peer.figures(made)
        report["throughput_ratio"] = report["ours"]["cases_per_second"] / report["peer"]["cases_per_second"]
        lost = [
            c
            for c, a, b in zip(made, ours.verdicts, peer.verdicts, strict=True)
            if b is c.right and a is not c.right
        ]
        report["regressions"] = [
            {"id": c.id, "kind": c.kind, "prediction": c.prediction, "reference": c.reference} for c in lost
        ]
        kinds = Counter(c.kind for c, b in zip(made, peer.verdicts, strict=True) if b is not c.right)
        report["peer_errors_by_kind"] = dict(kinds.most_common(15))
    if arguments.show:
        report["errors"] = [
            {"right": c.right, "got": v, "kind": c.kind, "prediction": c.prediction, "reference": c.reference}
            for c, v in zip(made, ours.verdicts, strict=True)
            if v is not c.right
        ]
    sys.stdout.buffer.write(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
