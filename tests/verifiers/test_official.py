r"""OlympiadBench's published rules, one by one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from heartloop.types import Problem
from heartloop_verifiers import Pool, audit, verify, verify_many
from heartloop_verifiers.official import accuracies, extract, is_dropped

DATA = os.environ.get("HEARTLOOP_DATA")


@pytest.mark.parametrize(
    ("prediction", "reference", "options", "right"),
    [
        ("So the final answer is \\boxed{1}, \\boxed{2}.", "2,1", {}, True),
        ("First \\boxed{9}. So the final answer is \\boxed{3}.", "3", {}, True),
        ("First \\boxed{9}. Then \\boxed{3}.", "3", {}, False),  # without the marker all boxes are joined
        ("First \\boxed{9}. Then \\boxed{3}.", "9,3", {}, True),
        ("some text\nthe value is $7$", "7", {}, True),
        ("100", "1", {}, True),
        ("0.01", "1", {}, True),
        ("99", "1", {}, False),
        ("1.000000009", "1", {}, True),
        ("1.00000002", "1", {}, False),
        ("4.3", "4.2", {"precision": "1e-1"}, True),
        ("4.31", "4.2", {"precision": "1e-1"}, False),
        ("1.001, 4.25", "4.2, 1", {"precision": "1e-1,1e-2"}, True),
        ("1.05, 4.25", "4.2, 1", {"precision": "1e-1,1e-2"}, False),
        ("(4.25,1)", "(4.2,1)", {"precision": "1e-1", "kind": "Tuple"}, False),
        ("4x+4y=4", "2x+2y=2", {}, True),
        ("3x+3y=3", "2x+2y=2", {}, False),
        ("[1,3]", "(1,3)", {}, False),
        ("(2,251)", "(2,251,252)", {}, False),
        ("(-\\infty,0)\\cup(1,2)", "(-\\infty, 0) \\cup (1,2)", {}, True),
        ("x \\in (1,2)", "(1,2)", {}, True),
        ("\\pm 3", "-3,3", {}, True),
        ("0.333333333333", "\\frac13", {}, True),
        ("0.3333", "\\frac13", {}, False),
        ("90^\\circ", "90", {}, True),
        ("62.5\\%", "62.5%", {}, True),
        ("f(x)=2x", "2x", {}, True),
        ("5 \\mathrm{~km}", "5km", {}, True),
        ("", "2", {}, False),
        ("<No response>", "2", {}, False),
        ("\\boxed{2", "2", {}, False),
    ],
)
def test_rules(prediction: str, reference: str, options: dict[str, object], right: bool, pool: Pool) -> None:
    verdict = verify(prediction, reference, mode="official", pool=pool, timeout=20, **options)  # type: ignore[arg-type]
    assert verdict.correct is right, verdict


def test_strict_differs_where_it_should(pool: Pool) -> None:
    assert verify("5", "0.05", mode="official", pool=pool).correct is True
    assert verify("5", "0.05", pool=pool).correct is False
    assert verify("3x+3y=3", "2x+2y=2", pool=pool).correct is True


def test_what_is_judged() -> None:
    assert extract("So the final answer is 1.\nmore. So the final answer is 2.\nend") == "2."
    assert extract("no marker") == "no marker"
    assert extract("") is None


def test_both_accuracies() -> None:
    assert is_dropped("")
    assert not is_dropped("5")
    assert accuracies([("5", True), ("6", False), ("", False), ("<No response>", False)]) == (0.25, 0.5)
    assert accuracies([]) == (None, None)


def test_audit_names_what_is_wrong(pool: Pool) -> None:
    problems = [
        Problem("a", "?", r"\frac{1}{2}"),
        Problem("b", "?", "$221,$8$"),
        Problem("c", "?", r"\frac{1}{2"),
        Problem("d", "?", None),
        Problem("e", "?", ("2", "")),
        {"id": "f", "final_answer": [r"x \weird y"]},
        {"id": "g", "answer": "Paris"},
    ]
    found: dict[str, str] = {}
    for finding in audit(problems, pool=pool):
        found.setdefault(finding.problem_id, finding.what)
    assert set(found) == {"b", "c", "d", "e", "f"}
    assert "odd number" in found["b"]
    assert "braces" in found["c"]
    assert "no reference" in found["d"]


@pytest.mark.skipif(not DATA, reason="HEARTLOOP_DATA is not set: no OlympiadBench references")
@pytest.mark.parametrize("mode", ["strict", "official"])
def test_olympiadbench_references_equal_themselves(mode: str, pool: Pool) -> None:
    path = Path(DATA or "") / "olympiadbench_oe_to_maths_en.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    cases = [
        {
            "prediction": f"So the final answer is {r['final_answer'][0]}",
            "reference": r["final_answer"],
            "kind": r["answer_type"],
            "unit": r["unit"],
            "multiple": r["is_multiple_answer"],
            "precision": r["error"],
            "mode": mode,
        }
        for r in rows
    ]
    wrong = [
        r["id"] for r, v in zip(rows, verify_many(cases, pool=pool), strict=True) if v.correct is not True
    ]
    assert wrong == []
