"""The generator of cases and the measurement, on a handful of problems."""

from __future__ import annotations

from heartloop_benchmarks.perf.verifiers import measure
from heartloop_benchmarks.perf.verifiers_cases import cases

_PROBLEMS = [
    {
        "id": ident,
        "final_answer": [text],
        "answer_type": kind,
        "unit": None,
        "is_multiple_answer": several,
        "error": None,
    }
    for ident, (text, kind, several) in enumerate(
        [
            ("$1938$", "Numerical", False),
            (r"$\frac{25}{2}$", "Numerical", False),
            (r"$\frac{9 \sqrt{3}}{20}$", "Numerical", False),
            (r"$\frac{n(n+1)}{2}$", "Expression", False),
            ("$-2,0,2$", "Numerical", True),
            ("$(2,251,252)$", "Tuple", False),
            (r"$[\frac{1}{2}, 8)$", "Interval", False),
        ]
    )
]


def test_rewritten_references_are_right_and_perturbed_ones_are_wrong() -> None:
    made = list(cases(_PROBLEMS, seed=3, per_problem=0))
    assert sum(case.right for case in made) > 150
    assert sum(not case.right for case in made) > 60
    assert made == list(cases(_PROBLEMS, seed=3, per_problem=0))
    result = measure(made, 1, hints=False)
    wrong = [
        (c.prediction, c.reference, v) for c, v in zip(made, result.verdicts, strict=True) if v is not c.right
    ]
    assert wrong == []
    figures = result.figures(made)
    assert (figures["cases"], figures["accuracy"]) == (len(made), 1.0)
    assert 0 < figures["median_us"] <= figures["p99_us"]
