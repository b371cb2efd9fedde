"""Answers in words: multiple choice, short text, aliases, dates."""

from __future__ import annotations

import pytest

from heartloop_verifiers import Pool, verify

_CITIES = ["London", "Paris", "Rome"]


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("The answer is B.", "B", True),
        ("(B) because A is wrong", "B", True),
        ("The answer is Paris.", "B", True),
        ("I think it's Paris", "B", True),
        ("The answer is London.", "B", False),
        ("The answer is C.", "Rome", True),
        ("The answer is C.", "Paris", False),
        ("Either Paris or Rome", "B", False),
        (r"\boxed{\text{(B) Paris}}", "B", True),
        ("", "B", False),
    ],
)
def test_multiple_choice_by_letter_or_text(prediction: str, reference: str, right: bool, pool: Pool) -> None:
    assert verify(prediction, reference, kind="choice", choices=_CITIES, pool=pool).correct is right


def test_shuffled_options_are_judged_by_the_text(pool: Pool) -> None:
    for options in (["Paris", "Rome", "London"], ["Rome", "London", "Paris"]):
        letter = "ABC"[options.index("Paris")]
        assert verify(f"Answer: {letter}", "Paris", kind="choice", choices=options, pool=pool).correct is True
        other = "ABC"[options.index("Rome")]
        assert verify(f"Answer: {other}", "Paris", kind="choice", choices=options, pool=pool).correct is False


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("The answer is: the Eiffel Tower.", "Eiffel Tower", True),
        ("bill clinton", ["William Clinton", "Bill Clinton"], True),
        ("William Jefferson Clinton", ["William Clinton", "Bill Clinton"], False),
        ("July 4th, 1776", "4 July 1776", True),
        ("1776-07-04", "July 4, 1776", True),
        ("July 5th, 1776", "4 July 1776", False),
        ("José", "Jose", True),
        ("seven", "7", True),
        ("-5", "5", False),
        ("", "x", False),
    ],
)
def test_short_text(prediction: str, reference: str | list[str], right: bool, pool: Pool) -> None:
    assert verify(prediction, reference, kind="text", pool=pool).correct is right
