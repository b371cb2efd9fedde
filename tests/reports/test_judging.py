"""A judge's share of the oracle's gain: the numbers, the intervals, and when it is not shown."""

from __future__ import annotations

import random

import pytest

from heartloop.errors import UsageError
from heartloop.reports.judging import Figure, judge_figures

pytest.importorskip("scipy", reason="the extra [report] is not installed")


def drawn(count: int, seed: int, keeps: float = 0.6) -> tuple[list[bool], list[list[bool]]]:
    """Problems with their own chances; the judge finds a right candidate with chance ``keeps``."""
    rng = random.Random(seed)
    candidates, chosen = [], []
    for _ in range(count):
        chance = rng.betavariate(1, 1)
        row = [rng.random() < chance for _ in range(5)]
        candidates.append(row)
        chosen.append(all(row) or (any(row) and rng.random() < keeps))
    return chosen, candidates


def test_the_share_is_what_was_kept_of_what_could_be() -> None:
    candidates = [[False, True], [False, True], [False, True], [True, True], [False, False]] * 20
    chosen = [True, True, False, True, False] * 20
    found = judge_figures(chosen, candidates)
    assert (found.first.value, found.oracle.value, found.accuracy.value) == (0.2, 0.8, 0.6)
    assert found.share is not None
    assert found.share.value == pytest.approx(2 / 3)
    assert found.share.low < 2 / 3 < found.share.high
    assert found.gain.value == pytest.approx(0.4)
    assert found.mixed == 60
    assert found.mixed_accuracy is not None
    assert found.mixed_random is not None
    assert found.mixed_accuracy.value == pytest.approx(2 / 3)
    assert found.mixed_random.value == pytest.approx(0.5)


def test_judges_at_the_ends_keep_all_nothing_or_less() -> None:
    _, candidates = drawn(100, 1)
    for chosen, expected in (([any(row) for row in candidates], 1.0), ([row[0] for row in candidates], 0.0)):
        found = judge_figures(chosen, candidates)
        assert found.share == Figure(expected, expected, expected)
    worst = judge_figures([all(row) for row in candidates], candidates)
    assert worst.share is not None
    assert worst.share.high < 0


def test_a_share_without_room_is_not_shown_and_says_why() -> None:
    candidates = [[True, True]] * 30 + [[False, True]]
    found = judge_figures([True] * 31, candidates)
    assert found.share is None
    assert "touches 0" in found.share_why
    everything = judge_figures([True] * 9, [[True]] * 9)
    assert everything.share is None
    assert (everything.mixed, everything.mixed_accuracy, everything.mixed_gain) == (0, None, None)


def test_rows_of_one_problem_are_no_further_problems() -> None:
    chosen, candidates = drawn(40, 2)
    alone = judge_figures(chosen, candidates)
    often = judge_figures(chosen * 5, candidates * 5, clusters=list(range(40)) * 5)
    naive = judge_figures(chosen * 5, candidates * 5)
    assert often.clusters == 40
    assert often.share == alone.share
    assert naive.accuracy.high - naive.accuracy.low < 0.6 * (alone.accuracy.high - alone.accuracy.low)


def test_intervals_cover() -> None:
    truth = judge_figures(*drawn(40_000, 99), draws=10)
    assert truth.share is not None
    covered = 0
    for seed in range(120):
        found = judge_figures(*drawn(60, seed), draws=300, seed=seed)
        assert found.share is not None
        covered += found.share.low <= truth.share.value <= found.share.high
    assert 106 <= covered <= 120  # 0.95 of 120, less three standard errors


@pytest.mark.parametrize(
    ("chosen", "candidates"), [([], []), ([True], []), ([True], [[]]), ([True], [[True], [False]])]
)
def test_rows_that_do_not_fit_are_refused(chosen: list[bool], candidates: list[list[bool]]) -> None:
    with pytest.raises(UsageError, match="at least one candidate"):
        judge_figures(chosen, candidates)
