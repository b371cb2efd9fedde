"""The bound on what any policy can do, with an oracle and without."""

from __future__ import annotations

import pytest

pytest.importorskip("scipy", reason="the bound needs the extra [report]")

from heartloop.simulation import POPULATIONS
from heartloop.simulation.populations import Group, Population
from heartloop_benchmarks.perf.allocation_bound import bounds
from heartloop_benchmarks.perf.schedulers import compare

ALIKE = Population("alike", "homogeneous", (Group(1.0, 2, 1, spread=0.0),))


def test_a_second_vote_never_changes_the_leader_so_half_is_enough() -> None:
    (bound,) = bounds(ALIKE, rounds=2, shares=(1.0,), oracle=False)
    assert bound.ratio == pytest.approx(0.5, abs=1e-6)
    assert bound.accuracy == pytest.approx(2 / 3, abs=0.01)


def test_three_votes_by_hand() -> None:
    """Where no two wrong answers agree, the third vote matters only if the first two differ."""
    lonely = Population("lonely", "homogeneous", (Group(1.0, 1, 1, spread=0.0, mistakes=0.0),))
    (bound,) = bounds(lonely, rounds=3, shares=(1.0,), oracle=False)
    # With p uniform on [0, 1]: right if the first is, or the first is wrong and the other two are right.
    assert bound.accuracy == pytest.approx(1 / 2 + 1 / 12, abs=0.005)
    # Two votes always, a third with probability 1 - P(both right) = 2/3: 8/3 of 3 votes. Better policies stop
    # one problem in so many after its first vote, and lose accuracy by it.
    assert bound.ratio == pytest.approx(8 / 9, abs=0.01)


def test_an_oracle_saves_what_is_right_already() -> None:
    """Half are always right, half never: a second call goes to the wrong half, and is in vain."""
    halves = Population(
        "halves", "heterogeneous", (Group(0.5, 1, 0, spread=0.0), Group(0.5, 0, 1, spread=0.0))
    )
    (bound,) = bounds(halves, rounds=2, shares=(1.0,))
    assert bound.accuracy == pytest.approx(0.5)
    assert bound.ratio == pytest.approx(1 / 2, abs=1e-6)


def test_two_judged_attempts_by_hand() -> None:
    even = Population("even", "homogeneous", (Group(1.0, 1, 1, spread=0.0, mistakes=0.0),))
    (bound,) = bounds(even, rounds=2, shares=(1.0,))
    # With p uniform on [0, 1]: wrong twice with probability 1/3; the half that is wrong once is asked again.
    assert bound.accuracy == pytest.approx(2 / 3, abs=0.005)
    assert bound.ratio == pytest.approx(1.5 / 2, abs=0.005)


@pytest.mark.parametrize("oracle", [True, False])
def test_adaptive_does_not_beat_it(oracle: bool) -> None:
    population = POPULATIONS["broad"]
    (bound,) = bounds(population, rounds=4, shares=(0.75,), oracle=oracle)
    rows = compare(population, rounds=4, problems=200, seeds=6, oracle=oracle)
    (row,) = [row for row in rows if row.share == 0.75]
    assert row.accuracy == pytest.approx(bound.accuracy, abs=0.04)
    assert row.to_uniform is not None
    assert row.to_uniform > bound.ratio - 0.05
