"""Issue bars, by simulation, smaller than in `python -m heartloop_benchmarks.perf.schedulers`."""

from __future__ import annotations

import pytest

from heartloop.simulation import POPULATIONS
from heartloop_benchmarks.perf.plan_coverage import coverage
from heartloop_benchmarks.perf.schedulers import compare

SIZE = {"rounds": 8, "problems": 120, "seeds": 4}
HETEROGENEOUS = [name for name, population in POPULATIONS.items() if population.kind == "heterogeneous"]
NOT_HALVED = {"many impossible"}
"""Two fifths of its problems use up all their rounds under any policy that does not know them."""


@pytest.mark.parametrize("name", POPULATIONS)
def test_adaptive_never_needs_more_than_uniform_and_far_less_where_problems_differ(name: str) -> None:
    found = {row.share: row for row in compare(POPULATIONS[name], **SIZE)}
    for row in found.values():
        assert row.to_uniform is not None
        assert row.to_uniform <= 1.05, row
    if name in HETEROGENEOUS:
        assert (found[0.75].to_uniform or 9) <= (0.7 if name in NOT_HALVED else 0.6), found[0.75]


@pytest.mark.parametrize("name", ["mixed", "hard ones cost more", "cheap ones impossible", "late"])
def test_nor_much_more_than_breadth_first_which_drops_solved_problems_too(name: str) -> None:
    for row in compare(POPULATIONS[name], **SIZE):
        assert row.to_breadth_first is not None
        assert row.to_breadth_first <= 1.08, row


@pytest.mark.parametrize("name", ["mixed", "broad", "hard ones cost more"])
def test_without_an_oracle_the_votes_of_split_problems_pay_best(name: str) -> None:
    rows = compare(POPULATIONS[name], **SIZE, oracle=False)
    middle = next(row for row in rows if row.share == 0.5)
    assert middle.at_equal_tokens > 0.01, middle
    assert min(row.at_equal_tokens for row in rows) > -0.02


@pytest.mark.parametrize("oracle", [True, False])
def test_the_intervals_of_a_plan_hold_what_the_run_then_reaches(oracle: bool) -> None:
    found = coverage(simulations=24, pilot_problems=40, problems=50, rounds=4, draws=40, oracle=oracle)
    assert 0.8 <= found.share <= 0.98, found
    assert found.width < 0.45, found
