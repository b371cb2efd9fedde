"""Cases for the verifiers: OlympiadBench's references rewritten (right) and perturbed (wrong)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from .verifiers_perturb import perturbations
from .verifiers_rewrites import rewrites

__all__ = ["BenchCase", "cases", "load"]


@dataclass(frozen=True, slots=True)
class BenchCase:
    """A prediction with the verdict it should get. ``kind`` names how it was made."""

    id: str
    prediction: str
    reference: str
    right: bool
    kind: str
    answer_type: str
    unit: str | None
    multiple: bool
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load(path: Path) -> list[dict[str, Any]]:
    """The problems of an OlympiadBench file of JSON lines."""
    with path.open("rb") as file:
        return [orjson.loads(line) for line in file if line.strip()]


def cases(
    problems: list[dict[str, Any]], *, seed: int = 0, per_problem: int = 4, hints: bool = False
) -> Iterator[BenchCase]:
    """``per_problem`` rewritten and as many perturbed cases a problem (all of them for 0).

    ``hints`` says that the verifiers will be told each answer's type and unit.
    """
    for problem in problems:
        rng = random.Random(f"{seed}/{problem['id']}")
        reference = problem["final_answer"][0]
        bare = reference.strip()
        if bare.startswith("$") and bare.endswith("$") and bare.count("$") == 2:
            bare = bare[1:-1]
        elif "$" in bare:
            bare = bare.replace("$", "")
        right = [
            (kind, text, True) for kind, text in rewrites(bare, problem["answer_type"], problem["unit"], rng)
        ]
        wrong = [
            (kind, text, False)
            for kind, text in perturbations(bare, problem["answer_type"], problem["unit"], rng)
        ]
        if not hints:  # without being told the reference's unit nobody can see that another one is wrong
            wrong = [case for case in wrong if case[0] != "wrong unit"]
        if per_problem:
            right = rng.sample(right, min(per_problem, len(right)))
            wrong = rng.sample(wrong, min(per_problem, len(wrong)))
        for index, (kind, text, is_right) in enumerate([*right, *wrong]):
            if not is_right and rng.random() < 0.5:
                text = rf"So the final answer is \boxed{{{text}}}."
            yield BenchCase(
                f"{problem['id']}/{index}", text, reference, is_right, kind, problem["answer_type"],
                problem["unit"],
                bool(problem["is_multiple_answer"]), problem["error"],
            )  # fmt: skip
