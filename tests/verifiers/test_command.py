"""``heartloop verify``: files in, files out, broken lines by number, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from heartloop_verifiers.command import register


def _app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)  # a single command would lose its name
    return app


def _run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(_app(), ["verify", *map(str, arguments)])
    return result.exit_code, result.output


def test_cases_in_verdicts_out(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    rows = [
        {"id": "a", "prediction": r"\boxed{0.5}", "reference": r"\frac12"},
        {"id": 2, "prediction": "5", "reference": ["6", "7"]},
        {"id": "c", "prediction": "5", "reference": "0.05", "mode": "official"},
        {
            "id": "d",
            "prediction": "4.3",
            "reference": "4.2",
            "precision": "1e-1",
            "unit": "%",
            "multiple": False,
        },
        {"id": "e", "prediction": "The answer is B", "reference": "B", "kind": "choice"},
        {"id": "f", "prediction": r"\sqrt[3]{8}", "reference": "2", "kind": None},
    ]
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "verdicts.jsonl"
    code, output = _run(cases, "--out", out, "--workers", 1)
    assert code == 0, output
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [v["id"] for v in verdicts] == ["a", 2, "c", "d", "e", "f"]
    assert [v["correct"] for v in verdicts] == [True, False, True, True, True, True]
    assert all(set(v) == {"id", "correct", "method", "seconds", "reason"} for v in verdicts)


def test_broken_lines_are_named_and_the_others_judged(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    good = json.dumps({"id": 1, "prediction": "1", "reference": "1"})
    lines = [
        good,
        "{broken",
        "[1]",
        '{"id": 2, "prediction": "1"}',
        '{"id": 3, "prediction": 1, "reference": "1"}',
    ]
    lines += ['{"id": 4, "prediction": "1", "reference": "1", "mode": "lenient"}', "", good]
    cases.write_text("\n".join(lines))
    out = tmp_path / "out.jsonl"
    code, output = _run(cases, "--out", out)
    assert code == 1
    assert len(out.read_text().splitlines()) == 2
    for number in (2, 3, 4, 5, 6):
        assert f"cases.jsonl:{number}:" in output
    assert "reference" in output.split(":4:")[1].splitlines()[0]


def test_bad_usage(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text("")
    assert _run(tmp_path / "missing.jsonl", "--out", tmp_path / "o")[0] == 2
    assert _run(cases, "--out", tmp_path / "no" / "such" / "folder")[0] == 2
    assert _run(cases, "--out", tmp_path / "o", "--timeout", "-1")[0] == 2
    assert _run(cases)[0] == 2
    assert _run(cases, "--out", tmp_path / "o")[0] == 0
