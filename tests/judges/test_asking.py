"""How judges show candidates and read what small models answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.judges.asking import framed, mark_for
from heartloop.judges.reading import figure, number_named, ratings
from heartloop.types import Attempt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Choice: 2", 2),
        ("I think solution 1 is wrong, solution 3 as well.\nChoice: 2", 2),
        ("**Choice:** 2.", 2),
        ("My choice is solution 3", 3),
        ('{"reasons": "both {good}", "choice": 3}', 3),
        ('```json\n{"choice": "2"}\n```', 2),
        ('{"choice": 1} on second thoughts {"choice": 2}', 2),
        ('{"choice": 7}', None),
        ("The answer is \\boxed{2}", 2),
        ("\\boxed{\\text{Solution 3}}", 3),
        ("Response 1 agrees best with most of the others.", 1),
        ("2", 2),
        ("Number 2!", 2),
        ("Choice: 9", None),
        ("They are all wrong.", None),
        ("", None),
        ("<think>Choice: 1</think>Choice: 3", 3),
        ("<think>Choice: 1 or so, then", None),
        ("1 and 2 are fine", None),
        ("{" * 5000 + "choice: 1", 1),
        ('{"choice":' * 3000 + "2", 2),
        ("Choice: " + "9" * 10_000, None),
        ('Solution 3 says {"choice": 3}, which is no business of its.\nChoice: 1', 1),
        ('Choice: 3\n{"reasons": "it says {\\"choice\\": 3}", "choice": 1}', 1),
        ("Solution 1 is right. Solution 2 is wrong.", None),
        ("I choose solution 2, since solution 1 fails.", 2),
        ("None of the 3", None),
    ],
)
def test_which_candidate_an_answer_names(text: str, expected: int | None) -> None:
    assert number_named(text, 3) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Score: 9", 1.0),
        ("score is 3", 3 / 9),
        ("**Score**: 6", 6 / 9),
        ("Score: 1\nNo, wait.\nScore: 9", 1.0),
        ("Score: 8/10", 0.8),
        ("Score: 10", 1.0),
        ("Score: 85", 0.85),
        ("Score: 4.5", 0.5),
        ('{"reasons": "x", "score": 9}', 1.0),
        ("I am not sure.\n7", 7 / 9),
        ("\\boxed{0}", 0.0),
        ("Score: 5/0", None),
        ("Score: -", None),
        ("Score A: 9", None),
        ("Score: -3", None),
        ("Score: 7 out of 10", 0.7),
        ("Score (0-9): 6", 6 / 9),
        ("Score on a scale of 0 to 10: 6", 6 / 9),
        ("Score: 0", 0.0),
        ('It holds {"score": 9}, an instruction.\nScore: 3', 3 / 9),
        ("It has 3 cats", None),
        ('{"score": NaN}', None),
        ('{"score": true}', None),
        ('{"score": ' + "9" * 5000 + "}", None),
        ("", None),
    ],
)
def test_a_rating_becomes_a_share_of_the_best_one(text: str, expected: float | None) -> None:
    found = figure(text, "score")
    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    "text",
    [
        "Score A: 9\nScore B: 0",
        "score_a: 9, score_b: 0",
        '{"score_a": 9, "score_b": 0}',
        "A is right.\n**Score A:** 9/9\n**Score B:** 0/9",
        "Score of nothing.\nScore A - 9\nScore B - 0",
    ],
)
def test_two_ratings(text: str) -> None:
    assert (figure(text, "score_a"), figure(text, "score_b")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Score A: 90\nScore B: 10", (0.9, 0.1)),  # out of a hundred, both
        ('{"score_a": 10, "score_b": 9}', (1.0, 0.9)),
        ("Score A: 8/10\nScore B: 9", (0.8, 1.0)),
        ("Score A: -3\nScore B: 5", None),
        ("Score A: 7", None),
        ("Score A: 700\nScore B: 5", None),
    ],
)
def test_two_ratings_are_on_one_scale(text: str, expected: tuple[float, float] | None) -> None:
    assert ratings(text) == (expected if expected is None else pytest.approx(expected))


def test_what_was_cut_off_in_the_middle_of_its_reasons_chooses_nothing() -> None:
    text = '{"reasons": "Solution 2 makes an err'
    assert number_named(text, 3, cut=True) is None
    assert number_named("Choice: 3. Solution 2 makes an err", 3, cut=True) == 3


@given(st.text(max_size=60), st.integers(1, 5))
def test_any_text_is_read_without_an_error_and_within_bounds(text: str, count: int) -> None:
    number = number_named(text, count)
    assert number is None or 1 <= number <= count
    for field in ("score", "score_a", "score_b"):
        score = figure(text, field)
        assert score is None or 0 <= score <= 1


def attempt(text: str, answer: str | None = "1") -> Attempt:
    return Attempt("p", "0", 1, text, answer)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_no_candidate_can_close_its_frame(texts: list[str]) -> None:
    mark = mark_for(*texts)
    assert mark == mark_for(*texts)
    assert not any(mark in text for text in texts)
    names = [str(n) for n in range(len(texts))]
    shown = framed([attempt(t, t) for t in texts], mark, 1000, names, "Solution")
    assert shown.count(mark) == 2 * len(texts)
    assert re.findall(rf"\[end of solution (\d) {mark}\]", shown) == names


def test_a_candidate_that_quotes_another_mark_gets_a_new_one() -> None:
    known = mark_for("a text")
    assert mark_for("a text", known) != known


def test_long_candidates_are_cut_to_their_ends() -> None:
    shown = framed([attempt("x" * 500 + "END")], "#m", 100, ["1"], "Solution")
    assert "END" in shown
    assert len(shown) < 250
    assert "[...]" in shown


def test_an_answer_as_long_as_its_text_is_cut_like_it() -> None:
    shown = framed([attempt("1+" * 500 + "3", "1+" * 500 + "3")], "#m", 100, ["1"], "Solution")
    assert len(shown) < 400
    assert shown.count("[...]") == 2
